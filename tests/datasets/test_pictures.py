"""Pictures on demand: every kind of file, the crops' geometry and colours, and the same bits whoever decodes."""

import os

import numpy as np
import pytest
from PIL import Image

from bitnet.datasets import (
    CropAugmentation,
    DataError,
    Dataset,
    Loader,
    Pictures,
    centre_crop,
    load_folder,
    load_test,
    prepare_for,
)
from bitnet.datasets.crops import EIGENVALUES, EIGENVECTORS, GREY

PLAIN = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "lighting": 0.0, "flip": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """train/CLASS and a flat val: grey, CMYK and palette pictures, and a PNG that is called .JPEG."""
    root = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for name, level in (("n02", 200), ("n01", 40)):
        (root / "train" / name).mkdir(parents=True)
        for i, mode in enumerate(("RGB", "L", "CMYK", "P", "RGB", "RGB", "RGB", "RGB", "RGB", "RGB")):
            pixels = (level + rng.integers(0, 50, (30 + 3 * i, 45 - 2 * i, 3))).astype(np.uint8)
            path = root / "train" / name / f"{name}_{i}.JPEG"
            Image.fromarray(pixels).convert(mode).save(path, "PNG" if mode == "P" else "JPEG")
    (root / "val").mkdir()
    for i in range(5):
        Image.fromarray(np.full((40, 50, 3), 40 + 160 * (i % 2), np.uint8)).save(root / "val" / f"ILSVRC2012_val_{i}.JPEG")
    (root / "val.txt").write_text("".join(f"ILSVRC2012_val_{i}.JPEG {i % 2}\n" for i in range(5)))
    return root


def test_a_folder_with_a_flat_val(folder):
    train, test, messages = load_folder(folder, 24, on_demand=True, workers=0)
    assert train.classes == ("n01", "n02") and len(train) == 20 and train.shape == (24, 24, 3) and train.kind == "crop"
    assert test.targets.tolist() == [0, 1, 0, 1, 0] and len(messages) == 1
    for data in (train, test):
        for image, target in zip(data.images.take(range(len(data))), data.targets, strict=True):
            assert image.dtype == np.uint8 and abs(float(image.mean()) - (55, 215)[target]) < 25
    np.testing.assert_array_equal(train.images[2:5], [train.images[i] for i in (2, 3, 4)])
    np.testing.assert_array_equal(prepare_for(train.images.paths[2], "crop", train.shape), train.images[2])


def test_a_network_is_tested_as_it_was_trained(folder):
    found, _ = load_test(folder, (24, 24, 3), prepared="crop")
    np.testing.assert_array_equal(found.images[:5], load_folder(folder, 24, on_demand=True, workers=0)[1].images[:5])
    assert found.kind == "crop"


def test_folders_of_val_come_before_a_list(folder, tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir()
            Image.new("RGB", (30, 30)).save(tmp_path / split / name / "x.png")
    (tmp_path / "val.txt").write_text("nothing of the kind")
    assert load_folder(tmp_path, 16, on_demand=True)[1].targets.tolist() == [0, 1]


@pytest.mark.parametrize("text, message", [
    ("ILSVRC2012_val_0.JPEG 2\n", "line 1: expected a picture's name and one of 2 classes"),
    ("\n../train/x.jpg 0\n", "line 2: expected a picture's name"),
    ("none.JPEG n01\n", "line 1: expected a picture in .* none of the name none.JPEG"),
    ("", "expected a line for each picture"),
])
def test_lists_of_labels_that_are_none(folder, tmp_path, text, message):
    for part in ("train", "val"):
        os.symlink(folder / part, tmp_path / part)
    (tmp_path / "val.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        load_folder(tmp_path, 24, on_demand=True)


def test_a_broken_picture_is_named(folder, tmp_path):
    (tmp_path / "a.JPEG").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.JPEG: expected an image"):
        Pictures([tmp_path / "a.JPEG"], 24, workers=0)[0]


def test_any_number_of_workers_gives_the_same_bits(folder):
    batches = []
    for workers in (0, 1):
        train, _, _ = load_folder(folder, 24, on_demand=True, workers=workers)
        loader = Loader(train, 10, seed=5, augment=CropAugmentation())
        batches.append([batch.images for epoch in (0, 1) for batch in loader.epoch(epoch)])
        late = [batch.images for batch in loader.epoch(1, start_step=1)]
        np.testing.assert_array_equal(late, batches[-1][3:])
    np.testing.assert_array_equal(*batches)
    assert batches[0][0].dtype == np.uint8 and not np.array_equal(batches[0][0], batches[0][2])


def test_the_middle():
    picture = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8)[:, None, None], (1, 100, 3)))
    found = centre_crop(picture, 56)  # the shorter edge, 100, becomes 64
    assert found.shape == (56, 56, 3)
    np.testing.assert_allclose(found[:, 0, 0], 100 + (np.arange(56) - 27.5) * 100 / 64 - 0.5, atol=1)
    np.testing.assert_array_equal(centre_crop(Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)), 4, 4),
                                  np.arange(48).reshape(4, 4, 3))


def test_crops_have_the_shape_that_was_drawn():
    # a picture that tells its own coordinates: red grows to the right, green downwards
    x, y = np.meshgrid(np.arange(240), np.arange(200))
    picture = Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))
    augment, shares, aspects = CropAugmentation(**PLAIN), [], []
    for seed in range(300):
        found = augment.of(picture, 32, seed).astype(float)
        width, height = (np.ptp(found[..., 0]) + 1) * 32 / 31, (np.ptp(found[..., 1]) + 1) * 32 / 31
        shares.append(width * height / (240 * 200))
        aspects.append(width / height)
    assert 0.06 < min(shares) < 0.12 and 0.85 < max(shares) < 1.08 and abs(np.mean(shares) - 0.5) < 0.08
    assert 0.7 < min(aspects) < 0.8 and 1.25 < max(aspects) < 1.42
    assert np.array_equal(augment.of(picture, 32, 7), augment.of(picture, 32, 7))


def test_a_picture_too_narrow_for_any_crop_gives_its_middle():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 4, 3)).astype(np.uint8))
    wide = CropAugmentation(area=(0.9, 1.0), **PLAIN)
    np.testing.assert_array_equal(wide.of(picture, 16, 0), centre_crop(picture, 16, 16))


@pytest.mark.parametrize("which", ["brightness", "contrast", "saturation", "lighting", "flip"])
def test_colours_by_their_formulas(which):
    pixels = np.random.default_rng(0).integers(90, 160, (16, 16, 3)).astype(np.uint8)
    x, grey = pixels.astype(float), pixels @ GREY.astype(float)
    whole = CropAugmentation(area=(1.0, 1.0), aspect=(1.0, 1.0), **PLAIN | {which: 1.0 if which == "flip" else 0.3})
    found = whole.of(Image.fromarray(pixels), 16, 3).astype(float)
    if which == "flip":
        np.testing.assert_array_equal(found, x[:, ::-1])
        return
    bases = {"brightness": x, "contrast": x - grey.mean(), "saturation": x - grey[..., None]}
    if which == "lighting":
        steps = (found - x).reshape(-1, 3).mean(axis=0)
        weights = np.linalg.solve(255 * EIGENVECTORS * EIGENVALUES, steps + 0.5)
        assert np.ptp((found - x).reshape(-1, 3), axis=0).max() <= 1 and 0 < np.abs(weights[0]) < 1.2
        return
    base = bases[which]
    gain = ((found + 0.5 - x) * base).sum() / (base * base).sum()
    assert 0.005 < abs(gain) <= 0.3
    np.testing.assert_allclose(found + 0.5, x + gain * base, atol=0.75)


def test_crops_of_arrays():
    images = np.random.default_rng(0).integers(0, 256, (12, 20, 20, 3)).astype(np.uint8)
    data, augment = Dataset(images, np.arange(12) % 3, ("a", "b", "c"), "noise"), CropAugmentation()
    (batch,) = Loader(data, 12, augment=augment).epoch(0)
    assert batch.images.shape == images.shape and batch.images.dtype == np.uint8
    (same,) = Loader(data, 12, augment=augment).epoch(0)
    np.testing.assert_array_equal(batch.images, same.images)


def test_photographs_of_imagenet():
    root = os.environ.get("BITNET_TEST_DATA")
    if not root or not os.path.isdir(os.path.join(root, "imagenet-samples")):
        pytest.skip("BITNET_TEST_DATA names no folder with imagenet-samples")
    paths = sorted(os.path.join(where, name) for where, _, names in os.walk(os.path.join(root, "imagenet-samples"))
                   for name in names)
    assert len(paths) == 8
    for size in (64, 224):
        middle = Pictures(paths, size, workers=0).take(range(8))
        cropped = Pictures(paths, size, workers=0).decoded(range(8), CropAugmentation(), range(8))
        assert middle.shape == cropped.shape == (8, size, size, 3)
        assert all(20 < image.mean() < 240 and image.std() > 10 for image in (*middle, *cropped))
