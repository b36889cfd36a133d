"""Read digits from pictures with a trained network.

    python examples/predict.py svhn house.png                     # a network that comes along
    python examples/predict.py runs/svhn-a-1-2-4/checkpoint.h5 house.png door.jpg

Prints a line for each picture: path, class, probability. A digit of a house number should fill most of its picture; one for a
network of MNIST may be dark or bright, of any size, anywhere on plain paper.
"""

if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C while the rest is imported leaves no traceback


import argparse
import sys
from pathlib import Path

import bitnet
from bitnet import pretrained
from bitnet.training.prediction import print_predictions
from bitnet.training.run import Parser, guarded


def parse(argv):
    parser = Parser(__file__, __doc__)
    parser.add_argument("model", metavar="MODEL", type=Path,
                        help="a checkpoint of a training script, its frozen.npz, a saved network, or one that comes along: "
                        + ", ".join(pretrained.names()))
    parser.add_argument("images", metavar="IMAGE", nargs="+")
    return parser.parse_args(argv, argparse.Namespace(kernels="auto"))


def predict(given):
    network = bitnet.load(given.model)
    return print_predictions(network, given.model, given.images, "predict.py")


def main(argv=None):
    return guarded(predict, parse(argv), "predict.py")


if __name__ == "__main__":
    sys.exit(main())
