"""Train DoReFa-Net on SVHN in the bits of your choice.

    python examples/train_svhn.py --bits 1,2,4 --model A
    python examples/train_svhn.py --resume --out runs/svhn-a-1-2-4

Writes OUT/checkpoint.h5, OUT/metrics.jsonl (a line an epoch), OUT/curves.png, OUT/confusion.png and OUT/mistakes.png; and
OUT/frozen.npz: the network compiled for inference, its weights packed.
Ctrl-C saves and stops; --resume then gives the same bits as if nothing had happened.
"""

if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C while the rest is imported leaves no traceback


import sys

from bitnet import methods, models
from bitnet.datasets import Augmentation, load_digits
from bitnet.optimizers import Adam
from bitnet.training import Trainer
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

# What a run keeps for life; on a resume these come from its checkpoint.
DEFAULTS = {
    "method": None, "model": "A", "bits": [1, 2, 4], "data": None, "extra": False, "batch_size": 32,
    "lr": 1e-3, "lr_decay": 0.3, "lr_decay_epochs": 6, "seed": 0,
}  # fmt: skip
EPOCHS = 15


def parse(argv):
    parser = Parser(__file__, __doc__)
    add = parser.add_argument
    add("--bits", type=bits, metavar="W,A,G", help="bits of weights, activations, gradients; 32: float (1,2,4)")
    add("--method", choices=methods.names(), metavar="NAME",
        help=f"train by another method, with its own optimizer and learning rates: {', '.join(methods.names())}")
    add("--model", choices=list(models.SVHN_WIDTHS), help="A is the paper's; B, C, D have 1/2, 1/4, 1/8 of its width (A)")
    add("--data", metavar="DIR|synthetic", help="folder with SVHN, or the generated digits (data/svhn if it is there)")
    add("--extra", action="store_true", default=None, help="train on SVHN's 531,131 extra digits, too")
    add("--download", action="store_true", help="fetch SVHN first where it is missing; nothing else uses a network")
    add_training_options(add, "0.001, or the method's", "0.3", "6", "32", EPOCHS)
    add_run_options(add, "runs/svhn-MODEL-W-A-G")
    return parser.parse_args(argv)


def train(given):
    own = list(methods.get(given.method).own_bits) if given.method else DEFAULTS["bits"]
    run = open_run(given, DEFAULTS | {"bits": own}, folder_name, EPOCHS)
    settings = run.settings
    name = f"model {settings['model']} in ({','.join(map(str, settings['bits']))}) bits"
    if settings["method"]:  # its own optimizer, schedule and loss
        if given.lr_decay or given.lr_decay_epochs:
            raise UsageError("expected --lr-decay or --method, which has a schedule of its own, found both")
        try:
            network = methods.build(settings["method"], "svhn", settings["bits"], model=settings["model"],
                                    seed=settings["seed"])
        except ValueError as error:
            raise UsageError(error) from None
        options = methods.training_of(network, given.lr or (run.checkpoint and settings["lr"]))
        settings["lr"] = options["optimizer"].lr
        name = f"model {settings['model']}, {network.method.describe()}"
    else:
        network = models.svhn(settings["model"], settings["bits"], seed=settings["seed"])
        options = {"optimizer": Adam(network.parameters(), lr=settings["lr"], eps=1e-5),
                   "schedule": step_decay(settings["lr"], settings, run.epochs)}
    data, test, messages = load_digits(settings["data"], extra=settings["extra"], download=given.download)
    print(*messages, sep="\n")
    where = place_of(settings.pop("data"), data)
    title = f"{name}, trained on {'generated digits, not SVHN' if data.generated else data.name}"
    trainer = Trainer(network, data, test, batch_size=settings["batch_size"], seed=settings["seed"], augment=Augmentation(),
                      **options, **trainer_options(given, run, where, title))
    return drive(trainer, run, name, title, __file__)


def folder_name(settings):
    return "-".join(["svhn", *[settings["method"]] * bool(settings["method"]), settings["model"].lower(),
                     *map(str, settings["bits"])])


def main(argv=None):
    return guarded(train, parse(argv), "train_svhn.py")


if __name__ == "__main__":
    sys.exit(main())
