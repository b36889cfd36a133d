"""Train a network on MNIST by DoReFa-Net or one of the methods around it.

    python examples/train_mnist.py --method bnn
    python examples/train_mnist.py --method twn --bits 2,2,4      # with DoReFa-Net's activations and gradients: an extension
    python examples/train_mnist.py --resume --out runs/mnist-bnn

Every method has the network, the optimizer and the schedule of its recipe (bitnet/methods/) unless you say otherwise. Writes
what train_svhn.py writes. Ctrl-C saves and stops; --resume then gives the same bits as if nothing had happened.
"""

if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C while the rest is imported leaves no traceback


import sys

import bitnet
from bitnet import methods
from bitnet.datasets import load_mnist
from bitnet.training import Distilled, Trainer
from bitnet.training.run import (
    Parser,
    UsageError,
    add_run_options,
    add_training_options,
    bits,
    drive,
    guarded,
    open_run,
    place_of,
    step_decay,
    trainer_options,
)

DEFAULTS = {
    "method": "dorefa", "model": None, "bits": None, "data": None, "batch_size": None, "lr": None, "lr_decay": None,
    "lr_decay_epochs": 1, "teacher": None, "seed": 0,
}  # fmt: skip


def parse(argv):
    parser = Parser(__file__, __doc__)
    add = parser.add_argument
    add("--method", choices=methods.names(), metavar="NAME", help=f"one of {', '.join(methods.names())} (dorefa)")
    add("--model", choices=["lenet", "mlp"], help="another network than the recipe's")
    add("--bits", type=bits, metavar="W,A,G", help="bits of weights, activations, gradients, where the method leaves a choice")
    add("--data", metavar="DIR|synthetic", help="folder with MNIST, or the generated digits (data/mnist if it is there)")
    add("--download", action="store_true", help="fetch MNIST first where it is missing; nothing else uses a network")
    add("--teacher", metavar="MODEL", help="a trained network: its classes are learned, too (knowledge distillation)")
    add_training_options(add, "the recipe's", "the recipe's schedule", "1", "the recipe's", "the recipe's")
    add_run_options(add, "runs/mnist-METHOD")
    return parser.parse_args(argv)


def train(given):
    recipe = methods.get(given.method or DEFAULTS["method"]).recipe
    run = open_run(given, DEFAULTS, lambda settings: f"mnist-{settings['method']}", recipe.epochs)
    settings = run.settings
    recipe = methods.get(settings["method"]).recipe
    teacher = bitnet.load(settings["teacher"]) if settings["teacher"] else None
    try:
        network = methods.build(settings["method"], "mnist", settings["bits"], settings["model"], seed=settings["seed"])
    except ValueError as error:
        raise UsageError(error) from None
    if teacher and teacher.input_shape != network.input_shape:
        raise UsageError(f"{settings['teacher']}: expected a network for MNIST as the teacher, found another one")
    data, test, messages = load_mnist(settings["data"], download=given.download)
    print(*messages, sep="\n")
    where = place_of(settings.pop("data"), data)

    lr = settings["lr"] or recipe.lr
    options = methods.training_of(network, lr, step_decay(lr, settings, run.epochs))
    if teacher:
        options["task"] = Distilled(options.pop("loss"), teacher)
    settings |= {"bits": list(network.method.bits), "lr": lr, "batch_size": settings["batch_size"] or recipe.batch_size}
    name = network.method.describe()
    title = f"{name}, trained on {'generated digits, not MNIST' if data.generated else data.name}"
    trainer = Trainer(network, data, test, batch_size=settings["batch_size"], seed=settings["seed"], **options,
                      **trainer_options(given, run, where, title))
    return drive(trainer, run, name, title, __file__)


def main(argv=None):
    return guarded(train, parse(argv), "train_mnist.py")


if __name__ == "__main__":
    sys.exit(main())
