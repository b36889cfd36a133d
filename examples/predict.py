"""Read digits from pictures with a trained model.

    python examples/predict.py runs/svhn-a-1-2-4/checkpoint.h5 house.png door.jpg

Prints a line for each picture: path, digit, probability. A digit should fill most of its picture.
"""

import argparse
import sys

import numpy as np

import bitnet
from bitnet import functional
from bitnet.checkpoint import CheckpointError
from bitnet.datasets import DataError, luminance, prepare_image


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; --help shows all options\n")


def main(argv=None):
    parser = Parser(prog="predict.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL",
                        help="a checkpoint of a training script, frozen.npz of train_svhn.py, or a saved model")
    parser.add_argument("images", metavar="IMAGE", nargs="+")
    given = parser.parse_args(argv)
    try:
        model = bitnet.load(given.model)
    except CheckpointError as error:
        return complain(error)
    size, _, channels = getattr(model, "image", (40, 40, 3))
    code = 0
    for path in given.images:
        try:
            image = prepare_image(path, size)[None]
        except DataError as error:
            code = complain(error)
            continue
        with bitnet.no_grad():
            logits = model((image if channels == 3 else luminance(image)).astype(np.float32) / np.float32(256))
        probabilities = functional.softmax(logits.data)[0]
        print(f"{path}  {probabilities.argmax()}  {probabilities.max():.4f}", flush=True)
    return code


def complain(error):
    print(f"predict.py: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
