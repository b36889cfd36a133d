"""Training steps of DoReFa-Net's SVHN models A and C, batches of 128 and 32: bit, float and, where installed, PyTorch.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --bits 1,1,4 --json runs/train_step.json
    python benchmarks/train_step.py --methods bnn twn ttq

A step is forward, softmax cross entropy, backward and Adam. PyTorch runs the same network from the same initial weights, in
float32, with products in bfloat16 (autocast), and simulating the same bits (fake quantization). With --methods the steps are
those of these methods' networks for MNIST, of which PyTorch runs what they were before the method. Peak memory is that of three
steps of the largest batch, in a process of its own, above the same process before its first batch, with everything compiled.
"""

import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import NamedTuple

import common
import numpy as np
import pictures

from bitnet import execution, functional, methods, models, networks, optimizers, use_kernels

BATCHES = (128, 32)  # the second one is what our scripts train with
FLOAT = (32, 32, 32)


def batches(count, batch, shape=(40, 40, 3)):
    """Random images and labels."""
    rng = np.random.default_rng(0)
    return [(rng.integers(0, 256, (batch, *shape)).astype(np.float32) / np.float32(256), rng.integers(0, 10, batch))
            for _ in range(count)]


def trainer(model, family, data):
    """A function that does one training step of a network on the next of ``data``."""
    model.train()
    optimizer = optimizers.Adam(model.parameters(), lr=1e-4, eps=1e-5)
    steps = 0

    def step():
        nonlocal steps
        images, labels = data[steps % len(data)]
        steps += 1
        with use_kernels(family):
            optimizer.zero_grad()
            functional.softmax_cross_entropy(model(images), labels).backward()
            optimizer.step()

    return step


def families(bits):
    """The kernels to compare: where an operand is a real number there is no choice."""
    return ("auto",) if 32 in bits else (*execution.FAMILIES, "auto")


def families_taken(records):
    """What the automatic choice took, as "forward popcount, input_grad byte_dot"."""
    taken = {}
    for record in records:
        if record.family != "float32" and not record.note:
            taken.setdefault(record.role, set()).add(record.family)
    return ", ".join(f"{path} {' and '.join(sorted(found))}" for path, found in taken.items())


class Subject(NamedTuple):
    """What is trained: a network in ``bits`` and the same in float; are the bits those that PyTorch can simulate here?"""

    case: str
    bits: tuple
    network: object   # network() makes a new one, with the same initial weights
    real: object
    simulated: bool


def of_svhn(name, bits):
    """One of DoReFa-Net's networks for SVHN."""
    return Subject(f"SVHN-{name}", bits, lambda: models.svhn(name, bits), lambda: models.svhn(name, FLOAT), bits != FLOAT)


def of_method(name):
    """A method's network for MNIST."""
    recipe = methods.get(name).recipe
    return Subject(f"MNIST {recipe.network} {name}", methods.get(name)().bits, lambda: methods.build(name),
                   lambda: networks.build(recipe.network, **recipe.options), False)


def contenders(subject, batch, given):
    """All implementations of one step."""
    found, case, bits = [], f"{subject.case}, {batch}", subject.bits
    data = batches(4, batch, subject.real().input_shape)

    def add(impl, bits, variants, **more):
        bits = common.bits_text(*bits)
        found.append(common.Contender(case, "train", bits, impl, variants, batch, "images_per_second", **more))

    pairs = [] if bits == FLOAT else [(family, bits, subject.network) for family in families(bits)]
    for family, bits, make in [*pairs, ("float", FLOAT, subject.real)]:
        step = trainer(make(), family, data)
        with execution.log() as records:
            step()
        macs, (binary, moved) = sum(record.macs for record in records), common.executed(records)
        add(family, bits, {"": step}, macs=macs, binary_macs=binary if family == "popcount" else 0, bytes=moved,
            note=families_taken(records) if family == "auto" else "")
    if common.installed("torch"):
        import torch_peer

        compile = not given.quick
        add("torch", FLOAT, torch_peer.training(subject.real(), data, compile), macs=macs, bytes=moved, peer=True)
        add("torch_bf16", FLOAT, torch_peer.training(subject.real(), data, compile, bf16=True), macs=macs, peer=True)
        if subject.simulated:
            add("torch_fake_quant", subject.bits, torch_peer.training(subject.network(), data, compile), macs=macs, peer=True)
    return found


def peak_memory(name, batch, rows, given):
    """Add ``peak_memory_mib`` to the rows of our automatic choice, our float path and PyTorch."""
    wanted = ("auto", "torch") if given.quick else ("auto", "float", "torch", "torch_fake_quant")
    for row in rows:
        if row["impl"] not in wanted or (row["impl"] == "float" and row["bits"] != "32,32,32"):
            continue
        command = [sys.executable, str(Path(__file__).with_name("memory.py")), row["impl"], name, row["bits"], str(batch),
                   str(given.threads)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            print(f"memory of {row['impl']}: {result.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            continue
        row["peak_memory_mib"] = float(result.stdout)
        print(f"{row['case']}, {row['bits']}, {row['impl']}: {row['peak_memory_mib']:.1f} MiB at the peak of a step")
    print(flush=True)


def main(argv=None):
    given = common.options("train_step.py", __doc__, argv, bits=True, batches=BATCHES, methods=methods.names())
    about, peak = common.begin(given)
    table, rows = common.Table(), []
    svhn = "" if given.methods else "C" if given.quick else "AC"
    subjects = {**{name: of_svhn(name, given.bits) for name in svhn}, **{name: of_method(name) for name in given.methods}}
    for (name, subject), batch in product(subjects.items(), given.batch):
        found = common.measure(contenders(subject, batch, given), peak, 3 if given.quick else 9)
        table.add(found)
        if name in svhn and batch == max(given.batch):
            peak_memory(name, batch, found, given)
        rows += found
    common.finish(given, {"machine": about, "peak": peak, "rows": rows}, pictures.draw_networks)


if __name__ == "__main__":
    sys.exit(common.run("train_step.py", main))
