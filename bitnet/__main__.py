"""The command line: look at networks, use them, turn them into other files, and ask about this machine.

    python -m bitnet summary runs/first/checkpoint.h5
    python -m bitnet predict svhn house.png
    python -m bitnet COMMAND --help

MODEL is a checkpoint of a training script, a frozen network, a saved one, or the name of one that comes along. Training is done
by the scripts in examples/.
"""

import argparse
import contextlib
import os
import sys

from bitnet import deploy, execution, methods, pretrained
from bitnet.exchange import FORMS, export
from bitnet.files import load
from bitnet.kernels.machine import threads
from bitnet.storage import CheckpointError, plain
from bitnet.text import columns, size_text
from bitnet.training.run import Parser, UsageError, folder, guarded, number

COMMANDS = {}


def command(name, what, *options):
    """Decorate a function given -> exit code or None as a command; options are those of ``add_argument``."""
    def enter(function):
        COMMANDS[name] = function, what, options
        return function
    return enter


def option(*names, **settings):
    return names, settings


def shape(text):
    """A parser of H,W,C or D."""
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) not in (1, 3) or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"expected H,W,C such as 28,28,1, or one number, found {text!r}")
    return sizes


MODEL = option("model", metavar="MODEL", type=folder,
               help="a checkpoint, a frozen network, a saved one, or one of " + ", ".join(pretrained.names()))
SHAPE = option("--shape", type=shape, metavar="H,W,C", help="of what a network takes that does not tell it itself")
# the modules that commands import themselves are those that take time, or that only they need
KERNELS = option("--kernels", choices=["auto", *execution.FAMILIES], default="auto", help="changes speed only (auto)")
THREADS = option("--threads", type=number(int, 1), metavar="T", help="changes speed only (all processors)")


@contextlib.contextmanager
def about(path):
    """What a network cannot do is told with its path."""
    try:
        yield
    except ValueError as error:
        raise error if isinstance(error, CheckpointError) else UsageError(f"{path}: {error}") from None


def written(given):
    """The path of a command's result, which is not the file that it comes from."""
    if given.model.exists() and given.out.exists() and os.path.samefile(given.model, given.out):
        raise UsageError(f"{given.out}: expected another file than the network itself")
    return given.out


@command("summary", "shapes, bits, bytes, what products run on", MODEL, SHAPE)
def summary(given):
    """Nothing is run: shapes and bits follow from the network alone."""
    network = load(given.model)
    with about(given.model):
        print(network.summary(given.shape))


@command("predict", "the class of each picture", MODEL,
         option("images", metavar="IMAGE", nargs="+", help="files of images"), KERNELS, THREADS)
def predict(given):
    """A line for each picture: path, class, probability.

    A digit of a house number should fill most of its picture; one for a network of MNIST may be dark or bright, of any size,
    anywhere on plain paper. The exit code is 2 where a picture could not be read; the others are read all the same.
    """
    from bitnet.training.prediction import print_predictions

    return print_predictions(load(given.model), given.model, given.images, "bitnet predict")


@command("evaluate", "accuracy on a test set", MODEL,
         option("--data", metavar="DIR|synthetic", required=True,
                help="a folder with SVHN, MNIST, test/CLASS/ of images, or label maps"),
         option("--batch-size", type=number(int, 1), metavar="B", help="changes speed only (256, with label maps 16)"), KERNELS,
         THREADS)
def evaluate(given):
    """Accuracy, loss, and labels against predictions, on the test set of a folder; see datasets.load for what it may hold."""
    from bitnet import datasets, report, training

    network = load(given.model)
    takes = network.input_shape
    if takes is None or len(takes) != 3:
        raise UsageError(f"{given.model}: expected a network for pictures that tells their size, found one for {takes}")
    test, messages = datasets.load_test(given.data, takes, prepared=getattr(network, "pictures", None))
    print(*messages, sep="\n", flush=True)
    if test.shape != takes:
        raise UsageError(f"{given.model}: expected a network for images of {test.shape}, as {test.name} has, found one for "
                         f"{takes}")
    known = getattr(network, "classes", None)
    if known and tuple(known) != test.classes:
        expected, found = (plain(", ".join(classes), 100) for classes in (test.classes, known))
        raise UsageError(f"{given.model}: expected a network for the classes {expected} of {test.name}, found one for {found}")
    with about(given.model):
        result = training.evaluate(network, test, given.batch_size)
    print(f"test accuracy {result.accuracy:.2%}{report.measures_text(result.measures)}, loss {result.loss:.4f}, "
          f"on {test.name}, {len(test):,} images")
    print(result.details(test.classes))


@command("freeze", "compile a network for inference", MODEL,
         option("out", metavar="OUT", type=folder, help="the file to write, such as frozen.npz"), SHAPE)
def freeze(given):
    """Integers wherever codes meet codes, batch norm and rounding as thresholds; the logits are the same, bit for bit."""
    network = load(given.model)
    with about(given.model):
        frozen = deploy.freeze(network, given.shape)
    frozen.save(written(given))
    print(frozen.summary(), deploy.size_report(frozen, given.out), sep="\n")


@command("export", "write a network for other programs, as ONNX", MODEL,
         option("out", metavar="OUT", type=folder, help="the file to write, such as network.onnx"), SHAPE,
         option("--form", choices=FORMS, default="onnx", help="qonnx: layers, and nodes that round (onnx)"))
def export_network(given):
    """The frozen network as ONNX that onnxruntime and others run as it is: integers as integers, thresholds as comparisons.

    It takes images of bytes, (N, H, W, C), and gives logits. As QONNX it takes (1, C, H, W), pixels / 256.
    """
    network = load(given.model)
    with about(given.model):
        export(written(given), network, given.form, given.shape)
    print(f"{given.out}: {size_text(given.out.stat().st_size)}")


@command("methods", "all methods, a line each")
def list_methods(given):
    """Methods of training networks of few bits, by the names that --method takes; formulas are in bitnet/methods."""
    rows = [["method", "W,A,G", "what it is", "paper"]]
    rows += [[name, ",".join(map(str, kind.own_bits)), kind.title, f"arXiv:{kind.paper}" if kind.paper else ""]
             for name, kind in ((name, methods.get(name)) for name in methods.names())]
    print(columns(rows, left=(0, 1, 2, 3)))


@command("cache", "what is kept for later, and where", option("--clear", action="store_true", help="remove it"))
def cache(given):
    """Prepared images, times of kernels and compiled kernels. All of it is made anew where it is missing."""
    from bitnet.report import caches

    found = caches.kept()
    print(caches.describe(found))
    if given.clear:
        print(f"removed {size_text(caches.clear(found))}")


@command("doctor", "what this machine can do, and what is slow on it", THREADS)
def doctor(given):
    """Processor, instructions that Numba compiles for, limits (measured in some seconds), versions; what is slow, and why."""
    from bitnet.report import doctor

    facts = doctor.examine()
    slow = doctor.findings(facts) or ["nothing of what was looked for"]
    print(doctor.describe(facts), "", "slow on this machine:", *(f"- {one}" for one in slow), sep="\n")


def parse(argv):
    parser = Parser("bitnet", __doc__)
    # a command's own help is what its function says; its parser is of the same kind
    kinds = parser.add_subparsers(dest="command", metavar="COMMAND", required=True,
                                  parser_class=lambda prog, text: Parser(prog, text))
    for name, (function, what, options) in COMMANDS.items():
        text = "\n".join(line.removeprefix("    ") for line in function.__doc__.splitlines())
        one = kinds.add_parser(name, help=what, text=text)
        for names, settings in options:
            one.add_argument(*names, **settings)
    return parser.parse_args(argv, argparse.Namespace(kernels="auto", threads=None))


def run(given):
    if given.threads:
        threads.set_threads(given.threads)
    return COMMANDS[given.command][0](given) or 0


def main(argv=None):
    """Run a command of ``argv``, or of the program's own arguments; returns the exit code."""
    given = parse(argv)
    return guarded(run, given, f"bitnet {given.command}")


if __name__ == "__main__":
    sys.exit(main())
