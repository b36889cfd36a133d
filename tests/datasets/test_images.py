"""Image files for prediction."""

import numpy as np
import pytest
from PIL import Image

from bitnet.datasets import DataError, load_svhn, prepare_image
from bitnet.datasets.images import resize


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


def save(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.filterwarnings("ignore:.*a subset")
def test_a_crop_becomes_what_training_sees(tmp_path, write_mat):
    images = write_mat(tmp_path)
    digits = load_svhn(tmp_path, "train")
    path = save(tmp_path, Image.fromarray(images[4]))
    assert np.array_equal(prepare_image(path), digits.images[4])
    assert np.array_equal(prepare_image(str(path)), digits.images[4])


def test_larger_pictures_go_through_32(tmp_path):
    large = Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 90, 3), np.uint8))
    expected = large.resize((32, 32), Image.Resampling.BICUBIC).resize((40, 40), Image.Resampling.BILINEAR)
    assert np.array_equal(prepare_image(save(tmp_path, large)), expected)


def test_prepared_pictures_stay(tmp_path, picture):
    prepared = resize(picture[None], 40)[0]
    assert np.array_equal(prepare_image(save(tmp_path, Image.fromarray(prepared))), prepared)
    assert np.array_equal(prepare_image(save(tmp_path, Image.fromarray(picture)), size=32), picture)


def test_nothing_is_stretched(tmp_path):
    tall = np.zeros((64, 20, 3), np.uint8)
    tall[:, :, 0] = 50
    tall[24:40, 2:18, 1] = 255  # a square of 16 x 16, a quarter of the height
    green = prepare_image(save(tmp_path, Image.fromarray(tall)))[..., 1] > 127
    assert green.any(0).sum() == green.any(1).sum() == 10
    assert np.array_equal(green, green[:, ::-1])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"])
def test_any_mode(tmp_path, mode):
    grey = np.tile(np.where(np.arange(40) < 20, 0, 255).astype(np.uint8), (40, 1))
    if mode in ("I", "I;16"):
        image = Image.fromarray(np.where(grey, 65535, 0).astype({"I": np.int32, "I;16": np.uint16}[mode]))
    elif mode == "F":
        image = Image.fromarray((grey / 255).astype(np.float32))
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    assert image.mode == mode
    path = save(tmp_path, image, "a.tif" if mode in ("F", "I", "CMYK", "YCbCr") else "a.png")
    pixels = prepare_image(path)
    assert pixels.shape == (40, 40, 3) and pixels.dtype == np.uint8
    assert pixels[:, :18].max() <= 2 and pixels[:, 22:].min() >= 253


def test_transparency_lies_on_white(tmp_path):
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    assert prepare_image(save(tmp_path, image)).min() == 255


def test_exif_orientation(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    path = save(tmp_path, Image.fromarray(picture), exif=exif)
    turned = save(tmp_path, Image.fromarray(np.rot90(picture, -1).copy()), "b.png")
    assert np.array_equal(prepare_image(path), prepare_image(turned))


def test_not_an_image(tmp_path, picture):
    with pytest.raises(DataError, match="expected an image file, found nothing"):
        prepare_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="expected an image file, found a folder"):
        prepare_image(tmp_path)
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    whole = save(tmp_path, Image.fromarray(picture)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:500])
    for name in ("text.png", "empty.png", "cut.png"):
        with pytest.raises(DataError, match=f"{name}: expected an image that Pillow can read"):
            prepare_image(tmp_path / name)
