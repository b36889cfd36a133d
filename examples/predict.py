"""Read digits from pictures with a trained network.

    python examples/predict.py runs/svhn-a-1-2-4/checkpoint.h5 house.png door.jpg

Prints a line for each picture: path, class, probability. A digit of a house number should fill most of its picture; one for a
network of MNIST may be dark or bright, of any size, anywhere on plain paper.
"""

if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C while the rest is imported leaves no traceback


import argparse
import math
import sys
from pathlib import Path

import bitnet
from bitnet import functional
from bitnet.datasets import DataError, prepare_for
from bitnet.storage import CheckpointError, plain
from bitnet.training.run import Parser, guarded

LARGEST = 1 << 24  # numbers of a picture that a network may ask for


def parse(argv):
    parser = Parser(__file__, __doc__)
    parser.add_argument("model", metavar="MODEL", type=Path,
                        help="a checkpoint of a training script, its frozen.npz, or a saved network")
    parser.add_argument("images", metavar="IMAGE", nargs="+")
    return parser.parse_args(argv, argparse.Namespace(kernels="auto"))


def predict(given):
    network = bitnet.load(given.model.expanduser())
    shape = network.input_shape
    if shape is None or len(shape) != 3 or shape[2] not in (1, 3) or math.prod(shape) > LARGEST:
        raise CheckpointError(f"{given.model}: expected a network for pictures that tells their size, found one for {shape}")
    code = 0
    for path in given.images:
        try:
            # grey networks are MNIST's: their pictures are made in its manner
            kind = "fit" if shape[0] != shape[1] else "ink" if shape[2] == 1 else "photo"
            image = prepare_for(path, kind, shape)
        except DataError as error:  # the others are read all the same
            print(f"predict.py: {error}", file=sys.stderr)
            code = 2
            continue
        try:
            with bitnet.no_grad():
                probabilities = functional.softmax(network(image[None]).data)[0]
            if probabilities.ndim != 1 or len(network.classes or probabilities) != len(probabilities):
                raise ValueError(f"it gives numbers of shape {probabilities.shape}")
            best = int(probabilities.argmax())
            name = plain(network.classes[best]) if network.classes else best
            print(f"{path}  {name}  {probabilities.max():.4f}", flush=True)
        except ValueError as error:  # the picture is as the network says
            raise CheckpointError(f"{given.model}: expected a network that tells classes of pictures of {shape}, found another "
                                  f"one: {plain(error)}") from None
    return code


def main(argv=None):
    return guarded(predict, parse(argv), "predict.py")


if __name__ == "__main__":
    sys.exit(main())
