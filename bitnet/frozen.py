"""Trained networks for inference: integer stages, packed weights, no autodiff.

Between the first and the last layer nothing is a float: activations travel as packed bits, a convolution is popcounts, and
batch norm, clip and quantizer are integer thresholds (DoReFa-Net, arXiv:1606.06160, section 2.8, says that this can be done).
The codes are those of the network it was made from, bit for bit.

The file of a frozen network is an .npz that NumPy reads alone (``numpy.load``). ``network`` is a JSON text: format, version,
the configuration of the model, and for each inner layer its name, weight shape (kh, kw, in, out) and bits. The arrays:

    conv0.weight, conv0.bias, fc.weight, fc.bias    float32
    NAME.planes      uint8 (bits, bytes): bit planes of the weight codes, flattened in C order, ``numpy.packbits`` little
    NAME.sign        int8 (out,); NAME.thresholds int32 (2**bits - 1, out): an activation's code is the number of thresholds
                     that sign * sum(activation code * weight level) reaches, weight level = 2 * code - (2**bits - 1)
    conv6.scale, conv6.shift float32 (out,), conv6.kappa float32: features = clip(kappa * sum * scale + shift, 0, 1)
"""

import io
import json
import zipfile
from pathlib import Path

import numpy as np

from bitnet import models
from bitnet.checkpoint import CheckpointError, write_atomically
from bitnet.codes import Codes
from bitnet.kernels.machine import threads
from bitnet.kernels.pointwise import norm, quantize
from bitnet.kernels.pointwise.threshold import pack_thresholds
from bitnet.kernels.products import accumulator_type, dense, direct, popcount
from bitnet.kernels.products.geometry import Conv
from bitnet.kernels.products.packing import pack_channels
from bitnet.tensor import Tensor

FORMAT, VERSION = "bitnet frozen network", 1
CHUNK = 32  # images that go through all stages together, small enough to stay in cache


def _thresholds(kappa, scale, shift, bits, bound):
    """Sign and thresholds of the staircase code(accum), by bisection on the float arithmetic of the unfrozen network.

    Every operation in it is monotone, rounding included, so the staircase is, and each of its steps is one integer.

    Returns
    -------
    sign : int32 (C,); thresholds : int32 (2**bits - 1, C)
    """
    top = np.float32((1 << bits) - 1)
    scale, shift = scale.astype(np.float32), shift.astype(np.float32)
    sign = np.where(scale < 0, -1, 1).astype(np.int64)

    def code(v):
        z = (v * sign).astype(np.float32) * kappa * scale + shift
        return np.rint(top * np.clip(z, np.float32(0), np.float32(1)))

    wanted = np.arange(1, int(top) + 1)[:, None]
    low = np.full((len(wanted), len(scale)), -bound - 1)  # not reached here, nor perhaps anywhere
    high = np.full_like(low, bound + 1)
    while (high - low > 1).any():
        middle = (low + high) // 2
        reached = code(middle) >= wanted
        high, low = np.where(reached, middle, high), np.where(reached, low, middle)
    return sign.astype(np.int32), high.astype(np.int32)


class _Inner:
    """An inner layer whose inputs have ``bits`` bits: ``accum`` gives the sums (N, OH, OW, F) of packed activations."""

    def __init__(self, name, codes, bits, conv, size, pool):
        self.name, self.codes, self.bits, self.conv, self.pool = name, codes, bits, conv, pool
        self.flat, size = conv.flattened(*size)
        weight, x = codes.with_values(codes.values.reshape(self.flat.weight_shape)), Codes(None, bits, "unsigned")
        self.accum = popcount.Forward(x, weight, self.flat, size, accumulator_type(x, weight, conv))


class FrozenNetwork:
    """A network made of integer stages; ``bitnet.freeze`` makes one, ``bitnet.load`` reads one.

    Calling it with images (N, 40, 40, 3), float32 in [0, 1), gives a Tensor of logits (N, 10).
    """

    training = False

    def __init__(self, config, arrays, inner):
        self.config, self.arrays, self.inner = config, arrays, inner
        self.signs = [arrays[f"{layer.name}.sign"].astype(np.int32) for layer in inner[:-1]]

    def eval(self):
        """Nothing to do: a frozen network only evaluates."""
        return self

    def __call__(self, x):
        images = np.ascontiguousarray(x.data if isinstance(x, Tensor) else x, np.float32)
        if images.shape[1:] != (40, 40, 3):
            raise ValueError(f"the network takes images of shape (N, 40, 40, 3), got {images.shape}")
        features = np.empty((len(images), 1, 1, self.inner[-1].conv.out_channels), np.float32)

        def chunks(start, stop):
            for i in range(start, stop):
                part = slice(i * CHUNK, (i + 1) * CHUNK)
                features[part] = self._features(images[part])

        threads.run(chunks, -(-len(images) // CHUNK))
        weight = self.arrays["fc.weight"]
        conv = Conv(*weight.shape, (1, 1))
        logits = dense.forward(features, weight.reshape(conv.weight_shape), conv, self.arrays["fc.bias"])
        return Tensor(logits.reshape(len(images), -1))

    def codes(self, images):
        """Packed codes that every inner layer receives, for a few images: a list of uint32 arrays."""
        return list(self._stages(images))[:-1]

    def _stages(self, images):
        weight = self.arrays["conv0.weight"]
        conv = Conv(weight.shape[2], weight.shape[3], weight.shape[:2])
        values, _ = direct.encode(images, weight, conv, self.arrays["conv0.bias"], 2, self.inner[0].bits)
        words = pack_channels(Codes(values, self.inner[0].bits, "unsigned"), 1, self.inner[0].conv.padding)
        for i, layer in enumerate(self.inner[:-1]):
            yield words
            following = self.inner[i + 1]
            words = pack_thresholds(layer.accum(words), self.signs[i], self.arrays[f"{layer.name}.thresholds"], layer.pool,
                                    following.bits, following.conv.padding)
        yield words
        yield self._last(words)

    def _last(self, words):
        layer = self.inner[-1]
        if layer.flat is not layer.conv:  # the filter covers the image: bits of all pixels in one run of words
            words = _joined(words, layer.bits, layer.conv.in_channels)
        y = layer.accum(words, np.full(len(words), self.arrays["conv6.kappa"], np.float32))
        return quantize.clip(norm.channel_affine(y, self.arrays["conv6.scale"], self.arrays["conv6.shift"]), 0, 1)

    def _features(self, images):
        *_, features = self._stages(images)
        return features

    def save(self, path):
        """Write the network to ``path`` (.npz); see the head of this file for what is in it."""
        network = {"format": FORMAT, "version": VERSION, "config": self.config, "layers": [
            {"name": layer.name, "shape": list(layer.conv.weight_shape), "bits": layer.codes.bits} for layer in self.inner]}
        planes = {f"{layer.name}.planes": np.stack([np.packbits(layer.codes.values.ravel() >> bit & 1, bitorder="little")
                                                    for bit in range(layer.codes.bits)]) for layer in self.inner}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, network=np.array(json.dumps(network)), **planes, **self.arrays)
        write_atomically(path, buffer.getbuffer())


def _joined(words, bits, channels):
    """Packed pixels (N, 1, bits, H, W, word) as one run of H * W * channels bits: (N, 1, bits, 1, 1, words)."""
    samples = len(words)
    if channels % 32 == 0:
        return np.ascontiguousarray(words).reshape(samples, 1, bits, 1, 1, -1)
    stream = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")[..., :channels]
    stream = stream.reshape(samples, bits, -1)
    padded = np.zeros((samples, bits, -(-stream.shape[2] // 32) * 32), np.uint8)
    padded[..., :stream.shape[2]] = stream
    return np.packbits(padded, axis=-1, bitorder="little").view(np.uint32).reshape(samples, 1, bits, 1, 1, -1)


def _widths(config, name):
    """(W, A, G) of an inner layer of a configuration."""
    return models.parse_bits(config["overrides"].get(name, config["bits"]))


def _geometry(config):
    """Convolution, input size and pooling of every inner layer of a configuration."""
    model = models.build(config)
    size, layers = (18, 18), {}
    for name in models.INNER_LAYERS:
        layer, pool = getattr(model, name), 2 if name == "conv2" else 1
        kh, kw, inputs, outputs = layer.weight.shape
        pad = ((1, 1), (1, 1)) if layer.padding == "same" else ((0, 0), (0, 0))
        conv = Conv(inputs, outputs, (kh, kw), (1, 1), pad)
        layers[name] = conv, size, pool
        size = tuple(length // pool for length in conv.output_size(*size))
    return layers


def freeze(model):
    """Compile a trained SVHN network into integer stages.

    Parameters
    ----------
    model : models.SVHN, all of whose inner layers have weights and activations of 1 to 8 bits

    Returns
    -------
    network : FrozenNetwork, with the same codes and logits as ``model.eval()``

    Raises
    ------
    ValueError : another kind of model, or an inner layer in float.
    """
    if not isinstance(model, models.SVHN):
        raise ValueError(f"freeze takes a network of bitnet.models.SVHN, got {type(model).__name__}")
    names = models.INNER_LAYERS
    for name in names:
        w_bits, a_bits, _ = _widths(model.config, name)
        if 32 in (w_bits, a_bits):
            raise ValueError(f"freeze needs weights and activations of 1 to 8 bits, {name} has {w_bits} and {a_bits}")
    arrays = {f"{name}.{part}": getattr(getattr(model, name), part).data.copy()
              for name in ("conv0", "fc") for part in ("weight", "bias")}
    inner = []
    for i, (name, (conv, size, pool)) in enumerate(_geometry(model.config).items()):
        layer, norm = getattr(model, name), getattr(model, f"bn{name[4:]}")
        codes = layer.weight_quantizer.encode(layer.weight.data)
        a_bits = _widths(model.config, name)[1]
        kappa = np.float32(codes.scale * (1 / ((1 << a_bits) - 1)))
        scale = norm.gamma.data * (1 / np.sqrt(norm.running_var + norm.eps))
        shift = norm.beta.data - norm.running_mean * scale
        if name == names[-1]:
            arrays |= {f"{name}.kappa": np.array(kappa), f"{name}.scale": scale.astype(np.float32),
                       f"{name}.shift": shift.astype(np.float32)}
        else:
            out_bits = _widths(model.config, names[i + 1])[1]
            bound = ((1 << a_bits) - 1) * ((1 << codes.bits) - 1) * conv.in_channels * conv.kernel[0] * conv.kernel[1]
            sign, thresholds = _thresholds(kappa, scale, shift, out_bits, bound)
            arrays |= {f"{name}.sign": sign.astype(np.int8), f"{name}.thresholds": thresholds}
        inner.append(_Inner(name, codes, a_bits, conv, size, pool))
    return FrozenNetwork(model.config, arrays, inner)


def load_frozen(content, path):
    """The network in the bytes of a file of ``FrozenNetwork.save``; CheckpointError where they hold something else."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        network = json.loads(str(arrays.pop("network")))
        if (network["format"], network["version"]) != (FORMAT, VERSION):
            raise CheckpointError(f"{path}: expected {FORMAT!r} of version {VERSION}, found {network['format']!r} of version "
                                  f"{network['version']}")
        geometry, inner = _geometry(network["config"]), []
        for entry in network["layers"]:
            planes = arrays.pop(f"{entry['name']}.planes")
            conv, size, pool = geometry[entry["name"]]
            bits = np.unpackbits(planes, axis=1, count=int(np.prod(conv.weight_shape)), bitorder="little")
            values = (bits << np.arange(entry["bits"], dtype=np.uint8)[:, None]).sum(axis=0, dtype=np.uint8)
            codes = Codes(values.reshape(conv.weight_shape), entry["bits"], "bipolar")
            inner.append(_Inner(entry["name"], codes, _widths(network["config"], entry["name"])[1], conv, size, pool))
        return FrozenNetwork(network["config"], arrays, inner)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, OSError, EOFError, IndexError, AttributeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: expected a frozen network, found one cut short or damaged: {error}") from None


def size_report(network, path):
    """One sentence: what the file of a frozen network takes beside its weights in float32."""
    floats = sum(4 * int(np.prod(layer.conv.weight_shape)) for layer in network.inner)
    floats += sum(array.nbytes for name, array in network.arrays.items() if name.startswith(("conv0", "fc")))
    taken = Path(path).stat().st_size
    return (f"{path}: {taken / 1e3:.1f} kB, {floats / taken:.1f} times smaller than its weights in float32 "
            f"({floats / 1e6:.2f} MB)")

