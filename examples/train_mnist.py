"""Train a network on MNIST by DoReFa-Net or one of the methods around it.

    python examples/train_mnist.py --method bnn
    python examples/train_mnist.py --method twn --bits 2,2,4      # with DoReFa-Net's activations and gradients: an extension
    python examples/train_mnist.py --resume --out runs/mnist-bnn

Every method has the network, the optimizer and the schedule of its recipe (bitnet/methods.py) unless you say otherwise. Writes
what train_svhn.py writes, but for the frozen network. Ctrl-C saves and stops; --resume then gives the same bits as if nothing
had happened.
"""

import argparse
import sys

# what this script shares with its sister; both lie in one folder, which Python searches first
from train_svhn import (
    Parser,
    UsageError,
    add_run_options,
    bits,
    callbacks,
    drive,
    guarded,
    number,
    open_run,
    place_of,
)

import bitnet
from bitnet import methods
from bitnet.datasets import load_mnist
from bitnet.kernels.machine import threads
from bitnet.optimizers import StepDecay
from bitnet.training import Trainer

DEFAULTS = {
    "method": "dorefa", "model": None, "bits": None, "data": None, "batch_size": None, "lr": None, "lr_decay": None,
    "lr_decay_epochs": 1, "teacher": None, "seed": 0,
}  # fmt: skip


def parse(argv):
    parser = Parser(prog="train_mnist.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, count = parser.add_argument, number(int, 1)
    add("--method", choices=methods.names(), metavar="NAME", help=f"one of {', '.join(methods.names())} (dorefa)")
    add("--model", choices=["lenet", "mlp"], help="another network than the recipe's")
    add("--bits", type=bits, metavar="W,A,G", help="bits of weights, activations, gradients, where the method leaves a choice")
    add("--data", metavar="DIR|synthetic", help="folder with MNIST, or the generated digits (data/mnist if it is there)")
    add("--download", action="store_true", help="fetch MNIST first where it is missing; nothing else uses a network")
    add("--epochs", type=count, metavar="N", help="of the whole run; may be raised on a resume (the recipe's)")
    add("--batch-size", type=count, metavar="B", help="(the recipe's)")
    add("--lr", type=number(float, 0, strictly=True), help="learning rate at the start (the recipe's)")
    add("--lr-decay", type=number(float, 0, strictly=True), metavar="FACTOR",
        help="multiplies it, instead of the recipe's schedule")
    add("--lr-decay-epochs", type=count, metavar="N", help="every so many epochs (1)")
    add("--teacher", metavar="MODEL", help="a trained network: its classes are learned, too (knowledge distillation)")
    add_run_options(add, "runs/mnist-METHOD")
    return parser.parse_args(argv)


def train(given):
    method = methods.get(given.method or DEFAULTS["method"])
    out, settings, epochs, checkpoint = open_run(given, DEFAULTS, lambda s: f"mnist-{s['method']}", method.epochs)
    method = methods.get(settings["method"])
    if given.threads:
        threads.set_threads(given.threads)
    teacher = bitnet.load(settings["teacher"]) if settings["teacher"] else None
    try:
        model = methods.build(settings["method"], "mnist", settings["bits"], settings["model"], seed=settings["seed"])
    except ValueError as error:
        raise UsageError(error) from None
    if teacher and getattr(teacher, "image", None) != model.image:
        raise UsageError(f"{settings['teacher']}: expected a network for MNIST as the teacher, found another one")
    digits, test, messages = load_mnist(settings["data"], download=given.download)
    print(*messages, sep="\n")
    where = place_of(settings.pop("data"), digits)

    lr = settings["lr"] or method.lr
    decay = StepDecay(lr, settings["lr_decay"], settings["lr_decay_epochs"]) if settings["lr_decay"] else None
    options = methods.training_of(model, lr, decay, teacher)
    settings |= {"bits": list(methods.bits_of(settings["method"], settings["bits"])), "lr": lr,
                 "batch_size": settings["batch_size"] or method.batch_size}  # fmt: skip
    name = methods.describe(settings["method"], settings["bits"])
    title = f"{name}, trained on {'generated digits, not MNIST' if digits.generated else digits.name}"
    trainer = Trainer(
        model, digits, test, epochs=epochs, batch_size=settings["batch_size"], seed=settings["seed"], **options,
        checkpoint=out / "checkpoint.h5", save_every=given.save_every, config=settings,
        notes={"data": where, "threads": threads.get_threads(), "kernels": given.kernels},
        callbacks=callbacks(given, out, title),
    )  # fmt: skip
    return drive(trainer, checkpoint, out, name, title, __file__)


def main(argv=None):
    return guarded(train, parse(argv), "train_mnist.py")


if __name__ == "__main__":
    sys.exit(main())
