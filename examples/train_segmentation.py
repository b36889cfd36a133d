"""Train BFCN, a network that tells a class for each pixel, in the bits of your choice.

    python examples/train_segmentation.py --data camvid                # (2,2) bits, reached from 8 over 4 (bit-width decay)
    python examples/train_segmentation.py --data camvid --bits 1,2,32 --direct
    python examples/train_segmentation.py --data camvid --bits 32,32,32

--data is a folder with train/, trainannot/, test/ and testannot/, as CamVid has (bitnet.datasets.load_segmentation); without it
streets are drawn by a program. Writes what train_svhn.py writes, and OUT/predictions.png, pictures beside labels and
predictions; ends with the speed of the frozen network beside a float one's. Ctrl-C saves and stops; --resume goes on.
"""

if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C while the rest is imported leaves no traceback


import argparse
import sys

import bitnet
from bitnet import methods, models
from bitnet.datasets import Flip, load_scenes, load_segmentation
from bitnet.training import Trainer
from bitnet.training.compare import speeds
from bitnet.training.run import (
    Parser,
    UsageError,
    add_run_options,
    add_training_options,
    bits,
    drive,
    guarded,
    number,
    open_run,
    place_of,
    step_decay,
    trainer_options,
)

DEFAULTS = {
    "bits": [2, 2, 32], "direct": False, "data": None, "size": [96, 128], "split": "test", "blocks": 1, "batch_size": 8,
    "lr": 2e-3, "lr_decay": None, "lr_decay_epochs": 1, "seed": 0,
}  # fmt: skip
EPOCHS = 40


def size(text):
    """A parser of H,W."""
    try:
        height, width = (int(part) for part in text.split(","))
    except ValueError:
        height = width = 0
    if min(height, width) < 1:
        raise argparse.ArgumentTypeError(f"expected H,W such as 96,128, found {text!r}")
    return [height, width]


def parse(argv):
    parser = Parser(__file__, __doc__)
    add = parser.add_argument
    add("--bits", type=bits, metavar="W,A,G", help="bits of weights, activations, gradients; 32: float (2,2,32)")
    add("--direct", action="store_true", default=None, help="these bits from the start, not reached from 8 over 4")
    add("--data", metavar="DIR|synthetic", help="folder of images and label maps (streets drawn by a program)")
    add("--size", type=size, metavar="H,W", help="of the images, multiples of 16 (96,128)")
    add("--split", choices=["test", "val"], help="to test on (test)")
    add("--blocks", type=number(int, 1), metavar="N", help="residual blocks of each of the four stages (1)")
    add_training_options(add, "0.002", "falls to a tenth, evenly", "1", "8", EPOCHS)
    add_run_options(add, "runs/segmentation-W-A-G")
    return parser.parse_args(argv)


def train(given):
    run = open_run(given, DEFAULTS, folder_name, EPOCHS)
    settings = run.settings
    shape = (*settings["size"], 3)
    method = methods.BFCN(*settings["bits"], decay=not settings["direct"])
    if settings["data"] in (None, "synthetic"):
        data, test = (load_scenes(split, size=shape[:2]) for split in ("train", "test"))
        print(f"data: streets drawn by a program, {len(data)} for training and {len(test)} for testing: what is reached on "
              "them says nothing about photographs")
    else:
        data, test, messages = load_segmentation(settings["data"], shape[:2], settings["split"])
        print(*messages, sep="\n")
    where = place_of(settings.pop("data"), data)

    def network(method):
        return method.apply(models.build("bfcn", shape=shape, classes=len(data.classes), blocks=settings["blocks"],
                                         seed=settings["seed"]))

    try:
        net = network(method)
    except ValueError as error:
        raise UsageError(error) from None
    decay = step_decay(settings["lr"], settings, run.epochs)
    name = method.describe() + ("" if settings["direct"] or method.bits[:2] == (32, 32) else ", by decay")
    title = f"{name}, trained on {data.name}"
    trainer = Trainer(net, data, test, batch_size=settings["batch_size"], seed=settings["seed"], augment=Flip(),
                      **methods.training_of(net, settings["lr"], decay), **trainer_options(given, run, where, title))
    code = drive(trainer, run, name, title, __file__)
    if code == 0:
        ours, real = speeds([bitnet.freeze(net), bitnet.freeze(network(methods.BFCN(32, 32, 32)))], test.images[:32])
        print(f"frozen: {ours:.0f} images/s, a float network {real:.0f}: {ours / real:.1f} times as fast (published: 4.1 in "
              "(2,2) and 7.8 in (1,2) bits)")
    return code


def folder_name(settings):
    return "-".join(["segmentation", *map(str, settings["bits"]), *["direct"] * settings["direct"]])


def main(argv=None):
    return guarded(train, parse(argv), "train_segmentation.py")


if __name__ == "__main__":
    sys.exit(main())
