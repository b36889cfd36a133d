"""Inference of DoReFa-Net's SVHN models A and C, batches of 1 and 128: bit, float and, where installed, PyTorch and OpenVINO.

    python benchmarks/inference.py
    python benchmarks/inference.py --bits 1,1,32 --json runs/inference.json

Images in float32 go in, logits come out. Ours is the model in eval mode without gradients; where this version can freeze a
model, a row "frozen" shows that too. The peers run the same network: PyTorch in float32, in bfloat16
(autocast) and simulating the same bits, OpenVINO in float32, in INT8 (all layers), and with its binary convolution in the inner
layers (weights and activations -1, 1).
"""

import sys
from itertools import product

import common
import pictures
import train_step

import bitnet
from bitnet import Tensor, execution, models, no_grad, use_kernels

FLOAT = train_step.FLOAT


def trained(name, bits, images):
    """A network in eval mode with statistics of real batches."""
    model = models.svhn(name, bits)
    with no_grad():
        for _ in range(20):
            model(images)
    return model.eval()


def classifier(model, images, family):
    """A function that classifies ``images``."""

    def call():
        with use_kernels(family), no_grad():
            model(images)

    return call


def contenders(name, batch, given):
    """All implementations of one batch."""
    (images, _), = train_step.batches(1, batch)
    (sample, _), = train_step.batches(1, 32)
    found, case = [], f"SVHN-{name}, {batch}"

    def add(impl, bits, variants, **more):
        found.append(common.Contender(case, "inference", bits, impl, variants, batch, "images_per_second", **more))

    real = trained(name, FLOAT, sample)
    model = real if given.bits == FLOAT else trained(name, given.bits, sample)
    text, input_ = common.bits_text(*given.bits), Tensor(images)
    pairs = [] if model is real else [(family, model) for family in train_step.families(given.bits)]
    for family, network in [*pairs, ("float", real)]:
        call = classifier(network, input_, family)
        with execution.log() as records:
            call()
        macs, (binary, moved) = sum(record.macs for record in records), common.executed(records)
        add(family, text if network is model else "32,32,32", {"": call}, macs=macs, bytes=moved,
            binary_macs=binary if family == "popcount" else 0,
            note=train_step.families_taken(records) if family == "auto" else "")
    if hasattr(bitnet, "freeze") and model is not real:
        frozen = bitnet.freeze(model)
        add("frozen", text, {"": classifier(frozen, images, "auto")}, macs=macs, note="bitnet.freeze, popcount")
    if common.installed("torch"):
        import torch_peer

        compile = not given.quick
        add("torch", "32,32,32", torch_peer.inference(real, images, compile), macs=macs, bytes=moved, peer=True)
        add("torch_bf16", "32,32,32", torch_peer.inference(real, images, compile, bf16=True), macs=macs, peer=True)
        if model is not real:
            add("torch_fake_quant", text, torch_peer.inference(model, images, compile), macs=macs, peer=True)
    if common.installed("openvino"):
        import openvino_peer

        for kind, bits in (("openvino", "32,32,32"), ("openvino_int8", "8,8,-"), ("openvino_binary", "1,1,-")):
            add(kind, bits, openvino_peer.inference(real, images, kind, given.threads), macs=macs, peer=True)
    return found


def main(argv=None):
    given = common.options("inference.py", __doc__, argv, bits=True, batches=(1, 128))
    about, peak = common.begin(given)
    table, rows = common.Table(), []
    for name, batch in product("C" if given.quick else "AC", given.batch):
        found = common.measure(contenders(name, batch, given), peak, 4 if given.quick else 15)
        table.add(found)
        rows += found
    common.finish(given, {"machine": about, "peak": peak, "rows": rows}, pictures.draw_networks)


if __name__ == "__main__":
    sys.exit(common.run("inference.py", main))
