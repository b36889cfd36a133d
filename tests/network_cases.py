"""Networks of every kind, for tests of what reads trees: freezing and exporting."""

import numpy as np

from bitnet import Residual, Sequential, layers, methods, models


def trained(net):
    """A network whose batch norms have slopes of both signs, one of them 0."""
    rng = np.random.default_rng(0)
    for name, buffer in net.named_buffers().items():
        if "running" in name:
            buffer[...] = rng.normal(0, 0.3, buffer.shape) if name.endswith("mean") else rng.uniform(0.2, 2, buffer.shape)
    for name, parameter in net.named_parameters().items():
        if name.endswith("gamma"):
            parameter.data[...] = rng.normal(0.4, 0.6, parameter.shape)
            parameter.data[0] = 0
        elif name.endswith("beta"):
            parameter.data[...] = rng.normal(0.3, 0.3, parameter.shape)
    return net.eval()


def pixels(shape, count=9):
    return np.random.default_rng(2).integers(0, 256, (count, *shape)).astype(np.uint8)


def lenet(method):
    return method.apply(Sequential(
        images=layers.Images(28, 28, 1), block0=layers.Block(1, 8, 5, pool=2, order="conv pool norm act"),
        block1=layers.Block(8, 16, 5, pool=2, order="conv pool norm act"), block2=layers.Block(16, 33, 4),
        fc=layers.Conv2d(33, 10, 1, bias=True), flatten=layers.Flatten()), seed=1)


def own_tree(method):
    return method.apply(Sequential(
        images=layers.Images(16, 18, 3),
        first=layers.Block(3, 24, 3, padding="same", pool=2),
        body=Sequential(Residual(layers.Block(24, 24, 3, padding="same", groups=24), layers.Block(24, 24, 1)),
                        layers.Block(24, 40, 3, stride=2, padding=1)),
        short=Residual(layers.Block(40, 20, 1), shortcut=layers.Conv2d(40, 20, 1)),
        pool=layers.AvgPool(2), flatten=layers.Flatten(), fc=layers.Linear(20 * 2 * 2, 5)), seed=2)


def padded_pools(method):
    """The AlexNet's poolings and its standardized pixels, in small."""
    return method.apply(Sequential(
        images=layers.Images(20, 22, 3), pixels=layers.Standardize((90, 100, 110), (50, 60, 70), (2, 1, 0)),
        conv0=layers.Block(3, 12, 4, stride=2, norm=False),
        conv1=layers.Block(12, 16, 3, padding="same", groups=2, pool=layers.MaxPool(3, 2, "same")),
        conv2=layers.Block(16, 12, 3, padding="same", pool=layers.MaxPool(3, 2, ((0, 1), (1, 1)))),
        fc0=layers.Block.of("conv norm pool act", layers.Conv2d(12, 20, (2, 3), bias=True), layers.BatchNorm(20),
                            layers.Activation()),
        sums=layers.AvgPool(1, total=True), flatten=layers.Flatten(), fct=layers.Linear(20, 5)), seed=3)


CASES = {f"svhn {bits}": (lambda bits=bits: models.svhn("D", bits)) for bits in
         ((1, 2, 4), (1, 1, 32), (2, 3, 4), (8, 8, 8), (1, 4, 4), (1, 32, 32), (32, 2, 32), (32, 32, 32))}
CASES |= {"overrides": lambda: models.svhn("D", overrides={"conv3": (3, 1, 4), "conv6": (2, 5, 4)})}
CASES |= {name: (lambda name=name: lenet(methods.get(name)())) for name in methods.names() if name != "bitwise"}
CASES |= {f"svhn {name}": (lambda name=name: methods.build(name, "svhn", model="D")) for name in
          ("bnn", "xnor_release", "twn", "ttq", "gxnor", "qnn")}
CASES |= {"bitwise": lambda: methods.Bitwise().apply(models.build("mlp", width=40), seed=0),
          "twn in few bits": lambda: lenet(methods.TWN(2, 2, 4)), "ttq in few bits": lambda: lenet(methods.TTQ(2, 1, 32)),
          "bnn mlp": lambda: methods.BNN().apply(models.build("mlp", width=70), seed=0),
          "resnet18": lambda: methods.DoReFa(1, 4, 32).apply(models.build("resnet18", classes=5, size=32)),
          "bfcn": lambda: methods.DoReFa(1, 2, 4).apply(models.build("bfcn", shape=(16, 24, 3), classes=4, widths=(8, 16),
                                                                     features=8)),
          "padded pools": lambda: padded_pools(methods.DoReFa(1, 2, 6)),
          "padded pools bnn": lambda: padded_pools(methods.BNN()),
          "own dorefa": lambda: own_tree(methods.DoReFa(1, 2, 4)), "own ternary": lambda: own_tree(methods.GXNOR()),
          "own float": lambda: own_tree(methods.Float())}
