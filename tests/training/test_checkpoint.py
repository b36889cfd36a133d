"""Files are whole or absent, read back exactly, and every kind of damage is one clear sentence."""

import errno
import os
import resource

import h5py
import numpy as np
import pytest

import bitnet
from bitnet import models
from bitnet.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, write_atomically
from bitnet.optimizers import Adam


@pytest.fixture
def model():
    return models.svhn("D", (1, 2, 4), seed=3)


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "model.h5"
    bitnet.save(path, model, note="hello")
    return path


def test_a_loaded_model_computes_the_same_bits(model, saved):
    images = np.random.default_rng(0).random((2, 40, 40, 3), dtype=np.float32)
    loaded = bitnet.load(saved)
    assert not loaded.training and loaded.config == load_checkpoint(saved).config
    with bitnet.no_grad():
        assert np.array_equal(loaded(images).data, model.eval()(images).data)


def test_everything_comes_back_exactly(model, tmp_path):
    optimizer = Adam(model.parameters(), lr=0.1 + 0.2, eps=1e-5)
    more = {"loss_sum": 1 / 3, "random": [2**64 - 1, 7], "history": [{"epoch": 1, "loss": 1e-300}], "none": None}
    save_checkpoint(tmp_path / "c.h5", model, optimizer, **more)
    checkpoint = load_checkpoint(tmp_path / "c.h5")
    assert checkpoint.more == more
    for found, expected in ((checkpoint.model, model.state_dict()), (checkpoint.optimizer, optimizer.state_dict())):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert np.array_equal(found[name], value) and np.asarray(found[name]).dtype == np.asarray(value).dtype


def test_the_file_is_plain_hdf5_with_readable_names(model, saved):
    with h5py.File(saved) as file:
        assert set(file) == {"meta", "model"}
        assert set(file["model"]) == set(model.state_dict())


def test_the_same_state_gives_the_same_file(model, saved, tmp_path):
    bitnet.save(tmp_path / "again.h5", model, note="hello")
    assert (tmp_path / "again.h5").read_bytes() == saved.read_bytes()


def test_every_way_of_cutting_it_short_is_noticed(saved, tmp_path):
    content = saved.read_bytes()
    for length in [0, 3, 8, 100, *np.linspace(200, len(content) - 1, 12).astype(int)]:
        (tmp_path / "cut.h5").write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"cut\.h5: expected a checkpoint.*found"):
            load_checkpoint(tmp_path / "cut.h5")


def test_a_flipped_bit_in_the_weights_is_noticed(saved):
    with h5py.File(saved) as file:
        offset = max(file["model"].values(), key=lambda data: data.size).id.get_offset()
    content = bytearray(saved.read_bytes())
    content[offset + 5] ^= 1
    saved.write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum"):
        load_checkpoint(saved)


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip", b"text " * 1000])
def test_other_kinds_of_files(content, tmp_path):
    (tmp_path / "other.h5").write_bytes(content)
    with pytest.raises(CheckpointError, match="expected a checkpoint in HDF5, found another kind of file"):
        bitnet.load(tmp_path / "other.h5")


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        bitnet.load(tmp_path / "none.h5")
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        bitnet.load(tmp_path)


def test_hdf5_of_another_program(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(CheckpointError, match="expected 'bitnet checkpoint' of version 1, found 'no format'"):
        bitnet.load(tmp_path / "other.h5")


def test_a_future_version(saved):
    with h5py.File(saved, "a") as file:
        file.attrs["version"] = 2
    with pytest.raises(CheckpointError, match="of version 1, found 'bitnet checkpoint' of version 2"):
        bitnet.load(saved)


def test_another_model_is_refused_and_nothing_changes(saved):
    other = models.svhn("D", (1, 1, 4), seed=0)
    before = {name: np.array(value) for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"expected a checkpoint of .*1, 1, 4.*found one of .*1, 2, 4"):
        load_checkpoint(saved).load_into(other)
    assert all(np.array_equal(value, before[name]) for name, value in other.state_dict().items())


def test_a_model_of_unknown_name(model, tmp_path):
    model.config = {"name": "nothing-like-this"}
    bitnet.save(tmp_path / "m.h5", model)
    with pytest.raises(CheckpointError, match="nothing-like-this"):
        bitnet.load(tmp_path / "m.h5")


def test_what_json_does_not_know_is_refused_before_anything_is_written(model, tmp_path):
    with pytest.raises(TypeError, match="cannot save set"):
        bitnet.save(tmp_path / "m.h5", model, bad={1})
    assert not list(tmp_path.iterdir())


class TestWritingFails:
    """Whatever fails, the old file stays, nothing else is left, and the error names the file."""

    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"old")
        return path

    def check(self, path, code):
        with pytest.raises(OSError) as caught:
            write_atomically(path, b"new" * 100_000)
        assert caught.value.errno == code and caught.value.filename == str(path)
        assert path.read_bytes() == b"old"
        assert os.listdir(path.parent) == ["file"]

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_at_each_step(self, path, monkeypatch, step):
        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, step, full)
        self.check(path, errno.ENOSPC)

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
    def test_on_a_full_device(self, path):
        (path.parent / "file.tmp").symlink_to("/dev/full")
        self.check(path, errno.ENOSPC)

    def test_at_a_limit_of_file_size(self, path):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            self.check(path, errno.EFBIG)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def test_in_a_folder_that_is_none(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(OSError) as caught:
            write_atomically(tmp_path / "file" / "inside", b"new")
        assert caught.value.filename == str(tmp_path / "file" / "inside")

    def test_what_a_kill_left_behind_is_overwritten(self, path):
        (path.parent / "file.tmp").write_bytes(b"half")
        write_atomically(path, b"new")
        assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["file"]
