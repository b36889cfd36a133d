"""Looking inside a network while it trains: do signs still flip, do gradients still pass, are codes used, what do bits cost?

    Trainer(..., callbacks=[Inside(folder, title), report.Files(folder, title)])

adds to every record of the history, and so to metrics.jsonl, an entry "inside", and draws FOLDER/inside.png:

    {"weights": {LAYER: {"flipped", "at_bound", "codes"}}, "activations": {NAME: {"saturated", "codes"}},
     "gradients": {LAYER: {"bias", "signal_to_noise", "cosine"}}}
"""

from pathlib import Path

import numpy as np

from bitnet import random
from bitnet.codes import Codes
from bitnet.datasets import Batch
from bitnet.layers import Weighted, unfused
from bitnet.module import preserved
from bitnet.quantizers import Quantizer
from bitnet.quantizers.base import observe
from bitnet.report.callback import Callback
from bitnet.report.pictures import FAINT, new_figure, own_style, write_figure
from bitnet.tensor import no_grad


class Inside(Callback):
    """Measures a network at the end of every epoch, on the first images of the training set, and changes nothing in it.

    Of weights, by layer:
        flipped      share of them whose sign (of ternary ones: whose level) is another one than at the start of the epoch;
                     counted from the first step after a resume
        at_bound     share of latent weights that lie at the largest magnitude, where clipping holds them
        codes        share of each code, in the order of levels
    Of activations, by the module that quantizes them:
        saturated    share through which no gradient passes
        codes        as above; [] where the quantizer has real values
    Of the gradients of weights of layers that quantize gradients, against those of the same step without:
        bias             |mean over draws - exact| / |exact|, less what is left of the noise after so many draws
        signal_to_noise  |exact|**2 / mean of |one - exact|**2
        cosine           mean cosine of the angle between one and exact

    Parameters
    ----------
    folder : str, Path or None   # for inside.png; None: no picture
    title : str                  # above the picture
    samples : int                # images that are looked at
    draws : int                  # of the gradients' noise
    """

    def __init__(self, folder=None, title="", samples=64, draws=8):
        self.folder, self.title, self.samples, self.draws = folder, title, samples, draws
        self._start = None

    def on_step(self, trainer):
        if self._start is None:
            self._start = _signs(trainer.model)

    def measure(self, trainer):
        network, dataset = trainer.model, trainer.loader.dataset
        count = min(self.samples, len(dataset))
        batch = Batch(dataset.images[:count], dataset.targets[:count].astype(np.int64), np.arange(count))
        with preserved(network), unfused():
            network.train()
            record = {"weights": self._weights(network), "activations": _activations(network, batch),
                      "gradients": self._gradients(trainer, batch)}
        self._start = _signs(network)
        return {"inside": record}

    def _weights(self, network):
        found = {}
        for name, layer in _quantized_layers(network).items():
            codes, data = _weight_codes(layer), layer.weight.data
            magnitude = np.abs(data)
            signs = _signs_of(layer)
            flipped = None if self._start is None else _share(signs != self._start[name])
            bound = magnitude.max()
            discrete = layer.weight.space is not None
            at_bound = None if discrete or bound == 0 else _share(magnitude == bound)
            found[name] = {"flipped": flipped, "at_bound": at_bound, "codes": _histogram(codes)}
        return found

    def _gradients(self, trainer, batch):
        layers = {layer.name: layer for layer in trainer.model.modules()
                  if isinstance(layer, Weighted) and layer.grad_quantizer}
        if not layers:
            return {}
        state, quantizers = random.get_state(), {name: layer.grad_quantizer for name, layer in layers.items()}

        def gradients(draw):
            """Of all weights of quantized layers; draw -1: exact."""
            for name, layer in layers.items():
                layer.grad_quantizer = None if draw < 0 else quantizers[name]
            trainer.model.zero_grad()
            random.set_state(state)  # dropout and stochastic quantizers: as in every other draw
            loss = trainer.task.loss(trainer.model(batch.images), batch, trainer)
            random.set_state((state[0], state[1] + (2 + draw) * 1_000_000))
            loss.backward()
            return {name: layer.weight.grad.astype(np.float64) for name, layer in layers.items()}

        try:
            exact, drawn = gradients(-1), [gradients(draw) for draw in range(self.draws)]
        finally:
            for name, layer in layers.items():
                layer.grad_quantizer = quantizers[name]
        found = {}
        for name, right in exact.items():
            each = np.array([one[name].ravel() for one in drawn])
            mean, right = each.mean(axis=0), right.ravel()
            square = max(right @ right, 1e-300)
            variance = np.sum((each - mean) ** 2) / max(1, self.draws - 1)
            bias = np.sqrt(max(0.0, np.sum((mean - right) ** 2) - variance / self.draws) / square)
            cosine = np.mean(each @ right / np.maximum(np.linalg.norm(each, axis=1) * np.sqrt(square), 1e-300))
            noise = max(np.mean(np.sum((each - right) ** 2, axis=1)), 1e-300)
            found[name] = {"bias": _rounded(bias), "signal_to_noise": _rounded(square / noise), "cosine": _rounded(cosine)}
        return found

    def on_epoch(self, trainer, record):
        if self.folder is not None:
            draw_inside(Path(self.folder) / "inside.png", trainer.history, self.title)


def _quantized_layers(network):
    """Layers whose weights are codes, by name."""
    return {module.name: module for module in network.modules() if isinstance(module, Weighted) and module.weight_quantizer}


def _weight_codes(layer):
    with no_grad():
        return layer.quantized_weight().raw


def _signs_of(layer):
    codes = _weight_codes(layer)
    return codes.values if isinstance(codes, Codes) and codes.encoding == "ternary" else layer.weight.data >= 0


def _signs(network):
    with random.preserved():
        return {name: _signs_of(layer).copy() for name, layer in _quantized_layers(network).items()}


def _activations(network, batch):
    """What the quantizers of inputs and activations do to the batch."""
    owners = {id(part): module.name or "network" for module in network.modules() for name, part in module.children().items()
              if isinstance(part, Quantizer) and name in ("quantizer", "input_quantizer")}
    found = {}

    def look(quantizer, codes, saved):
        if id(quantizer) in owners:
            passes = quantizer.grad(saved, np.ones(codes.shape, np.float32))
            found[owners[id(quantizer)]] = {"saturated": _share(passes == 0), "codes": _histogram(codes)}

    with observe(look):
        network(batch.images)
    return found


def _histogram(codes):
    if not isinstance(codes, Codes):
        return []
    size = 3 if codes.encoding == "ternary" else 1 << codes.bits
    return [_rounded(count / codes.values.size) for count in np.bincount(codes.values.ravel(), minlength=size)]


def _share(mask):
    return _rounded(np.mean(mask))


def _rounded(value):
    return float(f"{value:.4g}")


@own_style
def draw_inside(path, history, title):
    """A panel for each of sign flips, saturation, codes of the last epoch and cosine of gradients that there is anything to
    show, from records with an "inside".
    """
    records = [record for record in history if "inside" in record]
    panels = [panel for panel in (*(_lines(records, *one) for one in LINES[:2]), _codes(records), _lines(records, *LINES[2]))
              if panel]
    if not panels:
        panels = [lambda axes: (axes.text(0.5, 0.5, "nothing is quantized", transform=axes.transAxes, ha="center"),
                                axes.set_axis_off())]
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, places = new_figure(title, 6 * columns, 4 * rows, columns, rows)
    for axes, panel in zip(places, panels, strict=False):
        panel(axes)
    for axes in places[len(panels):]:
        axes.remove()
    write_figure(figure, path)


LINES = (("weights", "flipped", "weights flipped in an epoch, %", 100),
         ("activations", "saturated", "activations without gradient, %", 100),
         ("gradients", "cosine", "cosine of quantized and exact gradient", 1))


def _lines(records, part, key, label, scale):
    """What draws a line for each layer, or None where there is none."""
    names = dict.fromkeys(name for record in records for name in record["inside"][part])
    if not names:
        return None

    def draw(axes):
        for name in names:
            values = [record["inside"][part].get(name, {}).get(key) for record in records]
            axes.plot([record["epoch"] for record in records], [np.nan if v is None else scale * v for v in values], marker="o",
                      markersize=3, label=name)
        axes.set_title(label, loc="left", fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", color=FAINT, linewidth=0.7)
        axes.legend(frameon=False, fontsize=8)

    return draw


def _codes(records):
    """What draws the shares of the codes of the last epoch, or None where there are none."""
    last = records[-1]["inside"] if records else {"weights": {}, "activations": {}}
    rows = [(f"{name}, {part[:-1]}", entry["codes"]) for part in ("weights", "activations")
            for name, entry in last[part].items() if 0 < len(entry["codes"]) <= 16]
    if not rows:
        return None

    def draw(axes):
        for y, (_, shares) in enumerate(rows):
            start = 0.0
            for code, share in enumerate(shares):
                shade = 0.25 + 0.6 * code / max(1, len(shares) - 1)
                color = 1 - shade, 1 - 0.7 * shade, 1 - 0.2 * shade
                axes.barh(y, 100 * share, left=100 * start, color=color, edgecolor="white")
                start += share
        axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_title("codes of the last epoch, from the lowest level (light) to the highest, %", loc="left", fontsize=10)

    return draw
