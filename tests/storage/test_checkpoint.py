"""Files are whole or absent, read back exactly, and every kind of damage is one clear sentence."""

import errno
import hashlib
import io
import json
import os
import resource
import time

import h5py
import numpy as np
import pytest
from damage import seal

import bitnet
from bitnet import models
from bitnet.description import describe
from bitnet.optimizers import Adam
from bitnet.storage import CheckpointError, checkpoint, load_checkpoint, save_checkpoint, write_atomically


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
    assert not loaded.training and describe(loaded) == load_checkpoint(saved).description
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


def test_the_first_line_says_what_it_is(saved):
    line, content = saved.read_bytes().split(b"\n", 1)[0], saved.read_bytes()[512:]
    assert line.decode() == f"bitnet checkpoint, SHA-256 of byte 512 and on: {hashlib.sha256(content).hexdigest()}"


def test_a_flipped_bit_is_noticed_before_hdf5_reads_it(saved, monkeypatch):
    # found by tests/fuzz.py: one changed byte, and HDF5's library hung, or ended the process
    content = saved.read_bytes()
    monkeypatch.setattr(checkpoint.h5py, "File", None)
    for place in np.random.default_rng(0).integers(len(content), size=100):
        damaged = bytearray(content)
        damaged[place] ^= 1
        saved.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"SHA-256 does not match|another kind of file"):
            load_checkpoint(saved)


def test_an_old_file_with_a_digest_in_front_is_not_taken_for_a_new_one(saved):
    with h5py.File(saved, "a") as file:
        file.attrs["version"] = 2
    seal(saved)
    with pytest.raises(CheckpointError, match="of version 3, found 'bitnet checkpoint' of version 2"):
        load_checkpoint(saved)
    saved.write_bytes(saved.read_bytes()[512:])
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
    with pytest.raises(CheckpointError, match="expected a network, found a folder"):
        bitnet.load(tmp_path)


def test_hdf5_of_another_program(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(CheckpointError, match="expected 'bitnet checkpoint' of version 1 or 2, found 'no format'"):
        bitnet.load(tmp_path / "other.h5")


def test_a_future_version(saved):
    with h5py.File(saved, "a") as file:
        file.attrs["version"] = 4
    seal(saved)
    with pytest.raises(CheckpointError, match="of version 3, found 'bitnet checkpoint' of version 4"):
        bitnet.load(saved)


def test_another_model_is_refused_and_nothing_changes(saved):
    other = models.svhn("D", (1, 1, 4), seed=0)
    before = {name: np.array(value) for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"expected a checkpoint of the same network, found one that differs in .*bits"):
        load_checkpoint(saved).load_into(other)
    assert all(np.array_equal(value, before[name]) for name, value in other.state_dict().items())


def layers_in(meta):
    return meta["model"]["options"]["layers"]["dict"]


def rewritten(saved, change):
    """The file with another meta text, its digest made anew, as somebody who wants to fool us would."""
    with h5py.File(saved, "a") as file:
        meta = json.loads(file["meta"][()])
        meta = change(meta) or meta
        del file["meta"]
        file["meta"] = json.dumps(meta)
    seal(saved)
    return saved


@pytest.mark.parametrize("change, message", [
    (lambda meta: meta["model"].update(kind="Nothing"), "there is no 'Nothing' among the modules"),
    (lambda meta: meta.update(model=[1]), "expected model, optimizer and more"),
    (lambda meta: [meta], "expected model, optimizer and more"),
    (lambda meta: meta.pop("more") and None, "expected model, optimizer and more"),
    (lambda meta: layers_in(meta)["conv3"]["options"]["conv"]["options"].update(out_channels=10**6),
     "expected conv3.conv.weight as float32 of shape \\(3, 3, 8, 1000000\\), found"),
    (lambda meta: layers_in(meta)["fc"]["options"].update(in_features=10**15), "expected fc.weight|cannot"),
    (lambda meta: layers_in(meta)["fc"]["options"].update(in_features="\x1b[31m"), "cannot be made|fc"),
    (lambda meta: layers_in(meta).pop("conv4") and None, "expected the arrays of its network"),
    (lambda meta: layers_in(meta)["conv0"]["options"]["pool"]["options"].update(size=[2]), "window must be a whole number"),
    (lambda meta: layers_in(meta)["conv0"]["options"].update(act=7), "a part of a block must be a Module or None, got 7"),
    (lambda meta: layers_in(meta)["conv0"]["options"]["act"]["options"].update(quantizer="x"), "must be a Quantizer or None"),
    (lambda meta: layers_in(meta)["images"]["options"].update(height=0.5), "the size of images must be a whole number"),
    (lambda meta: layers_in(meta)["conv1"]["options"]["conv"]["options"].update(padding=[[], 1]), "the padding of"),
    (lambda meta: layers_in(meta).update({"\x1b[2J": layers_in(meta).pop("fc")}), "a name must be a text"),
    (lambda meta: meta["more"].update(note=10**400), "expected numbers, found one of 401 digits"),
    (lambda meta: layers_in(meta).update(fc=[1]), "expected a Module in the tree"),
    (lambda meta: meta["model"].update(traits={"dict": {"classes": [[1]]}}), "expected the names of classes"),
    (lambda meta: meta["model"].update(traits={"dict": {"trained_on": ["x"]}}), "was trained on must be a whole number"),
    (lambda meta: meta["model"].update(traits={"dict": {"method": {"kind": "Flatten", "options": {}}}}), "expected the method"),
])
def test_well_formed_files_of_wrong_content(saved, change, message):
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match=message) as caught:
        bitnet.load(rewritten(saved, change))
    assert str(caught.value).isprintable() and time.perf_counter() - started < 2


def test_sizes_that_a_file_cannot_hold(saved):
    with h5py.File(saved, "a") as file:  # 4 GB that were never written
        del file["model/fc.weight"]
        file.create_dataset("model/fc.weight", (1 << 30,), np.float32)
    seal(saved)
    with pytest.raises(CheckpointError, match=r"expected arrays that the file can hold, found .* that claim 4,"):
        bitnet.load(saved)


@pytest.mark.parametrize("dtype, shape", [(np.float64, (10,)), (np.int32, (10,)), (np.float32, (11,)), (np.float32, (1, 10))])
def test_arrays_of_another_type_or_shape(saved, dtype, shape):
    with h5py.File(saved, "a") as file:
        del file["model/fc.bias"]
        file["model/fc.bias"] = np.zeros(shape, dtype)
    seal(saved)
    with pytest.raises(CheckpointError, match=r"expected fc.bias as float32 of shape \(10,\), found"):
        bitnet.load(saved)


@pytest.mark.parametrize("make", [
    lambda file, path: file.__setitem__("model/fc.bias", h5py.SoftLink("/model/fc.weight")),
    lambda file, path: file.__setitem__("model/fc.bias", h5py.ExternalLink(str(path), "/model/fc.bias")),
    lambda file, path: file.create_dataset("model/fc.bias", (10,), np.float32, external=[("/etc/passwd", 0, 40)]),
    lambda file, path: file.create_dataset("model/fc.bias", (10,), np.float32, chunks=(5,), compression="gzip"),
    lambda file, path: file.create_dataset("model/fc.bias", (10,), "S4"),
    lambda file, path: file.create_group("model/fc.bias"),
    lambda file, path: file.create_group("more"),
])
def test_what_does_not_lie_in_the_file_itself_is_refused(saved, make):
    with h5py.File(saved, "a") as file:
        del file["model/fc.bias"]
        make(file, saved)
    seal(saved)
    with pytest.raises(CheckpointError, match="found"):
        bitnet.load(saved)


def test_a_file_that_opens_and_cannot_be_read(saved, monkeypatch):
    class Disk(type(open(os.devnull, "rb"))):
        def read(self, *size):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoint, "open", lambda path, mode: Disk(io.FileIO(path)), raising=False)
    with pytest.raises(CheckpointError, match=r"expected a checkpoint, found .*Input/output error"):
        load_checkpoint(saved)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(CheckpointError, match="no regular file"):
        bitnet.load(tmp_path / "pipe.h5")


class Own(bitnet.Module):
    """A module of somebody else's."""

    def __init__(self, width):
        self.width, self.inner = width, [bitnet.layers.Linear(width, width)]

    def forward(self, x):
        return self.inner[0](x)


def test_a_users_own_tree(tmp_path):
    net = bitnet.Sequential(bitnet.layers.Block(3, 4, 3), bitnet.Residual(bitnet.layers.Block(4, 4, 1)),
                            bitnet.layers.AvgPool(4), bitnet.layers.Flatten(), Own(4))
    net = bitnet.methods.TTQ().apply(net)
    bitnet.save(tmp_path / "own.h5", net)
    loaded = bitnet.load(tmp_path / "own.h5")
    x = np.random.default_rng(0).random((2, 6, 6, 3), np.float32)
    with bitnet.no_grad():
        np.testing.assert_array_equal(loaded(x).data, net.eval()(x).data)
    assert loaded.method.bits == (2, 32, 32) and isinstance(loaded[4], Own)
    loaded(x).sum().backward()  # its arrays are its own, and can be trained


def test_a_module_in_two_places_is_refused(tmp_path):
    shared = bitnet.layers.Linear(3, 3)
    with pytest.raises(ValueError, match="0 and 1 are one module"):
        bitnet.save(tmp_path / "m.h5", bitnet.Sequential(shared, shared))


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

    def test_a_link_at_its_place_is_not_followed(self, path, tmp_path_factory):
        other = tmp_path_factory.mktemp("other") / "precious"
        other.write_bytes(b"kept")
        (path.parent / "file.tmp").symlink_to(other)
        write_atomically(path, b"new")
        assert path.read_bytes() == b"new" and other.read_bytes() == b"kept" and not path.is_symlink()

    def test_what_a_kill_left_behind_is_overwritten(self, path):
        (path.parent / "file.tmp").write_bytes(b"half")
        write_atomically(path, b"new")
        assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["file"]
