"""Where the time of a training step goes, and what there is to gain.

Every moment of a step belongs to one cell of (layer, role, kind):

    layer   what ``execution.layer`` names: a layer, "loss", "optimizer", "rest of the step"; "" between steps
    role    "forward", "input_grad", "weight_grad": inside one of the three products; "" for everything else
    kind    what a kernel does, by KINDS; "Python" is all time outside of kernels, NumPy's included

Two hooks say so: ``execution.watch`` when work comes to another layer or role, ``threads.observe`` how long a kernel took. So
the cells add up to the time that passed. What a faster part would gain follows by Amdahl's law:

    speed-up of a step of T seconds, if P of them took none:   T / (T - P)
"""

import math
import sys
import time
from collections import defaultdict
from contextlib import ExitStack

from bitnet import execution
from bitnet.kernels.machine import compile, peak, threads
from bitnet.report.callback import Callback
from bitnet.report.tables import ROLES
from bitnet.text import columns

KINDS = ("packing", "product", "epilogue", "elementwise", "Python")
STEPS, WARM = 10, 3  # profiled steps, and steps before them

# What the kernels of a file do, unless their name says otherwise.
_FILES = {"packing": "packing", "tiles": "product", "popcount": "product", "byte_dot": "product", "dense": "product",
          "direct": "product", "matrix": "product", "block": "epilogue", "quantize": "elementwise", "norm": "elementwise",
          "pool": "elementwise", "update": "elementwise", "draw": "elementwise", "elementary": "elementwise",
          "finite": "elementwise"}
_PACKERS = ("_pack", "_pad", "_streams")  # how the names of those begin that bring operands into the form of a product

# The machine's limit for each family, in the names of ``peak.measure``.
_LIMITS = {"popcount": "popcount_gmacs", "byte_dot": "byte_gmacs", "float": "float_gmacs", "float32": "float_gmacs"}
_OUTSIDE = {"loss": "loss", "optimizer": "optimizer", "rest of the step": "rest of the step", "": "between steps"}


def kind_of(function):
    """The kind of a kernel, or of a Python function that runs on the pool of threads; None where none is known."""
    name, file = function.__name__, function.__module__.rpartition(".")[2]
    if name.startswith(_PACKERS):
        return "packing"
    return _FILES.get(file)


def speed_up(whole, part):
    """How many times faster ``whole`` seconds would pass if ``part`` of them took no time (Amdahl's law)."""
    return math.inf if part >= whole else whole / (whole - part)


def _family(record):
    """What really computed a product: floats, where the log notes that it was none of codes."""
    return "float" if record.note else record.family


class Profile:
    """Adds up the time of everything that runs inside ``with``; a second ``with`` adds to the first.

        with Profile() as profile:
            for batch in batches:
                trainer.train_step(batch)
        profile.steps = len(batches)
        print(profile.table(peak.measure(quick=True)))

    Attributes
    ----------
    seconds : dict of (layer, role, kind): float
    products : dict of (layer, role): Record        # the latest of each product
    macs : dict of (layer, role): int               # multiply-accumulates of all steps
    steps : int                                     # how many steps ran: whoever runs them counts them
    """

    def __init__(self, clock=time.perf_counter):
        self.seconds, self.products, self.macs, self.steps = defaultdict(float), {}, defaultdict(int), 0
        self._clock = clock

    def __enter__(self):
        self._hooks = ExitStack()
        self._hooks.enter_context(threads.observe(self._ran))
        self._hooks.enter_context(execution.watch(self._moved))
        self._records = self._hooks.enter_context(execution.log())
        self._scope, self._since, self._in_kernels = (execution.current_layer(), ""), self._clock(), 0.0
        return self

    def __exit__(self, *exception):
        self._moved(*self._scope)
        self._hooks.close()
        for record in self._records:
            self.products[record.layer, record.role] = record
            self.macs[record.layer, record.role] += record.macs

    def _moved(self, layer, role):
        now = self._clock()
        self.seconds[*self._scope, "Python"] += now - self._since - self._in_kernels
        self._scope, self._since, self._in_kernels = (layer, role), now, 0.0

    def _ran(self, function, seconds):
        self.seconds[*self._scope, kind_of(function) or "elementwise"] += seconds
        self._in_kernels += seconds

    def total(self, layer=None, role=None, kind=None):
        """Seconds of all cells that agree with what is given."""
        wanted = layer, role, kind
        return sum(seconds for cell, seconds in self.seconds.items()
                   if all(want in (None, part) for want, part in zip(wanted, cell, strict=True)))

    def share_of_limit(self, layer, role, limits):
        """How near the kernels of a product come to what the machine could do, or None where there were none.

        A popcount takes a step for each pair of bit planes, the other families one a multiply-accumulate. (Where the right
        operand has 8 bits, byte_dot takes two, and half of the limit is all that it can reach.)
        """
        record, seconds = self.products.get((layer, role)), self.total(layer, role, "product")
        if record is None or seconds <= 0:
            return None
        planes = math.prod(record.bits) if _family(record) == "popcount" else 1
        return self.macs[layer, role] * planes / seconds / 1e9 / limits[_LIMITS[_family(record)]]

    def table(self, limits):
        """What ``limits``, the result of ``peak.measure``, and the profile say: a text of several lines."""
        whole = self.total()
        if not self.steps or whole <= 0:
            return "profile: no step was seen, the training was too short"
        layers = dict.fromkeys(layer for layer, _, _ in self.seconds)
        layers = [layer for layer in layers if layer not in _OUTSIDE] + [layer for layer in _OUTSIDE if layer in layers]
        rows = [["layer", "part", "kernels", *KINDS, "ms", "of step", "of limit"]]
        for layer in layers:
            for role in (*ROLES, ""):
                if spent := self.total(layer, role):
                    record, share = self.products.get((layer, role)), self.share_of_limit(layer, role, limits)
                    rows.append([_OUTSIDE.get(layer, layer), self._part(layer, role), _family(record) if record else "",
                                 *(self._ms(self.total(layer, role, kind)) for kind in KINDS), self._ms(spent),
                                 f"{spent / whole:.1%}", "" if share is None else f"{share:.0%}"])
        rows.append(["all", "", "", *(self._ms(self.total(kind=kind)) for kind in KINDS), self._ms(whole), "100.0%", ""])
        text = columns(rows, left=(0, 1, 2))
        return "\n".join([f"profile of {self.steps} steps, milliseconds a step:", text, LEGEND, *self._gains(limits)])

    def _ms(self, seconds):
        ms = 1e3 * seconds / self.steps
        return f"{ms:.2f}" if ms >= 0.005 else "."

    def _part(self, layer, role):
        return role.replace("_", " ") or ("" if layer in _OUTSIDE else "elementwise")

    def _gains(self, limits):
        """What can be gained, in sentences."""
        whole, product = self.total(), self.total(kind="product")
        alone = ", ".join(f"{kind} {speed_up(whole, self.total(kind=kind)):.2f}x" for kind in KINDS
                          if kind != "product" and self.total(kind=kind) > 0)
        spare = sum(max(0.0, 1 - self.share_of_limit(*place, limits)) * self.total(*place, "product")
                    for place in self.products if self.total(*place, "product") > 0)
        most = sorted(self.seconds, key=self.seconds.get, reverse=True)[:3]
        cells = (f"{' '.join(filter(None, (_OUTSIDE.get(layer, layer), self._part(layer, role))))}, {kind}: "
                 f"{self._ms(self.seconds[layer, role, kind])} ms ({self.seconds[layer, role, kind] / whole:.0%})"
                 for layer, role, kind in most)
        free, rest, limit = (speed_up(whole, part) for part in (product, whole - product, spare))
        return [f"If all products took no time, a step would be {free:.2f}x faster; if everything else did, "
                f"{rest:.2f}x; if products ran at the machine's limit, {limit:.2f}x.",
                f"Without the time of one of the others: {alone or 'none'}.",
                f"Most time: {'; '.join(cells)}."]


LEGEND = """\
epilogue: batch norm, pooling, clip and quantizers on the sums of a block's convolution. elementwise: other work on numbers one
by one. Python: outside of kernels, NumPy included. of limit: what product kernels do, against loops that touch registers
alone; popcount counts pairs of bit planes."""


class ProfileSteps(Callback):
    """Profiles some of the first steps of a training, which it does not change, and prints the table.

    Parameters
    ----------
    steps : int        # to profile
    warm : int         # steps before them
    before : callable  # called before anything is printed
    """

    def __init__(self, steps=STEPS, warm=WARM, before=lambda: None):
        self.profile, self.steps, self.warm, self.before, self._running = Profile(), steps, warm, before, None

    def on_step(self, trainer):
        if self._running:
            self.profile.steps += 1
        else:
            self.warm -= 1
        # an evaluation and a save follow the last step of an epoch: they are not what is profiled
        last = trainer.step == trainer.loader.steps_per_epoch
        if self.profile.steps == self.steps or last:
            self.close()
        elif self.warm <= 0:
            self._start()
        if self.profile.steps == self.steps:
            self._tell()

    def on_epoch(self, trainer, record):
        if trainer.epoch == trainer.epochs:
            self._tell()
        elif self.warm <= 0:
            self._start()

    def close(self):
        """Stop; what was profiled before is kept."""
        if self._running:
            self._running.close()
            self._running = None

    def _start(self):
        if not self._running and self.steps:
            self._running = ExitStack()
            self._running.enter_context(self.profile)

    def _tell(self):
        if self.steps:
            self.before()
            with compile.announce(sys.stdout):
                limits = peak.measure(quick=True)
            print(self.profile.table(limits), peak.describe(limits, threads.get_threads()), sep="\n", flush=True)
            self.steps = 0
