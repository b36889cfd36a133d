"""Sound files of every kind that bitnet reads, and damage to them: by chance, and well formed, as somebody would write it who
wants to fool us. All of it follows from a seed and the number of a case; ``fuzz.py`` looks at what becomes of it.
"""

import contextlib
import copy
import gzip
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import struct
import sys
import warnings
import zipfile
import zlib
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import scipy.io
from PIL import Image

import bitnet
from bitnet import Residual, Sequential, datasets, methods, models
from bitnet.execution import dispatch
from bitnet.kernels.machine import compile
from bitnet.layers import AvgPool, Block, Conv2d, Flatten, Images, Linear
from bitnet.storage.checkpoint import _SEAL, _seal
from bitnet.storage.tensorpack import published_names

TESTS = Path(__file__).resolve().parent
HOSTILE = (None, True, False, -1, 0, 1, 2, 7, 33, 2**31, 2**63, 10**30, 10**400, 1e308, float("nan"), float("-inf"), 0.5, -0.0,
           "", "0", "\x1b[31m\n\0", "\ud800", "x" * 9999, "../../x", [], {}, [[]], [1, 2, 3], [None], ["\x1b"], {"dict": {}},
           [10**9] * 3, {"kind": "Flatten", "options": {}}, {"kind": [], "options": {}}, {"\x1b": 1})  # fmt: skip
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


def own_tree(groups=24):
    return Sequential(images=Images(16, 18, 3), first=Block(3, 24, 3, padding="same", pool=2),
                      body=Sequential(Residual(Block(24, 24, 3, padding="same", groups=groups), Block(24, 24, 1)),
                                      Block(24, 40, 3, stride=2, padding=1)),
                      short=Residual(Block(40, 20, 1), shortcut=Conv2d(40, 20, 1)),
                      pool=AvgPool(2), flatten=Flatten(), fc=Linear(80, 5))  # fmt: skip


def make(sound):
    """The sound files, a folder for each sample; the same bytes each time, but for the name of ``sound``."""
    def folder(name):
        (sound / name).mkdir()
        return sound / name

    rng = np.random.default_rng(0)
    nets = {"svhn": models.svhn("D", seed=1), "bnn": methods.build("bnn"),
            "ttq": methods.TTQ().apply(models.mlp(width=32), seed=0),
            "gxnor": methods.GXNOR().apply(own_tree(), seed=2),
            "xnor": methods.get("xnor")().apply(own_tree(1), seed=2),
            "dorefa": methods.DoReFa(1, 2, 4).apply(own_tree(), seed=2),
            "bfcn": methods.BFCN().apply(models.bfcn((16, 16, 3), 4, widths=(8, 8), blocks=1, features=6)),
            "bitwise": methods.get("bitwise")().apply(models.mlp(width=32), seed=0)}
    nets |= {name: methods.get(name)().apply(own_tree(1), seed=2) for name in ("graham", "qnn", "qnn_log", "staircase", "fgq",
                                                                                    "sketching")}
    drawn = methods.get("tnn")(2, 2, 32)
    nets["tnn"] = drawn.convert(drawn.apply(models.mlp(width=32), seed=0), None)
    for name, net in nets.items():
        net.classes = tuple(f"number {digit}" for digit in range(10)) if name in ("svhn", "bnn") else None
        bitnet.save(folder(f"{name}-h5") / "net.h5", net.eval())
        bitnet.save(folder(f"{name}-npz") / "net.npz", bitnet.freeze(net))
        if importlib.util.find_spec("onnx") and name in ("svhn", "gxnor", "dorefa"):
            bitnet.export(folder(f"{name}-onnx") / "net.onnx", net, form="qonnx")
    state = nets["svhn"].state_dict()
    np.savez(folder("published") / "net.npz", **{name: state[own] for name, own in published_names(nets["svhn"]).items()})
    for name in ("run.h5", "frozen.npz"):
        old = TESTS / "storage" / "before" / name
        shutil.copy(old, folder(f"{old.stem}-old-{old.suffix[1:]}") / f"net{old.suffix}")
    digit, pictures = np.full((50, 40, 3), 240, np.uint8), folder("pictures")
    digit[10:40, 17:23] = 20
    picture = Image.fromarray(digit)
    exif = picture.getexif()
    exif[0x0112], exif[0x010E] = 6, "text"
    for suffix in ("jpg", "png", "tif", "gif", "bmp", "webp", "ppm"):
        picture.save(pictures / f"a.{suffix}", **{"exif": exif} if suffix == "jpg" else {})
    picture.convert("P").save(pictures / "palette.png", transparency=3)
    Image.fromarray(digit[..., 0].astype(np.uint16) * 200).save(pictures / "deep.tif")
    Image.fromarray(digit[..., 0] / np.float32(255)).save(pictures / "float.tif", compression="tiff_adobe_deflate")
    svhn, boxes, mnist, maps = map(folder, ("svhn", "boxes", "mnist", "maps"))
    for split, count in (("train", 40), ("test", 20)):
        content = {"X": rng.integers(0, 256, (32, 32, 3, count)).astype(np.uint8), "y": (np.arange(count) % 10 + 1)[:, None]}
        scipy.io.savemat(svhn / f"{split}_32x32.mat", content, do_compression=split == "test")
        for there in (boxes / split, maps / split, maps / f"{split}annot"):
            there.mkdir()
        picture.save(boxes / split / "1.png")
        picture.save(maps / split / "1.jpg")
        Image.fromarray(digit[..., 0] // 80).convert("P" if split == "test" else "L").save(maps / f"{split}annot" / "1.png")
        write_boxes(boxes / split / "digitStruct.mat", [("1.png", [(5, 5, 20, 30, 1), (20, 5, 15, 30, 10)])])
        for kind, array in (("images-idx3", rng.integers(0, 256, (count, 28, 28))), ("labels-idx1", np.arange(count) % 10)):
            raw = np.array([0x800 + array.ndim, *array.shape], ">i4").tobytes() + array.astype(np.uint8).tobytes()
            name = f"{split.replace('test', 't10k')}-{kind}-ubyte"
            if kind == "labels-idx1" and split == "train":
                (mnist / name).write_bytes(raw)
            else:
                (mnist / f"{name}.gz").write_bytes(gzip.compress(raw, mtime=0))
    (maps / "classes.txt").write_text("ink\npaper\nnothing\n")
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(None):
        datasets.load_svhn(svhn, "train", cache_dir=folder("cache"))
        run = ["--model", "D", "--data", svhn, "--epochs", 1, "--batch-size", 8, "--out", sound / "run"]
        script("train_svhn").main([str(one) for one in run])
    for path in (sound / "run").iterdir():
        if path.name != "checkpoint.h5":
            path.unlink()

    def timeless(meta, arrays):
        more = meta["more"] | {"seconds": 1.5, "step_seconds": 0.0}
        more["history"] = [record | {"seconds": 1.5, "images_per_second": 99.5} for record in more["history"]]
        return meta | {"more": more}, arrays

    resealed(sound / "run" / "checkpoint.h5", timeless)
    rows = [{"name": name, "method": name, "bits": [1, 1, 32], "model": None, "seed": 0, "error": 9.5, "published": published,
             "parameters": 1000, "packed": 300, "epochs": 3, "minutes": 0.004, "train_images_per_second": 5e3,
             "infer_images_per_second": 9e3, "bit_share_training": 0.3, "bit_share_inference": 1.0}
            for name, published in (("bnn", [0.96, "permutation-invariant"]), ("binaryconnect", None))]  # fmt: skip
    results = {"data": "MNIST train (modified, 40), 40 images; MNIST test (modified, 20), 20", "minutes": 0.001, "rows": rows}
    (folder("results") / "results.json").write_text(json.dumps(results))
    known = dispatch.table()
    times = {kind: {"popcount": 1.0, "byte_dot": 2.0} for kind in sorted(known.costs)}
    text = json.dumps({"machine": dispatch.machine(), "milliseconds": times})
    (folder("times") / Path(known.path).name).write_text(text)
    kept(folder("kernels"))


def twice(x):
    return x + x


def kept(folder):
    """What a compiled function gives that is kept in a folder."""
    with mock.patch.dict(os.environ, NUMBA_CACHE_DIR=str(folder)):
        return {"y": compile.kernel(twice)(np.arange(5))}


def script(name):
    """An example as a module."""
    sys.path.insert(0, str(TESTS.parent / "examples"))
    return importlib.import_module(name)


def write_boxes(path, entries):
    """A digitStruct.mat nearly as MATLAB 7.3 lays it out: (name, [(left, top, width, height, label), ...])."""
    with h5py.File(path, "w") as file:
        cells = {key: file.create_dataset(f"digitStruct/{key}", (len(entries), 1), h5py.ref_dtype) for key in ("name", "bbox")}
        for i, (name, boxes) in enumerate(entries):
            cells["name"][i, 0] = file.create_dataset(f"#refs#/n{i}", data=np.array([[ord(c)] for c in name], np.uint32)).ref
            for key, column in zip(("left", "top", "width", "height", "label"), zip(*boxes, strict=True), strict=True):
                file[f"#refs#/b{i}/{key}"] = np.array(column, np.float64)[:, None]
            cells["bbox"][i, 0] = file[f"#refs#/b{i}"].ref


def one_of(rng, *choices):
    return choices[rng.integers(len(choices))]


def spoiled(content, rng):
    """Bytes with random damage."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        a, b = sorted(rng.integers(0, len(content) + 1, 2).tolist())
        size, kind = min(b - a, int(2 ** rng.uniform(0, 9))), rng.integers(9)
        if kind < 3 and content:  # a flipped bit
            content[a % len(content)] ^= 1 << int(rng.integers(8))
        elif kind == 3:  # a cut
            del content[a : a + size if rng.random() < 0.6 else None]
        elif kind == 4:  # something between
            content[a:a] = rng.bytes(size) if rng.random() < 0.5 else content[b : b + size]
        elif kind == 5:
            content[a : a + size] = bytes([one_of(rng, 0, 255)]) * size
        elif kind == 6:  # two blocks change places
            content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]
        else:  # another number
            size = one_of(rng, 1, 2, 4, 8)
            content[a : a + size] = (one_of(rng, *NUMBERS) % 256**size).to_bytes(size, one_of(rng, "little", "big"))
    return bytes(content)


def places(tree):
    """(container, key) of everything inside a JSON tree."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in inner for place in ((tree, key), *places(value))]


def altered(tree, rng):
    """A JSON tree with other values, types, sizes or nesting in up to three places."""
    tree = {"root": copy.deepcopy(tree)}
    for _ in range(rng.integers(1, 4)):
        where, key = one_of(rng, *places(tree))
        value, kind = where[key], rng.integers(8)
        other, at = one_of(rng, *places(tree))
        if kind == 0 and isinstance(where, dict) and where is not tree:
            where[one_of(rng, "more", "kind", "dict", "traits", "\x1b[2J")] = where.pop(key)
        elif kind == 1 and where is not tree:
            del where[key]
        elif kind == 2:
            where[key] = copy.deepcopy(other[at])
        elif kind == 3 and isinstance(value, (int, float)):
            where[key] = one_of(rng, value + 1, value - 1, value * 1000, -value, float(value), str(value))
        elif kind == 4 and rng.random() < 0.3:
            for _ in range(one_of(rng, 10, 60, 900)):
                where[key] = [where[key]] if rng.random() < 0.5 else {"dict": {"x": where[key]}}
        else:
            where[key] = copy.deepcopy(one_of(rng, *HOSTILE))
        if not places(tree):
            break
    return tree["root"]


def remade(arrays, rng):
    """Named arrays, some of them missing, renamed, or of another type, shape or content."""
    arrays = dict(arrays)
    for _ in range(min(len(arrays), rng.integers(1, 3))):
        name, other = one_of(rng, *sorted(arrays)), one_of(rng, *sorted(arrays))
        array, kind = np.array(arrays[name]), rng.integers(10)
        if kind == 0:
            del arrays[name]
        elif kind == 1:
            arrays[one_of(rng, "more", "model/\x1b[2J", "../x", "fc.bias ", "X" * 50)] = arrays.pop(name)
        elif kind == 2:
            arrays[name] = array.astype(one_of(rng, "f2", "f4", "f8", ">f4", "i1", "u1", "i8", "c8", "?", "S3", "U3", "O"))
        elif kind == 3:
            flat = array.ravel()
            arrays[name] = one_of(rng, flat, array[None], array.T, flat[:-1], flat[:0], flat[0], np.stack([array] * 3))
        elif kind == 4:
            arrays[name], arrays[other] = arrays[other], arrays[name]
        elif kind == 5:
            arrays[name] = np.frombuffer(rng.bytes(array.nbytes), array.dtype).reshape(array.shape)
        elif array.dtype.kind in "fiu" and array.size:
            extremes = (np.nan, np.inf, -np.inf, 0, -1, 1e38) if array.dtype.kind == "f" else (-1, 0, 1, 2, 3, 11, 127, 255)
            where = slice(None) if kind == 6 else int(rng.integers(array.size))
            array.reshape(-1)[where] = np.array(one_of(rng, *extremes)).astype(array.dtype)
            arrays[name] = array
    return arrays


def resealed(path, change):
    """An .h5 of ours with what ``change(meta, arrays)`` makes of its content, the digest made anew."""
    with h5py.File(path, "a") as file:
        arrays = {f"{group}/{name}": data[()] for group in file if group != "meta" for name, data in file[group].items()}
        meta, new = change(json.loads(file["meta"][()]), arrays)
        text = meta if isinstance(meta, str) else json.dumps(meta)
        for name in [*arrays, "meta"]:
            del file[name]
        for name, value in (new | {"meta": text}).items():
            file[name] = value
    seal(path)


def seal(path):
    """Give a file that was changed the digest of what it holds now."""
    content = path.read_bytes()[_SEAL:]
    path.write_bytes(_seal(hashlib.sha256(content)) + content)


def false_h5(path, rng):
    draw, text = rng.random(), "[" * 100_000
    if draw < 0.6:
        return resealed(path, lambda meta, arrays: (text if draw < 0.02 else altered(meta, rng), arrays))
    if draw < 0.8:
        return resealed(path, lambda meta, arrays: (meta, remade(arrays, rng)))
    with h5py.File(path, "a") as file:  # other objects than this program writes
        names = []
        file.visititems(lambda name, one: names.append(name) if isinstance(one, h5py.Dataset) else None)
        name, attribute = one_of(rng, *names), one_of(rng, "format", "version")
        dtype, kind = file[name].dtype, rng.integers(13)
        if kind >= 4:
            del file[name]
        [lambda: file.attrs.pop(attribute),
         lambda: file.attrs.update({attribute: one_of(rng, 1, "\x1b", [1, 2], -1.5, np.zeros((2, 2)))}),
         lambda: file.update({f"{name}-more": file["/"]}), lambda: file.update({"other\x1b[2J": 3}),
         lambda: file.update({name: h5py.SoftLink(f"/{names[0]}")}), lambda: file.update({name: h5py.SoftLink(f"/{name}")}),
         lambda: file.update({name: h5py.ExternalLink("/dev/zero", "/x")}), lambda: file.create_group(name),
         lambda: file.create_dataset(name, (10,), "u1", external=[("/etc/passwd", 0, 10)]),
         lambda: file.create_dataset(name, (9,), dtype, chunks=(3,), compression="gzip"),
         lambda: file.create_dataset(name, (1 << int(rng.integers(20, 50)),), "f4"),
         lambda: file.update({name: h5py.Empty("f4")}),
         lambda: file.create_dataset(name, (2, 1), one_of(rng, h5py.ref_dtype, h5py.vlen_dtype(np.int8)))][kind]()  # fmt: skip
    seal(path)


def false_npz(path, rng):
    with np.load(path) as file:
        arrays, kind = {name: file[name] for name in file.files}, rng.integers(10)
    if kind < 4 and "network" in arrays:
        arrays["network"] = np.array(json.dumps(altered(json.loads(str(arrays["network"])), rng)))
    elif kind < 8:
        arrays = remade(arrays, rng)
    target = one_of(rng, *sorted(arrays))
    with zipfile.ZipFile(path, "w", one_of(rng, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)) as file:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.save(stream, array)
            content = stream.getvalue()
            if kind == 8 and name == target:
                head = one_of(rng, f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({1 << 40},), }}", "(" * 5000,
                              "{'descr': [('a', '<f4')], 'fortran_order': True, 'shape': (1, 2)}", "", "{'descr': '|O'}",
                              "{'a': -" + "9" * 5000 + "}")  # fmt: skip
                content = b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head.encode() + content[128:]
            elif kind == 9 and name == target:
                content = one_of(rng, content + bytes(1 << 25), content[:-1], b"", content)
                file.writestr(one_of(rng, f"{name}.npy", name), content)
            file.writestr(f"{name}.npy", content)


def false_picture(path, rng):
    width, height = (int(2 ** rng.uniform(0, 9)) for _ in range(2))
    mode = one_of(rng, "1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "uint16", "int32", "float32")
    if mode[-1].isdigit() and mode != "1":
        values = rng.uniform(one_of(rng, 0, -1), 1, (height, width)) * one_of(rng, 1, 255, 256, 65535, 1e9)
        values[0, 0] = one_of(rng, 0, 0, np.nan, np.inf)
        image = Image.fromarray(values.astype(mode))
    else:
        sizes = [(width, height)] * 9 + [(30_000, width), (width, 30_000), (15_000, 15_000)]
        image = Image.new(mode, one_of(rng, *sizes))
    image.save(path) if rng.random() < 0.7 else image.convert("RGB").save(path)
    if path.suffix == ".png" and rng.random() < 0.4:  # a size that it does not have
        content = bytearray(path.read_bytes())
        content[16:24] = struct.pack(">2I", *(one_of(rng, 15_000, *NUMBERS[:10]) for _ in range(2)))
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        path.write_bytes(content)


def false_mat(path, rng):
    if path.name == "digitStruct.mat":
        names = ("1.png", "1.png", "1.png", "../1.png", "\x1b[2J", "", "\U0001f600", "x" * 300, "2.png", "digitStruct.mat")
        numbers = (-1, 0, 1, 5, 10, 40, 50, 1e6, 1e9, -1e6, np.nan, np.inf, 0.4)
        boxes = [[one_of(rng, *numbers) if rng.random() < 0.3 else good for good in (5, 5, 20, 30, 1)] for _ in range(9)]
        count = one_of(rng, 1, 2, 6)
        return write_boxes(path, [(one_of(rng, *names), boxes[at : at + one_of(rng, 1, 2, 3)]) for at in range(count)])
    content = remade({name: value for name, value in scipy.io.loadmat(path).items() if name in "Xy"}, rng)
    if rng.random() < 0.5:
        content[one_of(rng, "X", "y")] = one_of(rng, {"a": 1}, np.array([{}, "x"], object), "text", 1j, np.nan,
                                                scipy.sparse.eye(3).tocsc())  # fmt: skip
    scipy.io.savemat(path, content, format=one_of(rng, "5", "5", "4"), do_compression=bool(rng.integers(2)))


def false_idx(path, rng):
    raw = bytearray((gzip.open if path.suffix else open)(path, "rb").read())
    for _ in range(rng.integers(1, 3)):
        at = 4 * one_of(rng, 0, 1, 2, 3)
        raw[at : at + 4] = struct.pack(">I", one_of(rng, 0, 1, 2, 27, 28, 784, 2049, 2051, 2**16, 2**31, 2**32 - 1))
    raw += bytes(one_of(rng, 0, 0, 1, 784, 1 << 25))
    path.write_bytes(gzip.compress(raw, mtime=0) * one_of(rng, 1, 2) if path.suffix else raw)


def false_cache(path, rng):
    content = path.read_bytes()
    end = len(content) - 16 - struct.unpack("<Q", content[-16:-8])[0]
    tail = json.loads(content[end:-16])
    checksum, tail = zlib.crc32(content[end - tail["count"] : end]), json.dumps(altered(tail, rng)).encode()
    path.write_bytes(content[:end] + tail + struct.pack("<QQ", len(tail), zlib.crc32(tail, checksum)))


def false_json(path, rng):
    path.write_text("[" * 100_000 if rng.random() < 0.03 else json.dumps(altered(json.loads(path.read_text()), rng)))


def false_file(path, rng):
    """Something else where a file should be."""
    path.unlink()
    one_of(rng, path.mkdir, lambda: os.mkfifo(path), lambda: path.write_bytes(b""), lambda: path.symlink_to(path),
           *[lambda to=to: path.symlink_to(to) for to in ("/dev/zero", "/dev/null", "/proc/self/mem", "/nowhere")])()


FALSE = {".h5": false_h5, ".npz": false_npz, ".mat": false_mat, ".gz": false_idx, "": false_idx, ".images": false_cache,
         ".json": false_json}  # fmt: skip


def false_onnx(path, rng):
    """A file of ONNX with other numbers, shapes or kinds in it."""
    import onnx

    model = onnx.load(path)
    nodes, arrays, number = model.graph.node, model.graph.initializer, int(one_of(rng, *NUMBERS)) & (2**62 - 1)
    node, array = nodes[rng.integers(len(nodes))], arrays[rng.integers(len(arrays))]
    kind = rng.integers(7)
    if kind == 0:
        whole = [one for one in node.attribute if one.ints]
        one = whole[rng.integers(len(whole))].ints
        one[rng.integers(len(one))] = number
    elif kind == 1:
        array.dims[rng.integers(len(array.dims))] = number
    elif kind == 2:
        node.op_type = one_of(rng, "Add", "Mul", "Reshape", "Flatten", "Quant", "Relu", "Loop", "\x1b[2J")
    elif kind == 3:
        node.input[rng.integers(len(node.input))] = one_of(rng, "", arrays[0].name, nodes[0].output[0], nodes[-1].output[0])
    elif kind == 4:
        sizes = model.graph.input[0].type.tensor_type.shape.dim
        sizes[rng.integers(len(sizes))].dim_value = number
    elif kind == 5:
        array.data_type = int(rng.integers(25))
    else:
        array.raw_data = rng.bytes(len(array.raw_data))
    path.write_bytes(model.SerializeToString())


FALSE[".onnx"] = false_onnx


def prepared(seed, case, sound, target):
    """The files of a case, one of them damaged, below ``target``: (sample, was the damage random?). Below 0 none is damaged."""
    rng, samples = np.random.default_rng((seed, max(0, case))), sorted(path.name for path in sound.iterdir())
    networks = [name for name in samples if re.fullmatch("[a-z_]+-(h5|npz|onnx)", name)]
    others = sorted(set(samples) - set(networks))
    sample = one_of(rng, *(networks if rng.random() < 0.5 else others)) if case >= 0 else samples[case]
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(sound / sample, target)
    if case < 0:
        return sample, False
    path, draw = one_of(rng, *sorted(path for path in target.rglob("*") if path.is_file())), rng.random()
    if draw < 0.5:
        path.write_bytes(spoiled(path.read_bytes(), rng))
    else:
        cannot_be = TypeError, ValueError, IndexError, OSError, OverflowError, RecursionError, MemoryError  # in that format
        with contextlib.suppress(*cannot_be), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (false_file if draw < 0.55 else FALSE.get(path.suffix, false_picture))(path, rng)
    return sample, draw < 0.5
