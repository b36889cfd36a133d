"""Folders of images: classes in the order of the alphabet, pictures of any mode and size."""

import pytest
from PIL import Image

from bitnet.datasets import DataError, load


@pytest.fixture
def folder(tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        for brightness, name in ((40, "dark"), (220, "bright")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                mode = ("RGB", "L", "CMYK", "RGBA")[i % 4]
                Image.new("RGB", (30 + i, 20), (brightness,) * 3).convert(mode).save(
                    tmp_path / split / name / f"{i}.{'jpg' if mode == 'CMYK' else 'png'}")
    (tmp_path / "train" / "dark" / ".DS_Store").write_bytes(b"junk")
    return tmp_path


def test_classes_and_pictures(folder, tmp_path):
    train, test = load("folder", folder, size=16, cache_dir=tmp_path / "cache")
    assert train.classes == test.classes == ("bright", "dark")
    assert train.images.shape == (8, 16, 16, 3) and len(test) == 4
    for image, target in zip(train.images, train.targets, strict=True):
        assert abs(float(image.mean()) - (220, 40)[target]) < 12


def test_a_folder_without_classes_is_one_sentence(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="expected"):
        load("folder", tmp_path, size=16, cache_dir=tmp_path / "cache")
