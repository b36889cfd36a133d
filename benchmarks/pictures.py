"""The pictures: bars against peers, a roofline, and beside them what the literature claims.

They are drawn from a benchmark's JSON alone: ``python benchmarks/pictures.py RESULT.json PICTURE.png`` draws one again, and
with several results, of several machines, draws what they have in common side by side.
"""

import argparse
import json
import sys

import common
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import LogLocator

INK, FAINT = "#22262e", "#d9dce3"
COLOURS = {
    "popcount": "#1f5fbf", "byte_dot": "#2a9d8f", "float": "#8ab4e8", "auto": "#0b2f66", "frozen": "#6a3d9a",
    "torch": "#d9822b", "torch_bf16": "#b5561c", "torch_fake_quant": "#f3c48e", "openvino": "#7a7f8a",
    "openvino_int8": "#a9adb8", "openvino_binary": "#4d515b",
}  # fmt: skip
NAMES = {"torch": "PyTorch float32", "torch_bf16": "PyTorch bfloat16", "torch_fake_quant": "PyTorch simulating",
         "openvino": "OpenVINO float32", "openvino_int8": "OpenVINO INT8", "openvino_binary": "OpenVINO binary"}
PATHS = {"forward": "o", "input_grad": "^", "weight_grad": "s", "layer": "D", "train": "P", "inference": "X"}
CLAIMS = (("XNOR-Net: 58x fewer operations (a count, no time)", 58), ("BFCN (1,2): 7.8x, CPU inference", 7.8),
          ("BNN: 7x, GPU, over an unoptimised kernel", 7), ("BFCN (2,2): 4.1x, CPU inference", 4.1))


def _name(row):
    if row["impl"] == "torch_fake_quant":
        return f"{NAMES['torch_fake_quant']} {row['bits']}"
    if row["impl"] in NAMES:
        return NAMES[row["impl"]]
    return "our float32" if row["bits"] == "32,32,32" else f"{row['impl']} {row['bits']}"


def _rate(row):
    return row["gmacs"] if "gmacs" in row else row["images_per_second"]


def _mean(values):
    """The geometric mean."""
    return float(np.exp(np.mean(np.log(values))))


def _tidy(axes, title, label):
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel(label, fontsize=9)
    axes.tick_params(labelsize=8.5, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _bars(axes, groups, title, label):
    """A bar each of ``groups`` (name -> (values, impl)), the greatest on top, a dot for each value where there are several."""
    order = sorted(groups, key=lambda name: _mean(groups[name][0]))
    means = [_mean(groups[name][0]) for name in order]
    axes.barh(range(len(order)), means, color=[COLOURS[groups[name][1]] for name in order], height=0.75)
    for i, name in enumerate(order):
        values = groups[name][0]
        if len(values) > 1:
            axes.plot(values, [i] * len(values), "o", color=INK, markersize=2.5, alpha=0.45)
    numbers = [f"{mean:.3g}" if mean < 1000 else f"{mean:.0f}" for mean in means]
    axes.set_yticks(range(len(order)), [f"{name}  {number:>5}" for name, number in zip(order, numbers, strict=True)])
    axes.margins(x=0.03, y=0.02)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    _tidy(axes, title, label)


def _grouped(rows):
    """name -> (rates, impl) over the cases of ``rows``."""
    groups = {}
    for row in rows:
        groups.setdefault(_name(row), ([], row["impl"]))[0].append(_rate(row))
    return groups


def _roofline(axes, result):
    """Executed multiply-accumulates a second over those for each byte of operands and results."""
    peak, x = result["peak"], np.geomspace(0.5, 3e4, 200)
    roofs = (("popcount_gmacs", "one-bit, XOR and popcount", COLOURS["popcount"]),
             ("float_gmacs", "float32, multiply-add", COLOURS["torch"]))
    for key, text, colour in roofs:
        axes.plot(x, np.minimum(peak[key], peak["bandwidth_gbs"] * x), color=colour, linewidth=1.5)
        axes.annotate(f"{text}: {peak[key]:.0f}", (x[-1], peak[key]), (0, 4), textcoords="offset points", ha="right",
                      fontsize=8.5, color=colour)
    axes.annotate(f"memory: {peak['bandwidth_gbs']:.1f} GB/s", (0.6, 0.6 * peak["bandwidth_gbs"]), (10, -4),
                  textcoords="offset points", fontsize=8.5, color=INK)
    shown = {}
    for row in result["rows"]:
        popcount, floats = row["impl"] == "popcount" and row["share_of_peak"], row["bits"] == "32,32,32"
        left_out = row["impl"].startswith("openvino") or row["path"] == "layer"  # the same layers once more
        if "macs_per_byte" not in row or left_out or not (popcount or floats):
            continue
        shown[f"{'our float32' if row['impl'] == 'float' else NAMES.get(row['impl'], row['impl'])}, {row['path']}"] = axes.plot(
            row["macs_per_byte"], row["executed_gmacs"], PATHS[row["path"]], color=COLOURS[row["impl"]], markersize=5,
            alpha=0.65, markeredgewidth=0)[0]
    axes.legend(shown.values(), shown.keys(), fontsize=7.5, frameon=False, loc="lower right")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_ylabel("10⁹ multiply-accumulates a second, executed", fontsize=9)
    _tidy(axes, "Roofline", "multiply-accumulates for each byte of operands and result")


def _claims(axes, measured, against):
    """Measured speed-ups, and claims of others beside them."""
    bars = [(f"{name}, measured", value, COLOURS["auto"], None) for name, value in measured]
    bars += [(name, value, "white", "///") for name, value in CLAIMS]
    bars.reverse()
    for i, (_, value, colour, hatch) in enumerate(bars):
        axes.barh(i, value, color=colour, hatch=hatch, edgecolor="#8a93a6" if hatch else colour, height=0.7, linewidth=0.8)
        axes.annotate(f"{value:g}x" if hatch else f"{value:.2f}x", (value, i), (4, 0), textcoords="offset points",
                      va="center", fontsize=8.5)
    axes.set_yticks(range(len(bars)), [bar[0] for bar in bars])
    axes.set_xscale("log")
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.margins(x=0.18)
    _tidy(axes, "Speed-ups; hatched: claims of others, not measured here", f"times the speed of {against}")


def _compared(rows):
    """Each row with the one that it is compared with, of the same case and path; those that have one."""
    for work in dict.fromkeys((row["case"], row["path"]) for row in rows):
        some = [row for row in rows if (row["case"], row["path"]) == work]
        base = common.reference(some)
        yield from ((row, base) for row in some if base)


def _speed_ups(rows):
    """(name, geometric mean over the cases) of our automatic choice over float, and what that float is."""
    found, against = {}, "our own float32"
    for row, base in _compared(rows):
        if base["impl"] == "torch":
            against = "PyTorch float32"
        if row["impl"] in ("auto", "frozen") and row["bits"] != "32,32,32":
            work = row["case"].replace(",", ", batch") if row["path"] in ("train", "inference") else row["path"]
            name = f"ours {row['bits']}, {work}" + ", frozen" * (row["impl"] == "frozen")
            found.setdefault(name, []).append(base["ms"] / row["ms"])
    return [(name, _mean(values)) for name, values in found.items()], against


def _caption(figure, result, title):
    about = result["machine"]
    versions = ", ".join(f"{name} {about[name]}" for name in ("numba", "torch", "openvino") if name in about)
    figure.suptitle(f"{title}\n{about['processor']}, {about['threads']} thread{'s' * (about['threads'] > 1)}; {versions}",
                    x=0.01, ha="left", fontsize=13, color=INK)
    if about["disturbed"]:
        figure.text(0.99, 0.99, "DISTURBED by other programs:\nnot a comparison", ha="right", va="top", fontsize=13,
                    color="#c0392b", weight="bold")


def _save(figure, path):
    figure.savefig(path, dpi=110, bbox_inches="tight", facecolor="white")
    plt.close(figure)


def draw_layers(path, result):
    """The picture of conv.py: a panel for each piece of work, the roofline, and the claims."""
    rows = result["rows"]

    def chosen(row):  # of all bits, those that one panel can show
        w, a, _ = row["bits"].split(",")
        return row["impl"] != "auto" and not (row["path"] == "input_grad" and w == "2") and not (
            row["path"] == "weight_grad" and a in "14")

    titles = {"layer": "Whole layer, float in and float out", "forward": "Forward product (OpenVINO: the node alone)",
              "input_grad": "Input gradient, 1-bit weights", "weight_grad": "Weight gradient, 2-bit activations"}
    panels = {name: _grouped(row for row in rows if row["path"] == name and chosen(row)) for name in titles}
    lengths = [len(panel) for panel in panels.values()]
    heights = [0.24 * max(lengths[:2]) + 0.8, 0.24 * max(lengths[2:]) + 0.8]
    figure = plt.figure(figsize=(15, sum(heights) + 6.5), layout="constrained")
    grid = GridSpec(3, 2, figure, height_ratios=[*heights, 5])
    for i, name in enumerate(titles):
        _bars(figure.add_subplot(grid[i // 2, i % 2]), panels[name], titles[name],
              "10⁹ nominal multiply-accumulates a second; bar: geometric mean, dots: layers")
    _roofline(figure.add_subplot(grid[2, 0]), result)
    measured, against = _speed_ups([row for row in rows if row["path"] == "layer"])
    _claims(figure.add_subplot(grid[2, 1]), measured, against)
    cases = len({row["case"] for row in rows})
    _caption(figure, result, f"Convolution layers: {cases} layers, bits W,A,G")
    _save(figure, path)


def draw_networks(path, result):
    """The picture of train_step.py and inference.py: a panel for each case, memory, the roofline, and the claims."""
    rows = result["rows"]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    what = "Training steps" if rows[0]["path"] == "train" else "Inference"
    memory = [row for row in rows if "peak_memory_mib" in row]
    panels = len(cases) + (1 if memory else 0)
    columns = 2 if panels > 1 else 1
    lines = -(-panels // columns)
    height = 0.3 * max(len([row for row in rows if row["case"] == case]) for case in cases) + 1
    figure = plt.figure(figsize=(15, lines * height + 6), layout="constrained")
    grid = GridSpec(lines + 1, 2, figure, height_ratios=[height] * lines + [5])
    for i, case in enumerate(cases):
        place = grid[i // 2, i % 2] if columns > 1 else grid[0, :]
        model, batch = case.split(", ")
        _bars(figure.add_subplot(place), _grouped(row for row in rows if row["case"] == case), f"{model}, batch {batch}",
              "images a second")
    if memory:
        groups = {f"{row['case'].split(',')[0]}, {_name(row)}": ([row["peak_memory_mib"]], row["impl"]) for row in memory}
        _bars(figure.add_subplot(grid[len(cases) // 2, len(cases) % 2]), groups, "Peak memory of a step, batch 128",
              "MiB above the process before its first batch")
    _roofline(figure.add_subplot(grid[lines, 0]), result)
    measured, against = _speed_ups(rows)
    _claims(figure.add_subplot(grid[lines, 1]), measured, against)
    _caption(figure, result, f"{what} of DoReFa-Net's SVHN models")
    _save(figure, path)


def _against(rows):
    """{name: geometric mean of the speed-ups over the reference} over the cases of ``rows``."""
    found = {}
    for row, base in _compared(rows):
        found.setdefault(_name(row), []).append(base["ms"] / row["ms"])
    return {name: _mean(values) for name, values in found.items()}


def draw_machines(path, results):
    """Several machines' results of one benchmark: speed-ups over PyTorch float32, or our own float path where that is missing.

    A panel for each case of networks, or for each piece of work of layers; a mark for each machine, since only ratios within a
    run compare.
    """
    def panel(row):
        return row["path"] if "gmacs" in row else f"{row['path']}, {row['case'].replace(', ', ', batch ')}"

    panels = dict.fromkeys(panel(row) for result in results for row in result["rows"])
    speeds = [{title: _against([row for row in result["rows"] if panel(row) == title]) for title in panels}
              for result in results]
    names = {title: list(dict.fromkeys(name for one in speeds for name in one[title])) for title in panels}
    lines, height = -(-len(panels) // 2), 0.28 * max(map(len, names.values())) + 1
    figure, axes = plt.subplots(lines, 2, figsize=(15, lines * height + 1.5), layout="constrained", squeeze=False)
    for place, (title, rows) in zip(axes.flat, names.items(), strict=False):
        rows.sort(key=lambda name: _mean([one[title][name] for one in speeds if name in one[title]]))
        for result, one, mark in zip(results, speeds, "osD^vP*X", strict=False):
            about = result["machine"]
            place.plot([one[title].get(name, np.nan) for name in rows], range(len(rows)), mark, markersize=6, alpha=0.8,
                       label=f"{about['processor']}, {about['threads']} threads" + ", DISTURBED" * bool(about["disturbed"]))
        place.set_yticks(range(len(rows)), rows)
        place.axvline(1, color=INK, linewidth=0.8)
        place.set_xscale("log")
        place.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        place.xaxis.set_major_formatter("{x:g}")
        place.xaxis.set_minor_formatter("")
        place.grid(color=FAINT, linewidth=0.6)
        _tidy(place, title, "times the speed of float32: PyTorch's where it was installed")
    for place in axes.flat[len(panels):]:
        place.axis("off")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", fontsize=9, frameon=False)
    figure.suptitle(f"{len(results)} machines", x=0.01, ha="left", fontsize=13, color=INK)
    _save(figure, path)


def _read(path):
    """A benchmark's JSON file."""
    try:
        with open(path, encoding="utf-8") as file:
            result = json.load(file)
        if not result["rows"] or not all({"case", "path", "bits", "impl", "ms"} <= row.keys() for row in result["rows"]):
            raise ValueError("no rows of a benchmark")
        return result
    except OSError as error:
        raise common.UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise common.UsageError(f"{path}: expected the JSON file of a benchmark, found something else: {error}") from None


def main(argv=None):
    """Draw a result again, or several side by side."""
    parser = common.Parser(prog="pictures.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="RESULT.json", help="of one benchmark, on one machine each")
    parser.add_argument("picture", metavar="PICTURE.png")
    given = parser.parse_args(argv)
    if not given.picture.endswith(common.PICTURES):
        raise common.UsageError(f"{given.picture}: expected a picture named {', '.join(common.PICTURES)}")
    results = [_read(path) for path in given.results]
    kinds = {"gmacs" in result["rows"][0] for result in results}
    if len(kinds) > 1:
        raise common.UsageError("expected results of one benchmark, found layers and networks")
    if len(results) > 1:
        draw_machines(given.picture, results)
    else:
        (draw_layers if kinds == {True} else draw_networks)(given.picture, results[0])


if __name__ == "__main__":
    sys.exit(common.run("pictures.py", main))
