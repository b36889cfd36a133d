"""Read digits from pictures with a trained model.

    python examples/predict.py runs/svhn-a-1-2-4/checkpoint.h5 house.png door.jpg

Prints a line for each picture: path, class, probability. A digit of a house number should fill most of its picture; one for a
network of MNIST may be dark or bright, of any size, anywhere on plain paper.
"""

import argparse
import sys
from pathlib import Path

import bitnet
from bitnet import functional
from bitnet.datasets import DataError, prepare_for
from bitnet.storage import CheckpointError
from bitnet.training.run import Parser, guarded


def parse(argv):
    parser = Parser(__file__, __doc__)
    parser.add_argument("model", metavar="MODEL", type=Path,
                        help="a checkpoint of a training script, its frozen.npz, or a saved model")
    parser.add_argument("images", metavar="IMAGE", nargs="+")
    return parser.parse_args(argv, argparse.Namespace(kernels="auto"))


def predict(given):
    model = bitnet.load(given.model.expanduser())
    shape = model.input_shape
    if shape is None:
        raise CheckpointError(f"{given.model}: expected a network that tells the size of its images, found another")
    code = 0
    for path in given.images:
        try:
            # grey networks are MNIST's: their pictures are made in its manner
            image = prepare_for(path, "ink" if shape[2] == 1 else "photo", shape)
        except DataError as error:  # the others are read all the same
            print(f"predict.py: {error}", file=sys.stderr)
            code = 2
            continue
        with bitnet.no_grad():
            probabilities = functional.softmax(model(image[None]).data)[0]
        best = int(probabilities.argmax())
        print(f"{path}  {model.classes[best] if model.classes else best}  {probabilities.max():.4f}", flush=True)
    return code


def main(argv=None):
    return guarded(predict, parse(argv), "predict.py")


if __name__ == "__main__":
    sys.exit(main())
