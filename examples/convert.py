"""Convert a trained network to few bits, without training it or with a little of it.

    python examples/convert.py runs/mnist-float/checkpoint.h5 --method fgq --data data/mnist
    python examples/convert.py MODEL --method fgq --bits 2,4,32 --with group=64 --data DIR
    python examples/convert.py MODEL --method sketching --with refined=false --epochs 1 --data DIR

MODEL is a checkpoint of a training script or a saved network, with real weights. The method gets some images of the training
set; --epochs then goes on training the converted network (fine-tuning). Tells the test accuracy before and after, and writes
the network, which can be trained on, and beside it, as .npz, the same network compiled for inference.
"""

if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C while the rest is imported leaves no traceback


import argparse
import sys

import numpy as np

import bitnet
from bitnet import datasets, deploy, execution, methods, report, training
from bitnet.kernels.machine import threads
from bitnet.module import Signal
from bitnet.training.run import Parser, UsageError, bits, folder, guarded, number


def setting(text):
    """A parser of NAME=VALUE: a whole number, true, false or a word."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE such as group=64, found {text!r}")
    return name, {"true": True, "false": False}.get(value, int(value) if value.isdecimal() else value)


def parse(argv):
    parser, known = Parser(__file__, __doc__), methods.conversions()
    add = parser.add_argument
    add("model", metavar="MODEL", type=folder, help="a checkpoint or a saved network")
    add("--method", choices=known, required=True, metavar="NAME", help=f"one of {', '.join(known)}")
    add("--bits", type=bits, metavar="W,A,G", help="bits of weights, activations, gradients (the method's own)")
    add("--with", dest="options", type=setting, nargs="+", default=[], metavar="NAME=VALUE", help="options of the method")
    add("--data", metavar="DIR|synthetic", required=True, help="a folder with MNIST, SVHN or train/CLASS/ and test/CLASS/")
    add("--images", type=number(int, 1), metavar="N", help="how many images of the training set the method gets (its own)")
    add("--epochs", type=number(int, 0), default=0, metavar="N", help="of training afterwards (0)")
    add("--lr", type=number(float, 0, strictly=True), default=1e-4, help="its learning rate at the start (0.0001)")
    add("--seed", type=number(int, 0), default=0, metavar="S", help="of everything random (0)")
    add("--threads", type=number(int, 1), metavar="T", help="changes speed only (all processors)")
    add("--kernels", choices=["auto", *execution.FAMILIES], default="auto", help="changes speed only (auto)")
    add("--out", type=folder, metavar="FILE", help="a new file (MODEL's name with the method's, .h5)")
    return parser.parse_args(argv)


def some(train, count, seed):
    """So many images of a training set, drawn without repetition."""
    if not count < len(train):
        return train
    chosen = np.sort(np.random.default_rng(seed).choice(len(train), count, replace=False))
    return datasets.Dataset(train.images[chosen], train.targets[chosen], train.classes, train.name)


def convert(given):
    out = given.out or given.model.with_name(f"{given.model.stem}-{given.method}.h5")
    for path in (out, out.with_suffix(".npz")):
        if path.exists():
            raise UsageError(f"{path}: expected a file that is not there yet, found one; --out names another")
    if given.threads:
        threads.set_threads(given.threads)
    network = bitnet.load(given.model)
    takes = network.input_shape
    if not isinstance(network, bitnet.Module) or takes is None or len(takes) != 3:
        raise UsageError(f"{given.model}: expected a network that can be trained on pictures, found another one")
    try:
        method = methods.get(given.method)(*([given.bits] if given.bits else []), **dict(given.options))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{given.method} does not take what it was given: {error}") from None
    train, test, messages = datasets.load_both(given.data, takes)
    print(*messages, sep="\n", flush=True)
    bitnet.random.seed(given.seed)
    try:
        if test.shape != takes:
            raise ValueError(f"expected a network for images of {test.shape}, as {test.name} has, found one for {takes}")
        if network.trace(Signal(takes)).shape != (len(test.classes),):
            raise ValueError(f"expected a network for the {len(test.classes)} classes of {test.name}, found another one")
        before = training.evaluate(network, test).accuracy
        print(f"before: test accuracy {before:.2%} on {test.name}, {len(test):,} images", flush=True)
        network = method.convert(network, some(train, given.images or method.examples, given.seed))
    except ValueError as error:
        raise UsageError(f"{given.model}: {error}") from None
    print(f"{method.describe()}: test accuracy {training.evaluate(network, test).accuracy:.2%}", flush=True)
    if given.epochs:
        options = methods.training_of(network, given.lr)
        training.Trainer(network, train, test, epochs=given.epochs, batch_size=method.recipe.batch_size, seed=given.seed,
                         callbacks=[report.Progress()], **options).run()
    print(network.summary())
    bitnet.save(out, network)
    print(f"wrote {out}")
    try:
        frozen = bitnet.freeze(network)
    except ValueError as error:
        print(f"no {out.with_suffix('.npz')}: {error}")
    else:
        frozen.save(out.with_suffix(".npz"))
        print(deploy.size_report(frozen, out.with_suffix(".npz")))
    return 0


def main(argv=None):
    return guarded(convert, parse(argv), "convert.py")


if __name__ == "__main__":
    sys.exit(main())
