"""What is kept for later: counted, and removed without touching anything else."""

import pytest

from bitnet.report import caches


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("BITNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    return tmp_path


def write(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path


def test_counted_and_cleared_and_nothing_else(folders):
    ours = [write(folders / "cache" / "mnist-train-0123456789abcdef.images", 700),
            write(folders / "cache" / "kernel-times-0123456789abcdef.json", 20),
            write(folders / "numba" / "0123456789abcdef" / "popcount._forward-1.aa.nbc", 3),
            write(folders / "numba" / "fedcba9876543210" / "of_before.nbc", 1)]
    others = [write(folders / "cache" / "thesis.json", 5), write(folders / "cache" / "photos" / "a-b.images", 5),
              write(folders / "numba" / "someone" / "else.nbc", 5), write(ours[2].parent / "note.txt", 5)]
    (folders / "numba" / "aaaaaaaaaaaaaaaa").symlink_to(write(folders / "elsewhere" / "x.nbc", 5).parent)
    found = caches.kept()
    assert [(one.kind, len(one.files), one.size) for one in found] == [("images", 1, 700), ("times", 1, 20), ("kernels", 2, 4)]
    assert all(str(one.folder) in caches.describe(found) for one in found)
    assert caches.clear(found) == 724
    assert not any(path.exists() for path in ours) and not ours[3].parent.exists()
    assert all(path.exists() for path in others) and (folders / "elsewhere" / "x.nbc").exists()
    assert [one.files for one in caches.kept()] == [[], [], []]


def test_nothing_is_kept_yet(folders):
    assert [one.files for one in caches.kept()] == [[], [], []]
    assert caches.clear(caches.kept()) == 0
