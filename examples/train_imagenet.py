"""Train DoReFa-Net's AlexNet or ResNet-18 on a folder of pictures such as ImageNet's.

    python examples/train_imagenet.py --model alexnet --bits 1,2,6 --data ~/imagenet
    python examples/train_imagenet.py --model resnet18 --data ~/tiny-imagenet --size 64 --epochs 10 --batch-size 64
    python examples/train_imagenet.py --resume --out runs/alexnet-1-2-6

DIR holds train/CLASS/*.jpg and val/CLASS/*.jpg, or a flat val with val.txt, a line "NAME.jpg CLASS" for each picture. The
recipe is that of the authors' AlexNet (tensorpack, examples/DoReFa-Net): 90 epochs of Adam in batches of 256, there 8 of 32;
crops of random area and shape, changed colours. Theirs for the ResNet-18 is not published; here it is the same one.
Writes what train_svhn.py writes. Ctrl-C saves and stops; --resume then gives the same bits as if nothing had happened.
"""

if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C while the rest is imported leaves no traceback


import sys

from bitnet import methods, models
from bitnet.datasets import CropAugmentation, load_folder
from bitnet.methods.dorefa import IMAGENET
from bitnet.training import Trainer
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

BITS = {"alexnet": [1, 2, 6], "resnet18": [1, 4, 32]}  # of the authors' own scripts
DEFAULTS = {"model": "alexnet", "method": "dorefa", "bits": None, "data": None, "size": 224, "batch_size": 256,
            "lr": IMAGENET.lr, "lr_decay": None, "lr_decay_epochs": 1, "seed": 0}  # fmt: skip


def parse(argv):
    parser = Parser(__file__, __doc__)
    add = parser.add_argument
    add("--model", choices=list(BITS), help="(alexnet)")
    add("--bits", type=bits, metavar="W,A,G", help="of weights, activations, gradients; 32: float (1,2,6; ResNet-18 1,4,32)")
    add("--method", choices=methods.names(), metavar="NAME", help=f"one of {', '.join(methods.names())} (dorefa)")
    add("--data", metavar="DIR", help="folder with train and val")
    add("--size", type=number(int, 30), metavar="S", help="side of the square images that are cut out of pictures (224)")
    add("--workers", type=number(int, 0), metavar="N", help="processes that decode pictures (as processors)")
    add_training_options(add, IMAGENET.lr, "a fifth of it from 2/3, a 25th from 5/6 of the run on", "1", "256", IMAGENET.epochs)
    add_run_options(add, "runs/MODEL-W-A-G")
    return parser.parse_args(argv)


def chosen(settings):
    """The bits of a run."""
    if settings["bits"] is not None:
        return settings["bits"]
    own = methods.get(settings["method"]).own_bits
    return BITS[settings["model"]] if settings["method"] == DEFAULTS["method"] else list(own)


def folder_name(settings):
    own = [settings["method"]] * (settings["method"] != DEFAULTS["method"])
    return "-".join([settings["model"], *own, *map(str, chosen(settings))])


def train(given):
    run = open_run(given, DEFAULTS, folder_name, IMAGENET.epochs)
    settings = run.settings
    settings["bits"] = chosen(settings)
    if not settings["data"]:
        raise UsageError("expected --data with a folder of pictures, train/CLASS/*.jpg and val/CLASS/*.jpg, found none named")
    data, test, messages = load_folder(settings["data"], settings["size"], on_demand=True, workers=given.workers)
    print(*messages, sep="\n")
    where = place_of(settings.pop("data"), data)
    try:
        method = methods.get(settings["method"])(settings["bits"])
        network = method.apply(models.build(settings["model"], classes=len(data.classes), size=settings["size"],
                                            seed=settings["seed"]))
    except ValueError as error:
        raise UsageError(error) from None
    decay = step_decay(settings["lr"], settings, run.epochs)
    name = f"{settings['model']}, {method.describe()}"
    title = f"{name}, trained on {data.name}"
    trainer = Trainer(network, data, test, batch_size=settings["batch_size"], seed=settings["seed"], augment=CropAugmentation(),
                      loss=IMAGENET.loss, optimizer=IMAGENET.optimizer(network.parameters(), settings["lr"]),
                      schedule=decay or IMAGENET.schedule(settings["lr"]), **trainer_options(given, run, where, title))
    return drive(trainer, run, name, title, __file__)


def main(argv=None):
    return guarded(train, parse(argv), "train_imagenet.py")


if __name__ == "__main__":
    sys.exit(main())
