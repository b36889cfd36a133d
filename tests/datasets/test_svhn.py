"""SVHN in both formats: exact pixels and labels, and one clear sentence for everything that can be wrong."""

import os
import re
import shutil

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from bitnet.datasets import DataError, digit_crops, load_svhn, svhn

pytestmark = pytest.mark.filterwarnings("ignore:.*a subset or a modified file", "ignore:.*SVHN format 1")


def fails(folder, split="train", *, match):
    with pytest.raises(DataError, match=match) as caught:
        load_svhn(folder, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- format 2 ------------------------------------------------------------------------------------------------------


def test_pixels_and_labels_are_exact(tmp_path, write_mat):
    images = write_mat(tmp_path)
    digits = load_svhn(tmp_path, "train", size=32)
    assert np.array_equal(digits.images, images)
    assert digits.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 3  # 10 means 0
    assert digits.labels.dtype == np.uint8 and digits.images.dtype == np.uint8
    assert digits.name == "SVHN train (subset of 30)" and not digits.generated and len(digits) == 30


def test_resized_as_pillow_does(tmp_path, write_mat):
    images = write_mat(tmp_path)
    digits = load_svhn(tmp_path, "train")
    assert digits.images.shape == (30, 40, 40, 3)
    expected = Image.fromarray(images[7]).resize((40, 40), Image.Resampling.BILINEAR)
    assert np.array_equal(digits.images[7], expected)


def test_chunks_join_without_a_seam(tmp_path, write_mat, monkeypatch):
    monkeypatch.setattr(svhn, "_CHUNK", 7)
    images = write_mat(tmp_path)
    assert np.array_equal(load_svhn(tmp_path, "train", size=32).images, images)


def test_a_subset_is_a_warning_a_known_file_is_none(tmp_path, write_mat, monkeypatch, recwarn):
    write_mat(tmp_path)
    with pytest.warns(UserWarning, match=r"train_32x32.mat: a subset .*: 30 images, not the official 73,257"):
        load_svhn(tmp_path, "train")
    md5 = svhn._Format2(tmp_path / "train_32x32.mat", "train").md5
    monkeypatch.setitem(svhn.OFFICIAL, "train", (md5, 30, 1))
    recwarn.clear()
    # the cache knows the file as a subset; another size is prepared anew
    assert load_svhn(tmp_path, "train", size=32).name == "SVHN train"
    assert not recwarn.list


def test_more_images_than_official_are_modified(tmp_path, write_mat, monkeypatch):
    monkeypatch.setitem(svhn.OFFICIAL, "train", ("0" * 32, 29, 1))
    write_mat(tmp_path)
    assert load_svhn(tmp_path, "train").name == "SVHN train (modified, 30)"


def test_missing(tmp_path):
    assert fails(tmp_path / "none", match="no such folder").startswith(f"{tmp_path / 'none'}: expected train_32x32.mat")
    fails(tmp_path, match=r"expected train_32x32.mat .* or train/digitStruct.mat .*, found an empty folder")
    for name in "abcdefg":
        (tmp_path / name).touch()
    fails(tmp_path, match="found a, b, c, d, e and 2 more")
    fails(tmp_path / "a", match="found a file")
    fails(tmp_path, "validation", match="expected the split train, test or extra, found 'validation'")


def test_truncated_and_junk(tmp_path, write_mat):
    write_mat(tmp_path)
    path = tmp_path / "train_32x32.mat"
    whole = path.read_bytes()
    for cut in (0, 10, 127, 128, 200, len(whole) // 2, len(whole) - 60):
        path.write_bytes(whole[:cut])
        # cut between two variables it is a sound file that lacks some
        fails(tmp_path, match=f"train_32x32.mat: expected (a MATLAB file.* {cut:,} bytes|the variables X and y)")
    path.write_bytes(b"<html>404</html>" * 100)
    fails(tmp_path, match="found 1,600 bytes that SciPy cannot read")
    path.write_bytes(b"")
    with h5py.File(path, "w") as file:
        file["X"] = np.zeros(3)
    fails(tmp_path, match="expected a MATLAB file")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"drop": ["X"]}, "expected the variables X and y, found y"),
        ({"drop": ["y"]}, "expected the variables X and y, found X"),
        ({"drop": ["X", "y"], "z": [1]}, "expected the variables X and y, found z"),
        ({"X": np.zeros((32, 32, 3, 30))}, r"expected X as uint8 \(32, 32, 3, N\), found float64 \(32, 32, 3, 30\)"),
        ({"X": np.zeros((30, 32, 32, 3), np.uint8)}, r"found uint8 \(30, 32, 32, 3\)"),
        ({"X": np.zeros((32, 32, 3), np.uint8)}, r"found uint8 \(32, 32, 3\)"),
        ({"X": np.zeros((32, 32, 3, 0), np.uint8)}, r"found uint8 \(32, 32, 3, 0\)"),
        ({"y": np.ones((1, 30))}, r"expected y as numbers \(N, 1\), found float64 \(1, 30\)"),
        ({"y": np.array(["a"] * 30)[:, None]}, r"expected y as numbers"),
        ({"y": np.ones((29, 1))}, "expected one label for each of 30 images, found 29"),
        ({"y": np.arange(30)[:, None]}, r"expected labels 1..10 \(10 means 0\), found 0 at index 0"),
        ({"y": np.arange(1, 31)[:, None]}, "found 11 at index 10"),
        ({"y": np.full((30, 1), 1.5)}, "found 1.5 at index 0"),
        ({"y": np.full((30, 1), np.nan)}, "found nan at index 0"),
    ],
)
def test_wrong_content(tmp_path, write_mat, change, match):
    write_mat(tmp_path, **change)
    message = fails(tmp_path, match=match)
    assert message.startswith(str(tmp_path / "train_32x32.mat"))


def test_labels_of_any_number_type(tmp_path, write_mat):
    for dtype in (np.float64, np.int32, np.uint8):
        write_mat(tmp_path, y=np.array([[10], [1], [9]], dtype), count=3)
        assert load_svhn(tmp_path, "train").labels.tolist() == [0, 1, 9]


def test_genuine_subset(genuine):
    folder = genuine / "svhn-subset"
    raw = scipy.io.loadmat(folder / "test_32x32.mat")
    digits = load_svhn(folder, "test", size=32)
    assert digits.name == "SVHN test (subset of 1,083)"
    for i in (0, 1, 500, 1082):
        assert np.array_equal(digits.images[i], raw["X"][..., i])
        assert digits.labels[i] == raw["y"][i, 0] % 10
    assert np.bincount(digits.labels)[[0, 1]].tolist() == [(raw["y"] == 10).sum(), (raw["y"] == 1).sum()]


# --- format 1 ------------------------------------------------------------------------------------------------------


@pytest.fixture
def street(tmp_path, write_struct, write_photograph):
    """Three entries, of which the last has no photograph."""
    entries = [
        ("1.png", [(10, 5, 20, 32, 1), (28, 5, 21, 32, 10)]),
        ("2.png", [(4, 4, 30, 12, 7)]),
        ("3.png", [(0, 0, 5, 5, 2)]),
    ]
    write_struct(tmp_path, "train", entries)
    return tmp_path, [write_photograph(tmp_path, "train", f"{i}.png", seed=i) for i in (1, 2)], entries


def test_format1_crops_are_squares_of_the_photograph(street):
    folder, photographs, _ = street
    images, labels, messages = digit_crops(folder, "train")
    assert labels.tolist() == [1, 0, 7] and labels.dtype == np.uint8
    assert images.shape == (3, 32, 32, 3) and images.dtype == np.uint8
    # 20 x 32 at (10, 5) -> 32 x 32 at (4, 5): cut only, not resized
    assert np.array_equal(images[0], photographs[0][5:37, 4:36])
    # 21 wide: half a pixel rounds up, 28 + 10.5 - 16 = 22.5 -> 23
    assert np.array_equal(images[1], photographs[0][5:37, 23:55])
    # 30 x 12 at (4, 4) -> 30 x 30 at (4, -5): above the picture its first row is repeated
    square = np.concatenate([np.repeat(photographs[1][:1, 4:34], 5, 0), photographs[1][:25, 4:34]])
    expected = Image.fromarray(square).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(images[2], expected)
    assert messages == [
        "train/digitStruct.mat (SVHN format 1): 3 digits from 2 photographs, "
        "1 entries skipped because theirs are absent"
    ]


def test_format1_is_loaded_and_told_from_the_cache_too(street):
    folder, _, _ = street
    for _ in range(2):
        with pytest.warns(UserWarning, match="3 digits from 2 photographs, 1 entries skipped"):
            digits = load_svhn(folder, "train")
    assert digits.images.shape == (3, 40, 40, 3) and digits.name == "SVHN train (subset of 3)"


def test_format1_notices_an_added_photograph(street, write_photograph):
    folder, _, _ = street
    assert len(load_svhn(folder, "train")) == 3
    write_photograph(folder, "train", "3.png")
    assert load_svhn(folder, "train").labels.tolist() == [1, 0, 7, 2]


def test_format2_goes_before_format1(street, write_mat):
    folder, _, _ = street
    write_mat(folder, count=12)
    assert len(load_svhn(folder, "train")) == 12


def test_format1_complete(street, monkeypatch):
    monkeypatch.setitem(svhn.OFFICIAL, "train", ("0" * 32, 3, 1))
    assert load_svhn(street[0], "train").name == "SVHN train (format 1)"


def test_format1_errors(street, write_struct):
    folder, _, entries = street
    struct = folder / "train" / "digitStruct.mat"
    with pytest.raises(DataError, match=r"test: expected digitStruct.mat, found no such folder"):
        digit_crops(folder, "test")
    for boxes, match in [
        ([(0, 0, 5, 5, 11)], r"expected labels 1..10 \(10 means 0\), found 11 at index 0"),
        ([(0, 0, 0, 5, 1)], "expected boxes of 1 x 1 pixels or more, found 0 x 5 for 1.png"),
        ([(np.nan, 0, 5, 5, 1)], "not finite"),
        ([(0, 0, 1e9, 5, 1)], "farther than 1,000,000 pixels"),
        ([(1e19, 0, 5, 5, 1)], "farther than 1,000,000 pixels"),
        ([(0, 0, 5, 1e6, 1)], "expected boxes on its 60 x 40 pixels, found 5 x 1000000 at"),
        ([(60, 0, 5, 5, 1)], "expected boxes on its 60 x 40 pixels, found 5 x 5 at"),
    ]:
        write_struct(folder, "train", [("1.png", boxes)])
        fails(folder, match=match)
    write_struct(folder, "train", [("8.png", [(0, 0, 5, 5, 1)])])
    fails(folder, match=r"expected the photographs that digitStruct.mat names \(8.png, ...\), found none of 1")
    write_struct(folder, "train", [])
    fails(folder, match="expected at least one entry")
    with h5py.File(struct, "w") as file:
        file["other"] = [1]
    fails(folder, match="expected HDF5")
    struct.write_bytes(b"junk")
    fails(folder, match="expected HDF5")
    write_struct(folder, "train", entries)
    broken = folder / "train" / "1.png"
    broken.write_bytes(broken.read_bytes()[:300])
    assert re.match(re.escape(str(broken)), fails(folder, match="expected an image that Pillow can read"))


def test_format1_of_genuine_photographs_gives_the_official_crops(genuine):
    # the subset's "train" begins with the official test set, and the other way round
    for split, same in (("test", "train"), ("train", "test")):
        images, labels, messages = digit_crops(genuine / "svhn-format1", split)
        official = load_svhn(genuine / "svhn-subset", same, size=32)
        count = len(labels)
        assert count == {"test": 5, "train": 6}[split] and "skipped" in messages[0]
        assert np.array_equal(labels, official.labels[:count])
        difference = np.abs(images.astype(int) - official.images[:count].astype(int))
        assert difference.mean(axis=(1, 2, 3)).max() < 0.25 and difference.max() <= 8


def test_photographs_replaced_by_others_of_a_jpeg_are_read_anew(tmp_path, write_struct):
    write_struct(tmp_path, "train", [("1.jpg", [(5, 5, 30, 30, 1)])])
    path, seen = tmp_path / "train" / "1.jpg", []
    for shade in (40, 200):
        Image.new("RGB", (50, 50), (shade,) * 3).save(path)
        os.utime(path, ns=(10**18, 10**18))  # as a copy that keeps times leaves it
        seen.append(load_svhn(tmp_path, "train").images.mean())
    assert seen[0] == pytest.approx(40, abs=2) and seen[1] == pytest.approx(200, abs=2)


@pytest.mark.parametrize("name", ["../1.png", "/etc/passwd", "a/1.png", "..", "c:1.png", "..\\1.png"])
def test_photographs_lie_beside_their_list(tmp_path, write_struct, write_photograph, name):
    write_photograph(tmp_path, "train", "1.png")
    write_photograph(tmp_path, ".", "1.png")
    write_struct(tmp_path, "train", [(name, [(5, 5, 30, 30, 1)]), ("1.png", [(5, 5, 30, 30, 1)])])
    with pytest.raises(DataError, match="expected names of files beside it, found"):
        load_svhn(tmp_path, "train")


@pytest.mark.parametrize("lead", ["soft", "external", "elsewhere"])
def test_a_list_of_photographs_leads_nowhere_else(tmp_path, write_struct, write_photograph, lead):
    write_photograph(tmp_path, "train", "1.png")
    write_struct(tmp_path, "train", [("1.png", [(5, 5, 30, 30, 1)])])
    struct = tmp_path / "train" / "digitStruct.mat"
    shutil.copy(struct, tmp_path / "other.mat")
    with h5py.File(struct, "a") as file:
        names = file["digitStruct/name"]
        shape, dtype = names.shape, names.dtype
        del file["digitStruct/name"]
        if lead == "soft":
            file["digitStruct/name"] = h5py.SoftLink("/digitStruct/bbox")
        elif lead == "external":
            file["digitStruct/name"] = h5py.ExternalLink(str(tmp_path / "other.mat"), "digitStruct/name")
        else:
            assert dtype == h5py.ref_dtype
            file.create_dataset("digitStruct/name", shape, np.uint64, external=[(str(tmp_path / "other.mat"), 0, 8)])
    with pytest.raises(DataError, match=r"expected HDF5 .* found otherwise"):
        load_svhn(tmp_path, "train")


def test_a_file_of_version_7_3_is_not_to_be_fetched_again(tmp_path):
    with h5py.File(tmp_path / "train_32x32.mat", "w", userblock_size=512) as file:
        file["X"] = np.zeros((5, 3, 32, 32), np.uint8)
    with open(tmp_path / "train_32x32.mat", "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    with pytest.raises(DataError, match=r"expected a MATLAB file of version 5 .* found version 7.3") as error:
        load_svhn(tmp_path, "train")
    assert "again" not in str(error.value)


def test_the_official_number_of_images_with_another_md5(tmp_path, write_mat, monkeypatch):
    write_mat(tmp_path, count=30)
    monkeypatch.setitem(svhn.OFFICIAL, "train", ("0" * 32, 30, 1))
    with pytest.warns(UserWarning, match=r"a modified file of 30 images, its md5 [0-9a-f]{32} is not the official 0{32}"):
        load_svhn(tmp_path, "train")


def test_a_folder_that_holds_what_systems_leave_is_an_empty_one(tmp_path):
    (tmp_path / ".DS_Store").write_bytes(b"junk")
    with pytest.raises(DataError) as error:
        load_svhn(tmp_path, "train")
    (tmp_path / ".DS_Store").unlink()
    with pytest.raises(DataError) as empty:
        load_svhn(tmp_path, "train")
    assert str(error.value) == str(empty.value)
