"""Single layers: bit, float and, where installed, PyTorch and OpenVINO.

    python benchmarks/conv.py
    python benchmarks/conv.py --json runs/conv.json --threads 1

forward, input_grad and weight_grad are the three products: of ours from codes to integers (gradients: to scaled sums),
packing included, and forward once more on operands that are packed already ("bare"); of PyTorch from floats to floats; of
OpenVINO the time of the convolution node by its own profiler, without quantizing and reordering. layer is the forward pass as
a user meets it: float in, quantize, pack, convolve, float out, with weights that are quantized already. Layers are those of
DoReFa-Net's SVHN models A and C, AlexNet and ResNet-18.
"""

import sys
from typing import NamedTuple

import common
import numpy as np
import peers
import pictures

from bitnet import Codes, execution, models, use_kernels
from bitnet.functional import same_padding
from bitnet.kernels import products
from bitnet.kernels.products import popcount
from bitnet.kernels.products.geometry import Conv
from bitnet.kernels.products.packing import pack_channels
from bitnet.module import without_values
from bitnet.quantizers import DoReFaActivation

PAIRS = ((1, 1), (1, 2), (2, 2))
GRADIENTS = (2, 4, 6, 8)


class Layer(NamedTuple):
    """A layer and the images that it is given."""

    name: str
    batch: int
    size: int
    conv: Conv


def _layer(name, batch, size, channels, filters, kernel, stride=1, padding="same", groups=1):
    sides = same_padding(size, kernel, stride) if padding == "same" else (padding, padding)
    conv = Conv(channels, filters, (kernel, kernel), (stride, stride), (sides, sides), groups).check()
    return Layer(name, batch, size, conv)


def svhn(model):
    """The six inner layers of an SVHN model."""
    with without_values():
        net = models.svhn(model)
    shapes, _ = peers.shapes_of(net)
    found = []
    for name in models.INNER_LAYERS:
        conv, size = net[name].conv.geometry(shapes[id(net[name].conv)])
        found.append(Layer(f"SVHN-{model} {name}", 128, size[0], conv))
    return found


ALEXNET = [
    _layer("AlexNet conv1", 8, 54, 96, 256, 5, groups=2),
    _layer("AlexNet conv2", 8, 27, 256, 384, 3),
    _layer("AlexNet conv3", 8, 14, 384, 384, 3, groups=2),
    _layer("AlexNet conv4", 8, 14, 384, 256, 3, groups=2),
    _layer("AlexNet fc0", 8, 6, 256, 4096, 6, padding=0),
    _layer("AlexNet fc1", 8, 1, 4096, 4096, 1, padding=0),
]
RESNET18 = [
    _layer("ResNet-18 conv2_x", 16, 56, 64, 64, 3),
    _layer("ResNet-18 conv3_1", 16, 56, 64, 128, 3, 2, padding=1),
    _layer("ResNet-18 conv3_x", 16, 28, 128, 128, 3),
    _layer("ResNet-18 conv4_1", 16, 28, 128, 256, 3, 2, padding=1),
    _layer("ResNet-18 conv4_x", 16, 14, 256, 256, 3),
    _layer("ResNet-18 conv5_1", 16, 14, 256, 512, 3, 2, padding=1),
    _layer("ResNet-18 conv5_x", 16, 7, 512, 512, 3),
    _layer("ResNet-18 short3", 16, 56, 64, 128, 1, 2, padding=0),
]
LAYERS = [*svhn("A"), *svhn("C"), *ALEXNET, *RESNET18]
QUICK_LAYERS = [layer for layer in LAYERS if layer.name in ("SVHN-A conv4", "SVHN-C conv2")]


class Work:
    """One layer with its operands, and the contenders for its four pieces of work."""

    def __init__(self, layer, given):
        self.layer, self.conv, self.given = layer, layer.conv, given
        rng = np.random.default_rng(0)
        self.x_shape = (layer.batch, layer.size, layer.size, layer.conv.in_channels)
        self.g_shape = (layer.batch, *layer.conv.output_size(layer.size, layer.size), layer.conv.out_channels)
        self.x = rng.random(self.x_shape, np.float32)
        self.w = rng.standard_normal(layer.conv.weight_shape).astype(np.float32)
        self.g = rng.standard_normal(self.g_shape).astype(np.float32)
        self.random = rng.integers(0, 256, max(self.x.size, self.w.size, self.g.size), np.uint8)
        self.macs = layer.conv.macs(layer.batch, layer.size, layer.size)
        self.floats, self.in_float = None, set()
        self.case = f"{layer.name}, {layer.batch}"

    def _codes(self, shape, bits, encoding, scale=1.0):
        """A function that makes new codes: nothing that is packed once and kept may escape the clock."""
        values = np.ascontiguousarray(self.random[:np.prod(shape)].reshape(shape) >> (8 - bits))
        return lambda: Codes(values, bits, encoding, scale)

    def operands(self, path, w_bits, a_bits, g_bits):
        """The two codes of a product, as functions."""
        x = a_bits and self._codes(self.x_shape, a_bits, "unsigned", 1 / ((1 << a_bits) - 1))
        w = w_bits and self._codes(self.conv.weight_shape, w_bits, "bipolar")
        g = g_bits and self._codes(self.g_shape, g_bits, "bipolar", np.full(len(self.g), 0.01))
        return {"forward": (x, w), "input_grad": (g, w), "weight_grad": (g, x)}[path]

    def call(self, path, lhs, rhs, family):
        """A product by the kernels of one family."""
        size, scale = self.x_shape[1:3], np.full(len(self.x), 0.01)
        if path == "forward":
            return lambda: products.forward(family, lhs(), rhs(), self.conv)
        if path == "input_grad":
            return lambda: products.input_grad(family, lhs(), rhs(), self.conv, size, scale)
        return lambda: products.weight_grad(family, lhs(), rhs(), self.conv, scale)

    def logged(self, path, lhs, rhs):
        """Which family a product runs on under the kernels in force, and what that moves."""
        run = {"forward": lambda: execution.forward(lhs, rhs, self.conv),
               "input_grad": lambda: execution.input_grad(lhs, rhs, self.conv, self.x_shape[1:3]),
               "weight_grad": lambda: execution.weight_grad(lhs, rhs, self.conv)}[path]
        with execution.log() as records:
            run()
        return common.executed(records), records[0]

    def contender(self, path, bits, impl, variants, **more):
        if bits == "32,32,32":
            more["bytes"] = 4 * (self.x.size + self.w.size + self.g.size)
        return common.Contender(self.case, path, bits, impl, variants, self.macs, "gmacs", self.macs, **more)

    def of_ours(self, path, bits):
        """All families and the automatic choice for one product; bits as (W, A, G), None where a number plays no part.

        The float family multiplies levels, whatever their bits: it is measured with the first ones.
        """
        found = []
        lhs, rhs = self.operands(path, *bits)
        for name in (*execution.FAMILIES, "auto"):
            if name == "float" and path in self.in_float:
                continue
            with use_kernels(name):
                (binary, moved), record = self.logged(path, lhs(), rhs())
            if record.note and name != "auto":
                continue  # not a product of codes: the same whatever the family
            note = record.note or f"takes {record.family}"
            same = next((other for other in found if other.impl == record.family), None) if name == "auto" else None
            if name == "float":
                self.in_float.add(path)
            found.append(self.contender(
                path, common.bits_text(*bits), name, {"": self.call(path, lhs, rhs, record.family)}, same=same,
                binary_macs=binary if name == "popcount" else 0, bytes=moved, note=note if name == "auto" else ""))
        return found

    def bare(self, w_bits, a_bits):
        """The forward product alone, by popcount on operands that are packed already."""
        x, w = (make() for make in self.operands("forward", w_bits, a_bits, None))
        conv, size = self.conv.flattened(*self.x_shape[1:3])
        w = w.with_values(w.values.reshape(conv.weight_shape))
        forward = popcount.Forward(x, w, conv, size, products.accumulator_type(x, w, conv))
        words = pack_channels(x.with_values(x.values.reshape(len(self.x), *size, conv.in_channels)), conv.groups, conv.padding)
        return self.contender("forward", common.bits_text(w_bits, a_bits, None), "popcount", {"": lambda: forward(words)},
                              binary_macs=self.macs * w_bits * a_bits, note="bare: operands packed before",
                              extra={"bare": True})

    def of_floats(self, path):
        """Our own float path."""
        lhs, rhs = {"forward": (self.x, self.w), "layer": (self.x, self.w), "input_grad": (self.g, self.w),
                    "weight_grad": (self.g, self.x)}[path]
        size = self.x_shape[1:3]

        def call():
            if path in ("forward", "layer"):
                execution.forward(lhs, rhs, self.conv)
            elif path == "input_grad":
                execution.input_grad(lhs, rhs, self.conv, size)
            else:
                execution.weight_grad(lhs, rhs, self.conv)

        return self.contender(path, "32,32,32", "float", {"": call})

    def layers_of_ours(self, w_bits, a_bits):
        """The whole layer on codes, by all families."""
        quantizer, weight, found = DoReFaActivation(a_bits), self.operands("forward", w_bits, a_bits, None)[1](), []
        for name in (*execution.FAMILIES, "auto"):
            def call(name=name):
                with use_kernels(name):
                    execution.forward(quantizer.encode(self.x), weight, self.conv)

            with use_kernels(name):
                (binary, _), record = self.logged("forward", quantizer.encode(self.x), weight)
            found.append(self.contender("layer", common.bits_text(w_bits, a_bits, None), name, {"": call},
                                        binary_macs=binary if name == "popcount" else 0,
                                        note=f"takes {record.family}" if name == "auto" else ""))
        return found

    def of_torch(self, path):
        """PyTorch float32 and, for the layer, the simulation."""
        import torch_peer

        compile = not self.given.quick
        if path in ("input_grad", "weight_grad"):
            return [self.contender(path, "32,32,32", "torch", torch_peer.gradient(self.x, self.w, self.g, self.conv, path),
                                   peer=True)]
        if self.floats is None:  # forward and layer are the same to a float
            self.floats = torch_peer.forward(self.x, self.w, self.conv, None, compile)
        found = [self.contender(path, "32,32,32", "torch", self.floats, peer=True)]
        if path == "layer":
            found.append(self.contender(path, "1,2,-", "torch_fake_quant",
                                        torch_peer.forward(self.x, self.w, self.conv, 2, compile), peer=True))
        return found

    def of_openvino(self, path):
        """OpenVINO's three ways."""
        import openvino_peer

        found = []
        if path in ("input_grad", "weight_grad"):
            return found
        for kind, bits in (("openvino", "32,32,32"), ("openvino_int8", "8,8,-"), ("openvino_binary", "1,1,-")):
            if kind == "openvino_binary" and self.conv.groups != 1:
                continue
            make = openvino_peer.layer if path == "layer" else openvino_peer.product
            note = "node's own time" if path == "forward" else ""
            found.append(self.contender(path, bits, kind, make(self.x, self.w, self.conv, kind, self.given.threads), note=note,
                                        peer=True))
        return found

    def contenders(self, path):
        """Everything that does this piece of work."""
        pairs, gradients = (((1, 2),), (4,)) if self.given.quick else (PAIRS, GRADIENTS)
        if path == "layer":
            found = [contender for pair in pairs for contender in self.layers_of_ours(*pair)]
        elif path == "forward":
            found = [contender for w, a in pairs for contender in (*self.of_ours(path, (w, a, None)), self.bare(w, a))]
        elif path == "input_grad":
            found = [contender for w in sorted({w for w, _ in pairs}) for g in gradients
                     for contender in self.of_ours(path, (w, None, g))]
        else:
            found = [contender for a in sorted({a for _, a in pairs}) for g in gradients
                     for contender in self.of_ours(path, (None, a, g))]
        found.append(self.of_floats(path))
        if common.installed("torch"):
            found += self.of_torch(path)
        if common.installed("openvino"):
            found += self.of_openvino(path)
        return found


def main(argv=None):
    given = common.options("conv.py", __doc__, argv)
    about, peak = common.begin(given)
    table, rows = common.Table(), []
    for layer in QUICK_LAYERS if given.quick else LAYERS:
        work = Work(layer, given)
        for path in ("forward", "input_grad", "weight_grad", "layer"):
            found = common.measure(work.contenders(path), peak, 3)
            table.add(found)
            rows += found
    common.finish(given, {"machine": about, "peak": peak, "rows": rows}, pictures.draw_layers)


if __name__ == "__main__":
    sys.exit(common.run("conv.py", main))
