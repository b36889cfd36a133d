"""Tables as text: what every layer executed, and which labels were taken for which."""

import numpy as np

from bitnet import execution, functional
from bitnet.execution import dispatch
from bitnet.layers import Weighted
from bitnet.module import Signal, preserved
from bitnet.text import columns, packed_size, size_text

ROLES = ("forward", "input_grad", "weight_grad")
PATHS = ROLES  # their former name


def layer_table(model, images, targets, loss=functional.softmax_cross_entropy):
    """Run one real training step, without its update, and say what every layer executed.

    The network, its batch norm statistics and all random numbers are as before afterwards. Kernels that this machine has
    not compiled yet are compiled before.

    Parameters
    ----------
    model : Module
    images, targets : of a batch
    loss : (logits, targets) -> loss

    Returns
    -------
    table : str
    """
    execution.rehearse(model, lambda net: loss(net.train()(images), targets).backward())
    with preserved(model), execution.log() as records:
        loss(model.train()(images), targets).backward()
    return format_layers(model, records, len(images))


def format_layers(model, records, batch_size):
    """The table of ``layer_table`` from the records of one step."""
    layers = {}
    for record in records:
        layers.setdefault(record.layer, {})[record.role] = record
    parameters = {name: parameter.data for name, parameter in model.named_parameters().items()}
    owners, widths = _owners(model, layers), weight_bits(model)
    head = ["layer", "output", "W,A,G", "parameters", "float", "packed", "MMAC", "forward", "input grad", "weight grad"]
    rows, totals, notes = [], np.zeros(4), []
    for name, products in layers.items():
        forward, own = products["forward"], {}
        for key in [key for key in parameters if owners.get(key) == name]:
            own[key] = parameters.pop(key)
        bits = _bits(products, widths.get(name))
        sums = [
            sum(array.size for array in own.values()),
            sum(array.nbytes for array in own.values()),
            sum(packed_size(array, bits[0] if key.endswith("weight") else 32) for key, array in own.items()),
            forward.macs / batch_size,
        ]
        totals += sums
        families = []
        for role in ROLES:
            product = products.get(role)
            families.append("-" if product is None else product.family + " *" * bool(product.note))
            if product is not None and product.note:
                notes.append(f"* {name}, {role.replace('_', ' ')}: {product.note}")
        # a linear layer (its weight has two axes) runs as a convolution of one pixel
        linear = any(array.ndim == 2 for array in own.values())
        shape = "x".join(map(str, forward.output_shape[-1:] if linear else forward.output_shape[1:]))
        rows.append([name, shape, ",".join(map(str, bits)), *_sizes(*sums[:3]), f"{sums[3] / 1e6:.2f}", *families])
    rest = [sum(array.size for array in parameters.values()), *[sum(array.nbytes for array in parameters.values())] * 2]
    if parameters:
        rows.append(["batch norm", "", "", *_sizes(*rest), "", "", "", ""])
    totals += [*rest, 0]
    rows.append(["all", "", "", *_sizes(*totals[:3]), f"{totals[3] / 1e6:.2f}", "", "", ""])
    notes.append("MMAC: millions of multiply-accumulates an image; packed: weights in W bits; -: not needed")
    notes += _source_of_choice(records)
    return "\n".join([columns([head, *rows], left=(0, 1, 2, 7, 8, 9)), *notes])


def _owners(network, layers):
    """The layer, among those that multiplied, to whose products each parameter belongs: {parameter: name of the layer}."""
    named = {dotted: module.name for dotted, module in network.named_modules().items() if module.name in layers
             and isinstance(module, Weighted)}
    found = {}
    for key in network.named_parameters():
        dotted = key.rpartition(".")[0]
        while dotted and dotted not in named:
            dotted = dotted.rpartition(".")[0]
        if dotted in named:
            found[key] = named[dotted]
    return found


def _source_of_choice(records):
    """A line about where an automatic choice of kernels came from; none where nothing was chosen."""
    chosen = [record.how for record in records if record.how]
    if not chosen:
        return []
    measured, table = chosen.count("measured"), dispatch.table()
    when = f"{measured} of {len(chosen)} measured now" if measured else "as measured before"
    where = f"times are in {table.path}" if table.kept else f"{table.path} cannot be written, so the next start measures again"
    return [f"kernels: the quickest of each product, {when}; {where}"]


def weight_bits(network):
    """Bits of the weights of quantized layers, by the layer's name; of weights that are sums, those of all terms."""
    return {module.name: module.weight_quantizer.flow(Signal(), None).bits for module in network.modules()
            if isinstance(module, Weighted) and module.weight_quantizer}


def _bits(products, width):
    """(W, A, G) of a layer, from the operands of its products: input and weight, gradient and input.

    ``width`` is what the bits of a quantized weight are, several products of fewer bits though there may be.
    """
    a_bits, w_bits = products["forward"].bits
    w_bits = w_bits if w_bits == 32 or width is None else width
    g_bits = products["weight_grad"].bits[0] if "weight_grad" in products else 32
    return w_bits, a_bits, g_bits


def _sizes(count, float_bytes, packed_bytes):
    return f"{int(count):,}", size_text(float_bytes), size_text(packed_bytes)


def confusion_table(confusion):
    """Counts as text: a row for each label, a column for each prediction, and the share of the row that is right."""
    classes = range(len(confusion))
    right = confusion.diagonal() / np.maximum(confusion.sum(axis=1), 1)
    rows = [["label", *map(str, classes), "right"]]
    rows += [[str(c), *[str(n) if n else "." for n in confusion[c]], f"{right[c]:.1%}"] for c in classes]
    return columns(rows, left=())
