"""The cache: memory-mapped, never half-written, never stale."""

import json
import os
import resource
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest

from bitnet.datasets import DataError, load_svhn
from bitnet.datasets import cache as cache_module
from bitnet.datasets.cache import Source, cached

SHAPE = (4, 4, 3)


def build(calls, value=7, count=3, size=4):
    def source():
        calls.append(value)
        chunks = (np.full((1, size, size, 3), value, np.uint8) for _ in range(count))
        return Source((np.arange(count) % 10).astype(np.uint8), chunks, ["a note"])

    return source


def test_built_once_then_mapped(own_cache):
    calls = []
    for _ in range(2):
        images, labels, messages = cached("x", {"a": 1}, build(calls), SHAPE)
        assert isinstance(images, np.memmap) and not images.flags.writeable
        assert images.shape == (3, 4, 4, 3) and (images == 7).all()
        assert labels.tolist() == [0, 1, 2] and messages == ["a note"]
    assert calls == [7]
    assert len(list(own_cache.iterdir())) == 1


def test_another_recipe_size_or_version_is_another_file(own_cache, monkeypatch):
    calls = []
    cached("x", {"a": 1}, build(calls), SHAPE)
    cached("x", {"a": 2}, build(calls), SHAPE)
    cached("x", {"a": 1}, build(calls, size=5), (5, 5, 3))
    monkeypatch.setattr(cache_module, "VERSION", cache_module.VERSION + 1)
    cached("x", {"a": 1}, build(calls), SHAPE)
    assert len(calls) == 4 and len(list(own_cache.iterdir())) == 4


def test_a_changed_source_is_noticed_even_with_the_same_size_and_time(tmp_path, write_mat):
    times = []
    for seed in (0, 1):
        images = write_mat(tmp_path, seed=seed)
        path = tmp_path / "train_32x32.mat"
        os.utime(path, (1e9, 1e9))
        times.append((path.stat().st_size, path.stat().st_mtime))
        with pytest.warns(UserWarning, match="a subset"):
            assert np.array_equal(load_svhn(tmp_path, "train", size=32).images, images)
    assert times[0] == times[1]


@pytest.mark.parametrize("damage", [
    "cut", "empty", "junk", "pipe", "pixel", "label", "notes", "count", "recipe", "tail", "end", "type",
])  # fmt: skip
def test_a_damaged_file_is_built_again(own_cache, damage):
    calls = []
    images, _, _ = cached("x", {}, build(calls, count=300), SHAPE)
    del images
    (file,) = own_cache.iterdir()
    if damage == "cut":
        os.truncate(file, file.stat().st_size - 1000)
    elif damage == "empty":
        os.truncate(file, 0)
    elif damage == "junk":
        file.write_bytes(b"junk" * 1000)
    elif damage == "pipe":
        file.unlink()
        os.mkfifo(file)
    else:
        content = file.read_bytes()
        pixels, tail = 300 * 48, content.index(b'{"recipe"')
        at = {"pixel": pixels // 2, "label": pixels + 5, "notes": content.index(b"a note"), "count": content.index(b"300"),
              "recipe": content.index(b"version"), "tail": tail + 1, "end": len(content) - 16, "type": content.index(b"|u1")}
        at = at[damage]
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])  # one bit of all
    images, labels, messages = cached("x", {}, build(calls, count=300), SHAPE)
    assert len(calls) == 2 and (images == 7).all() and len(images) == len(labels) == 300 and labels[5] == 5
    assert messages[0] == "a note" and len(messages) == 2
    assert f"{file}: expected prepared images as they were written, found" in messages[1] and "prepared again" in messages[1]
    assert cached("x", {}, build(calls, count=300), SHAPE)[2] == ["a note"] and len(calls) == 2  # said once


@pytest.mark.parametrize("change", [
    lambda about, labels: (about, labels.replace(b"\5", b"\x4d")),  # a label of 77
    lambda about, labels: (about | {"labels": "|i1"}, labels.replace(b"\5", b"\xff")),
    lambda about, labels: (about | {"labels": "<f4", "count": 75}, labels),
    lambda about, labels: (about | {"notes": ["a note"] * 1000}, labels),
    lambda about, labels: (about | {"notes": [7]}, labels),
])  # fmt: skip
def test_odd_content_with_a_right_checksum_is_built_again(own_cache, change):
    calls = []
    cached("x", {}, build(calls, count=300), SHAPE)
    (file,) = own_cache.iterdir()
    content = file.read_bytes()
    end = len(content) - 16 - cache_module._END.unpack(content[-16:])[0]
    about, labels = change(json.loads(content[end:-16]), content[end - 300 : end])
    tail = json.dumps(about).encode()
    end_of_file = cache_module._END.pack(len(tail), zlib.crc32(tail, zlib.crc32(labels)))
    file.write_bytes(content[: end - 300] + labels + tail + end_of_file)
    _, labels, messages = cached("x", {}, build(calls, count=300), SHAPE, classes=10)
    assert len(calls) == 2 and labels[5] == 5 and messages[0] == "a note" and "prepared again" in messages[1]


def test_notes_are_told_as_plain_text(own_cache):
    def source():
        return Source(np.zeros(1, np.uint8), iter([np.zeros((1, 4, 4, 3), np.uint8)]), ["a\x1b[2J", 9999 * "\x1b"])

    first, second = cached("x", {}, source, SHAPE)[2], cached("x", {}, source, SHAPE)[2]
    assert first == second and first[0] == r"a\x1b[2J" and len(first[1]) == 2000


def test_an_interrupted_write_leaves_nothing(own_cache):
    def source():
        def chunks():
            yield np.zeros((1, 4, 4, 3), np.uint8)
            raise KeyboardInterrupt

        return Source(np.zeros(2, np.uint8), chunks())

    with pytest.raises(KeyboardInterrupt):
        cached("x", {}, source, SHAPE)
    assert list(own_cache.iterdir()) == []


def test_what_a_killed_process_left_is_swept_after_a_day(own_cache):
    own_cache.mkdir()
    old, new = own_cache / "old.tmp", own_cache / "new.tmp"
    old.touch(), new.touch()
    os.utime(old, (time.time() - 90_000,) * 2)
    cached("x", {}, build([]), SHAPE)
    assert not old.exists() and new.exists()


def test_two_at_once(own_cache):
    barrier, results = threading.Barrier(2), []

    def source():
        barrier.wait(10)  # both are past the look into the empty cache
        return build([])()

    def work():
        results.append(cached("x", {}, source, SHAPE))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(results) == 2 and all((images == 7).all() for images, _, _ in results)
    assert len(list(own_cache.iterdir())) == 1


def test_unwritable_falls_back_to_memory_with_a_message(tmp_path):
    (tmp_path / "file").touch()
    calls = []
    images, labels, messages = cached("x", {}, build(calls), SHAPE, cache_dir=tmp_path / "file" / "below")
    assert type(images) is np.ndarray and (images == 7).all() and labels.tolist() == [0, 1, 2]
    assert messages[0] == "a note" and "the cache cannot be written" in messages[1] and "kept in memory" in messages[1]


def test_unwritable_with_a_full_disk(own_cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module.os, "fsync", full)
    images, _, messages = cached("x", {}, build([]), SHAPE)
    assert len(images) == 3 and "No space left" in messages[-1] and list(own_cache.iterdir()) == []


def test_a_disk_that_fills_up_while_images_are_written(own_cache):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        images, labels, messages = cached("x", {}, build([], count=300, size=64), (64, 64, 3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (images == 7).all() and len(images) == len(labels) == 300 and list(own_cache.iterdir()) == []
    assert len(messages) == 2 and "the cache cannot be written" in messages[1] and "are kept in memory" in messages[1]


HOMELESS = """if 1:
    import os, sys
    from pathlib import Path
    folders = [Path(sys.base_prefix), *Path(sys.base_prefix).parents, Path(sys.prefix), *Path(sys.prefix).parents]
    if os.getuid() == 0 and all(folder.stat().st_mode & 1 for folder in folders):
        os.setuid(54_321)  # a user that the system does not know, where such a one may run this Python
    import numpy as np
    from bitnet.datasets import Augmentation, Loader
    from bitnet.datasets.generated import read_generated
    data, messages = read_generated("test", 3, 28, 0)
    (batch,) = Loader(data, 3, augment=Augmentation()).epoch(0)
    homeless = "HOME" in os.environ or os.getuid() == 54_321  # else there is a home folder after all
    assert len(data) == 3 and len(messages) == homeless
    assert all("the cache cannot be written" in message for message in messages)
"""


@pytest.mark.parametrize("home", ["/dev/null", None])
def test_without_a_home_folder(home, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "BITNET_CACHE", "XDG_CACHE_HOME")}
    environment |= {"HOME": home} if home else {}
    done = subprocess.run([sys.executable, "-c", HOMELESS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_of_a_very_large_file_a_part_is_checked_at_each_start(own_cache, monkeypatch):
    calls = []
    images, _, _ = cached("x", {}, build(calls, count=300), SHAPE)
    (file,) = own_cache.iterdir()
    with open(file, "rb+") as content:
        content.write(bytes(images.nbytes // 2))
    monkeypatch.setattr(cache_module, "_CHECKED", images.nbytes // 10)
    assert (cached("x", {}, build(calls, count=300), SHAPE)[0] == 7).all() and len(calls) == 2  # 31 of 300 chunks are looked at


def test_large_sets_are_never_held_in_memory(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"expected a cache folder with room for 3 images.*found .*BITNET_CACHE"):
        cached("x", {}, build([]), SHAPE, cache_dir=tmp_path / "file" / "below", large=True)


def test_extra_asks_for_a_cache(tmp_path, write_mat):
    write_mat(tmp_path, "extra")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="expected a cache folder with room for 30 images"):
        load_svhn(tmp_path, "extra", cache_dir=tmp_path / "file" / "below")


def test_where_the_cache_lies(tmp_path, monkeypatch):
    assert cache_module.cache_folder() == tmp_path / "cache"
    assert cache_module.cache_folder(tmp_path / "mine") == tmp_path / "mine"
    monkeypatch.delenv("BITNET_CACHE")
    assert cache_module.cache_folder().name == "bitnet" or "bitnet" in cache_module.cache_folder().parts


def test_the_data_folder_is_left_alone(tmp_path, write_mat):
    write_mat(tmp_path / "data")
    with pytest.warns(UserWarning, match="a subset"):
        load_svhn(tmp_path / "data", "train")
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == ["train_32x32.mat"]
