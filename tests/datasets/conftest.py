"""Files in the layouts of SVHN, made of noise, and a cache folder of each test's own."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Nothing is written to the user's cache, nothing read from the user's environment."""
    monkeypatch.setenv("BITNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("BITNET_SVHN_URL", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def genuine():
    """The folder with genuine data; the test is skipped without it."""
    folder = os.environ.get("BITNET_TEST_DATA")
    if not folder:
        pytest.skip("BITNET_TEST_DATA is not set")
    return Path(folder)


@pytest.fixture
def write_mat():
    """Writes a format 2 file of `count` noise images with labels 1, 2, ..., 10, 1, ...; variables may be replaced."""

    def write(folder, split="train", count=30, seed=0, drop=(), **replaced):
        folder.mkdir(parents=True, exist_ok=True)
        images = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)
        content = {"X": images.transpose(1, 2, 3, 0), "y": (np.arange(count) % 10 + 1)[:, None].astype(np.uint8)}
        content = {k: v for k, v in (content | replaced).items() if k not in drop}
        scipy.io.savemat(folder / f"{split}_32x32.mat", content)
        return images

    return write


@pytest.fixture
def write_struct():
    """Writes a digitStruct.mat as MATLAB 7.3 lays it out.

    entries: list of (file name, list of (left, top, width, height, label)).
    """

    def write(folder, split, entries):
        (folder / split).mkdir(parents=True, exist_ok=True)
        with h5py.File(folder / split / "digitStruct.mat", "w") as file:
            refs = file.create_group("#refs#")

            def reference(data):
                return refs.create_dataset(f"r{len(refs)}", data=data).ref

            names = [reference(np.array([[ord(c)] for c in name], np.uint16)) for name, _ in entries]
            boxes = []
            for _, values in entries:
                group = refs.create_group(f"r{len(refs)}")
                for i, key in enumerate(("left", "top", "width", "height", "label")):
                    column = [float(value[i]) for value in values]
                    if len(column) == 1:
                        group[key] = np.array([column])
                    else:
                        cells = [reference(np.array([[number]])) for number in column]
                        group.create_dataset(key, (len(cells), 1), h5py.ref_dtype)[:, 0] = cells
                boxes.append(group.ref)
            for key, cells in (("name", names), ("bbox", boxes)):
                file.create_dataset(f"digitStruct/{key}", (len(cells), 1), h5py.ref_dtype)[:, 0] = cells

    return write


@pytest.fixture
def write_photograph():
    def write(folder, split, name, width=60, height=40, seed=0):
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        (folder / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / split / name)
        return pixels

    return write
