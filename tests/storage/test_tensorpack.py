"""Files of tensorpack's examples: the networks they make equal a forward pass in plain NumPy by the published names."""

import errno
import io

import numpy as np
import pytest

import bitnet
from bitnet import methods
from bitnet.storage import CheckpointError, tensorpack

CLASSES = 7


def made(shapes, seed=0):
    """Arrays of these names and shapes, batch norms with slopes of both signs, beside what a file holds of a training."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes.items():
        if name.endswith("/W"):
            arrays[name] = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        elif name.endswith("variance/EMA"):
            arrays[name] = rng.uniform(0.3, 1.5, shape)
        elif name.endswith("gamma"):
            arrays[name] = rng.normal(0.7, 0.5, shape)
        else:
            arrays[name] = rng.normal(0.1, 0.2, shape)
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    return arrays | {"global_step": np.int64(450_000), "learning_rate": np.float32(8e-6), "conv1/W/Adam": np.float32(0)}


def norm_names(*names):
    return {f"{name}/{part}": (width,) for name, width in names for part in ("gamma", "beta", "mean/EMA", "variance/EMA")}


def alexnet_shapes(side):
    return {"conv0/W": (12, 12, 3, 96), "conv0/b": (96,), "conv1/W": (5, 5, 48, 256), "conv2/W": (3, 3, 256, 384),
            "conv3/W": (3, 3, 192, 384), "conv4/W": (3, 3, 192, 256), "fc0/W": (256 * side * side, 4096), "fc0/b": (4096,),
            "fc1/W": (4096, 4096), "fct/W": (4096, CLASSES), "fct/b": (CLASSES,),
            **norm_names(("bn1", 256), ("bn2", 384), ("bn3", 384), ("bn4", 256), ("bnfc0", 4096), ("bnfc1", 4096))}


def resnet_shapes():
    shapes, inputs = {"conv1/W": (7, 7, 3, 64), "conv1/b": (64,)}, 64
    for stage, width in ((2, 64), (3, 128), (4, 256), (5, 512)):
        for which in (1, 2):
            block = f"conv{stage}blk{which}"
            shapes |= norm_names((f"{block}/bn", inputs), (f"{block}/stembn", width))
            shapes |= {f"{block}/c3x3a/W": (3, 3, inputs, width), f"{block}/c3x3b/W": (3, 3, width, width)}
            if which == 1:
                shapes[f"{block}/shortcut/W"] = (1, 1, inputs, width)
            inputs = width
    return shapes | {"fct/W": (512, CLASSES), "fct/b": (CLASSES,), **norm_names(("lastbn", 512))}


def svhn_shapes(widths):
    sizes = (5, 3, 3, 3, 3, 3, 5)
    shapes = {f"conv{i}/W": (size, size, before, after)
              for i, (size, before, after) in enumerate(zip(sizes, [3, *widths], widths, strict=False))}
    norms = norm_names(*((f"bn{i}", widths[i]) for i in range(1, 7)))
    return shapes | norms | {"conv0/b": (widths[0],), "fc1/W": (widths[-1], 10), "fc1/b": (10,)}


# Plain NumPy in float64

def conv(x, w, stride=1, padding=0, groups=1):
    """x (N, H, W, C), w (kh, kw, C / groups, F); padding: 0, "same" with stride 1, or (before, after)."""
    before, after = padding if isinstance(padding, tuple) else ((w.shape[0] - 1) // 2,) * 2 if padding == "same" else (0, 0)
    x = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[:2], axis=(1, 2))[:, ::stride, ::stride]
    parts = zip(np.split(windows, groups, axis=3), np.split(w, groups, axis=3), strict=True)
    return np.concatenate([np.tensordot(part, one, ((3, 4, 5), (2, 0, 1))) for part, one in parts], axis=3)


def max_pool(x, size, stride, before, after):
    x = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)), constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride].max(axis=(4, 5))


class Reference:
    """The published arrays, and the quantizers of DoReFa-Net in W and A bits."""

    def __init__(self, arrays, w_bits, a_bits):
        self.arrays = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
        self.w_bits, self.a_bits = w_bits, a_bits

    def __getitem__(self, name):
        return self.arrays[name]

    def weight(self, name):
        w = self.arrays[f"{name}/W"]
        if self.w_bits == 32:
            return w
        if self.w_bits == "t":
            delta = 0.05 * np.abs(w).max()
            return np.where(w > delta, self[f"{name}/Wp"], np.where(w < -delta, -self[f"{name}/Wn"], 0))
        if self.w_bits == 1:
            return np.where(w >= 0, 1, -1) * np.abs(w).mean()
        t = np.tanh(w)
        top = 2**self.w_bits - 1
        return 2 * np.rint(top * (t / (2 * np.abs(t).max()) + 0.5)) / top - 1

    def act(self, x):
        top = 2**self.a_bits - 1
        return np.maximum(x, 0) if self.a_bits == 32 else np.rint(top * np.clip(x, 0, 1)) / top

    def last_act(self, x):
        return np.maximum(x, 0) if self.a_bits == 32 else np.clip(x, 0, 1)

    def norm(self, x, name):
        rstd = 1 / np.sqrt(self[f"{name}/variance/EMA"] + 1e-4)
        return (x - self[f"{name}/mean/EMA"]) * rstd * self[f"{name}/gamma"] + self[f"{name}/beta"]


def alexnet(net, x, channels_first=True, mean=(0.406, 0.456, 0.485), std=(0.225, 0.224, 0.229)):
    x = (x[..., ::-1] - 255 * np.array(mean)) / (255 * np.array(std))
    x = net.act(conv(x, net["conv0/W"], 4) + net.arrays.get("conv0/b", 0))
    x = net.norm(conv(x, net.weight("conv1"), 1, "same", 2), "bn1")
    x = net.act(max_pool(x, 3, 2, 0, 1))  # an even number of pixels: one is added, at the end
    x = net.act(max_pool(net.norm(conv(x, net.weight("conv2"), 1, "same"), "bn2"), 3, 2, 1, 1))
    x = net.act(net.norm(conv(x, net.weight("conv3"), 1, "same", 2), "bn3"))
    x = net.act(max_pool(net.norm(conv(x, net.weight("conv4"), 1, "same", 2), "bn4"), 3, 2, 0, 0))
    x = (x.transpose(0, 3, 1, 2) if channels_first else x).reshape(len(x), -1)
    x = net.act(net.norm(x @ net.weight("fc0") + net.arrays.get("fc0/b", 0), "bnfc0"))
    return net.last_act(net.norm(x @ net.weight("fc1"), "bnfc1")) @ net["fct/W"] + net["fct/b"]


def resnet(net, x):
    x = conv(x[..., ::-1] / 256, net["conv1/W"], 2, (3, 2)) + net["conv1/b"]
    x = max_pool(x, 3, 2, 1, 1)
    for stage in range(2, 6):
        for which in (1, 2):
            block = f"conv{stage}blk{which}"
            if which == 1 and stage > 2:
                n, height, width, channels = x.shape
                x = x.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
            a = net.act(net.norm(x, f"{block}/bn"))
            short = conv(a, net.weight(f"{block}/shortcut")) if which == 1 else x
            stem = net.act(net.norm(conv(a, net.weight(f"{block}/c3x3a"), 1, "same"), f"{block}/stembn"))
            x = short + conv(stem, net.weight(f"{block}/c3x3b"), 1, "same")
    return net.last_act(net.norm(x, "lastbn")).sum(axis=(1, 2)) @ net["fct/W"] + net["fct/b"]


def svhn(net, x):
    x = net.act(max_pool(conv(x / 256, net["conv0/W"]) + net["conv0/b"], 2, 2, 0, 0))
    for i, (padding, pool) in enumerate((("same", 1), ("same", 2), (0, 1), ("same", 1), (0, 1), (0, 1)), 1):
        x = max_pool(net.norm(conv(x, net.weight(f"conv{i}"), 1, padding), f"bn{i}"), pool, pool, 0, 0)
        x = net.last_act(x) if i == 6 else net.act(x)
    return x.reshape(len(x), -1) @ net["fc1/W"] + net["fc1/b"]


SIZE = 80  # 18 x 18 pixels after conv0, 2 x 2 at fc0, where the order of its rows can be seen


def pixels(size, count=2):
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def check(net, expected, size, tolerance=1e-3):
    with bitnet.no_grad():
        found = net(pixels(size)).data
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def saved(path, arrays, suffix=""):
    np.savez(path, **{f"{name}{suffix}": array for name, array in arrays.items()})
    return path


def load_alexnet(path, method, **options):
    return bitnet.load_tensorpack(path, "alexnet", method, classes=CLASSES, size=SIZE, **options)


@pytest.fixture(scope="module")
def of_alexnet(tmp_path_factory):
    """The arrays of an AlexNet, and their file."""
    arrays = made(alexnet_shapes(2))
    return arrays, saved(tmp_path_factory.mktemp("alexnet") / "a.npz", arrays, ":0")


# of 8 bits there are 255 boundaries, and some number lies as near to one as float32 rounds
@pytest.mark.parametrize("bits, tolerance", [((1, 2, 6), 1e-3), ((32, 32, 32), 1e-3), ((8, 8, 8), 1e-2)])
def test_alexnet(of_alexnet, bits, tolerance):
    arrays, path = of_alexnet
    net = load_alexnet(path, methods.DoReFa(*bits))
    check(net, alexnet(Reference(arrays, *bits[:2]), pixels(SIZE)), SIZE, tolerance)


def test_alexnet_of_ternary_weights(of_alexnet, tmp_path):
    arrays = of_alexnet[0] | {f"{layer}/{scale}": np.float32(0.02 + 0.01 * i + 0.003 * (scale == "Wn"))
                              for i, layer in enumerate(("conv1", "conv2", "conv3", "conv4", "fc0", "fc1"))
                              for scale in ("Wp", "Wn")}
    net = load_alexnet(saved(tmp_path / "t.npz", arrays), methods.TTQ())
    check(net, alexnet(Reference(arrays, "t", 32), pixels(SIZE)), SIZE)


def test_alexnet_of_before_may_2018(of_alexnet, tmp_path):
    arrays = {name: array for name, array in of_alexnet[0].items() if name not in ("conv0/b", "fc0/b")}
    path = saved(tmp_path / "old.npz", arrays)
    old = Reference(arrays, 1, 2)
    check(load_alexnet(path, methods.DoReFa(1, 2, 6)), alexnet(old, pixels(SIZE), False, (0, 0, 0), (1, 1, 1)), SIZE)
    check(load_alexnet(path, methods.DoReFa(1, 2, 6), channels_first=True),
          alexnet(old, pixels(SIZE), True, (0, 0, 0), (1, 1, 1)), SIZE)


def test_resnet(tmp_path):
    arrays = made(resnet_shapes())
    net = bitnet.load_tensorpack(saved(tmp_path / "r.npz", arrays), "resnet18", classes=CLASSES, size=64)
    assert net.method.bits == (1, 4, 32)
    check(net, resnet(Reference(arrays, 1, 4), pixels(64)), 64)
    real = bitnet.load_tensorpack(tmp_path / "r.npz", "resnet18", methods.Float(), classes=CLASSES, size=64)
    check(real, resnet(Reference(arrays, 32, 32), pixels(64)), 64)


def test_svhn(tmp_path):
    arrays = made(svhn_shapes([12, 16, 16, 32, 32, 32, 128]))
    net = bitnet.load_tensorpack(saved(tmp_path / "s.npz", arrays), "svhn", model="C")
    check(net, svhn(Reference(arrays, 1, 2), pixels(40)), 40)


# Files of strangers

@pytest.fixture
def of_svhn():
    return made(svhn_shapes([6, 8, 8, 16, 16, 16, 64]))


def refused(path, message, network="svhn"):
    with pytest.raises(CheckpointError, match=message) as caught:
        bitnet.load_tensorpack(path, network, **({"model": "D"} if network == "svhn" else {}))
    assert str(caught.value).isprintable()


def test_a_pickle_is_refused(of_svhn, tmp_path):
    np.save(tmp_path / "old.npy", np.array(of_svhn, object))
    refused(tmp_path / "old.npy", "a single .npy: as tensorpack wrote them these are pickles")
    np.savez(tmp_path / "inside.npz", **of_svhn | {"conv0/W": np.array([{}], object)})
    refused(tmp_path / "inside.npz", "objects")


@pytest.mark.parametrize("change, message", [
    ({"conv3/W": None, "bn2/mean/EMA": None}, r"2 missing: \['bn2/mean/EMA', 'conv3/W'\]"),
    ({"conv3/W": np.zeros((3, 3, 8, 17), np.float32)}, r"expected conv3/W as floats of shape \(3, 3, 8, 16\)"),
    ({"fc1/W": np.zeros((64, 10), np.int32)}, "expected fc1/W as floats"),
    ({"bn4/variance/EMA": np.full(16, -1, np.float32)}, "no negative variance, found others in bn4"),
    ({"conv1/W": np.full((3, 3, 6, 8), np.nan, np.float32)}, "expected finite numbers"),
    ({"conv0/W:0": np.zeros(1)}, "different names, found conv0/W twice"),
])
def test_what_is_wrong_with_a_file_is_told(of_svhn, tmp_path, change, message):
    arrays = {name: array for name, array in (of_svhn | change).items() if array is not None}
    refused(saved(tmp_path / "s.npz", arrays), message)


def test_other_files(of_svhn, tmp_path):
    refused(tmp_path / "none.npz", "cannot be read")
    (tmp_path / "text.npz").write_text("no archive")
    refused(tmp_path / "text.npz", "another kind of file")
    whole = saved(tmp_path / "s.npz", of_svhn).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:len(whole) // 2])
    refused(tmp_path / "cut.npz", "another kind of file or one cut short")
    refused(tmp_path / "s.npz", "expected the arrays of resnet18", "resnet18")
    with pytest.raises(ValueError, match="tensorpack published the networks alexnet, resnet18, svhn, got 'vgg'"):
        bitnet.load_tensorpack(tmp_path / "s.npz", "vgg")


def test_a_file_that_opens_and_cannot_be_read(tmp_path, monkeypatch):
    class Disk(io.FileIO):
        def read(self, *size):
            raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "net.npz").write_bytes(b"PK")
    monkeypatch.setattr(tensorpack, "open", lambda path, mode: Disk(path), raising=False)
    with pytest.raises(CheckpointError, match=r"cannot be read: Input/output error"):
        bitnet.load_tensorpack(tmp_path / "net.npz", "svhn")
