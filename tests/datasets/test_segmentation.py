"""Photographs with label maps: folders as CamVid has them, and generated scenes."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitnet.datasets import DataError, Flip, Loader, load_scenes, load_segmentation
from bitnet.datasets.scenes import CLASSES, VOID
from bitnet.datasets.segmentation import CAMVID

REAL = Path(os.environ.get("BITNET_TEST_DATA", "nowhere"), "camvid")


@pytest.fixture
def folder(tmp_path):
    """Three pictures for training and two for testing, 24 x 16, a label map of 6 classes beside each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        for kind in (split, f"{split}annot"):
            (tmp_path / kind).mkdir()
        for i in range(count):
            labels = rng.integers(0, 6, (4, 6)).repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)
            Image.fromarray(np.stack([labels * 40] * 3, axis=2)).save(tmp_path / split / f"{i}.png")
            Image.fromarray(labels).save(tmp_path / f"{split}annot" / f"{i}.png")
    return tmp_path


def test_pictures_and_their_labels(folder, tmp_path):
    train, test, messages = load_segmentation(folder)
    assert train.images.shape == (3, 16, 24, 3) and test.targets.shape == (2, 16, 24) and train.targets.dtype == np.uint8
    assert (train.classes, train.void) == (CAMVID, 11)
    for data in (train, test):
        np.testing.assert_array_equal(data.images[..., 0], data.targets * 40)
    assert "3 images of 24 x 16 pixels, 11 classes" in messages[0] and len(messages) == 1
    again, _, _ = load_segmentation(folder)  # from the cache
    assert np.array_equal(again.images, train.images) and np.array_equal(again.targets, train.targets)


@pytest.mark.parametrize("size", [(8, 12), (8, 8), (16, 12), (32, 48)])
def test_labels_stay_with_their_pixels_at_any_size(folder, size):
    train, _, _ = load_segmentation(folder, size)
    assert train.images.shape == (3, *size, 3)
    # within the squares of 4 x 4 pixels, where nothing was mixed
    near = np.abs(train.images[..., 0].astype(int) - train.targets.astype(int) * 40) < 20
    assert near.mean() > 0.6 and set(np.unique(train.targets)) <= set(range(6))


def test_own_classes_void_and_palettes(folder):
    (folder / "classes.txt").write_text("zero\none\n\n two\nthree\nfour\n")
    labels = np.asarray(Image.open(folder / "trainannot" / "1.png")).copy()
    labels[:2] = 255
    picture = Image.fromarray(labels).convert("P")
    picture.putdata(labels.ravel().tolist())
    picture.save(folder / "trainannot" / "1.png")
    train, _, _ = load_segmentation(folder)
    assert train.classes == ("zero", "one", "two", "three", "four") and train.void == 5
    assert (train.targets[1, :2] == 5).all() and train.targets.max() == 5  # 5 is the number after the last class: void


def spoil(folder, how):
    annot = folder / "testannot"
    if how == "no folder":
        for path in annot.iterdir():
            path.unlink()
        annot.rmdir()
    elif how == "no pictures":
        for path in (folder / "test").iterdir():
            path.unlink()
    elif how == "a label too few":
        (annot / "1.png").unlink()
    elif how == "a label too many":
        (annot / "7.png").write_bytes((annot / "1.png").read_bytes())
    elif how == "two of a name":
        Image.new("L", (24, 16)).save(annot / "1.bmp")
    elif how == "another size":
        Image.new("L", (24, 17)).save(annot / "1.png")
    elif how == "another number":
        Image.new("L", (24, 16), 12).save(annot / "1.png")
    elif how == "colours":
        Image.new("RGB", (24, 16)).save(annot / "1.png")
    elif how == "no picture":
        (annot / "1.png").write_text("labels")
    elif how == "one class":
        (folder / "classes.txt").write_text("all\n")
    elif how == "other bytes":
        (folder / "classes.txt").write_bytes(b"\xff\xfe\n")


@pytest.mark.parametrize("how, message", [
    ("no folder", "testannot: expected a folder of pictures, found no such folder"),
    ("no pictures", r"test: expected pictures .* found an empty folder"),
    ("a label too few", "testannot: expected a picture for each of test, found none of the name 1"),
    ("a label too many", "test: expected a picture for each of testannot, found none of the name 7"),
    ("two of a name", "expected one picture of that name, found 1.bmp, too"),
    ("another size", r"1.png: expected labels of 24 x 16 pixels, as 1.png has, found 24 x 17"),
    ("another number", r"1.png: expected pixels of 0 to 10, 11 \(void\) or 255 \(void\), found 12"),
    ("colours", "expected labels as numbers, grey or of a palette, found colours of mode RGB"),
    ("no picture", "expected a picture of labels that Pillow can read"),
    ("one class", "expected the names of 2 to 254 classes, a line each, found 1 lines"),
    ("other bytes", "in UTF-8"),
])
def test_folders_that_cannot_be_used(folder, how, message):
    spoil(folder, how)
    with pytest.raises(DataError, match=message):
        load_segmentation(folder)


@pytest.mark.skipif(not REAL.is_dir(), reason="BITNET_TEST_DATA has no camvid")
def test_camvid(tmp_path):
    for split in ("train", "val"):
        for kind in (split, f"{split}annot"):
            (tmp_path / kind).mkdir()
            for path in sorted((REAL / kind).iterdir())[:8]:
                (tmp_path / kind / path.name).symlink_to(path)
    train, val, _ = load_segmentation(tmp_path, (48, 64), test="val")
    assert train.images.shape == (8, 48, 64, 3) and val.targets.shape == (8, 48, 64)
    upper, lower = train.targets[:, :16], train.targets[:, -16:]
    for name, here, there in (("road", lower, upper), ("sky", upper, lower)):
        assert (here == CAMVID.index(name)).mean() > 0.1 > (there == CAMVID.index(name)).mean()
    sky, road = (train.images[train.targets == CAMVID.index(name)].mean() for name in ("sky", "road"))
    assert sky > road + 30


def test_scenes_depend_on_their_number_alone():
    few, many = load_scenes("train", 2, (32, 48)), load_scenes("train", 4, (32, 48))
    assert np.array_equal(few.images, many.images[:2]) and np.array_equal(few.targets, many.targets[:2])
    assert many.generated and many.classes == CLASSES and many.void == VOID and "generated" in many.name
    other = [load_scenes("test", 2, (32, 48)), load_scenes("train", 2, (32, 48), seed=1)]
    assert not any(np.array_equal(few.targets, one.targets) for one in other)


def test_scenes_have_all_classes_and_colours_that_go_with_them():
    scenes = load_scenes("train", 30, (48, 64))
    share = np.bincount(scenes.targets.ravel(), minlength=VOID + 1) / scenes.targets.size
    assert (share > 0.002).all() and share[VOID] < 0.1
    assert share[0] > share[VOID] < share[2]
    dark, bright = (scenes.images[scenes.targets == label].mean() for label in (2, 0))
    assert dark < bright - 40  # roads, sky


@pytest.mark.parametrize("options", [("val", 1), ("train", 0), ("train", 1, (8, 64)), ("train", 1, (32, 32), -1)])
def test_scenes_that_there_are_not(options):
    with pytest.raises(DataError, match="generated scene"):
        load_scenes(*options)


def test_images_are_mirrored_with_their_labels():
    scenes = load_scenes("train", 10, (16, 24))
    seen = []
    for batch in Loader(scenes, 5, seed=3, augment=Flip()).epoch(0):
        assert batch.images.dtype == np.uint8
        for image, targets, index in zip(batch.images, batch.targets, batch.indices, strict=True):
            mirrored = not np.array_equal(image, scenes.images[index])
            way = slice(None, None, -1 if mirrored else 1)
            np.testing.assert_array_equal(image, scenes.images[index][:, way])
            np.testing.assert_array_equal(targets, scenes.targets[index][:, way])
            seen.append(mirrored)
    assert 0 < sum(seen) < 10
    late = list(Loader(scenes, 5, seed=3, augment=Flip()).epoch(0, start_step=1))
    assert np.array_equal(late[0].images, batch.images) and np.array_equal(late[0].targets, batch.targets)
