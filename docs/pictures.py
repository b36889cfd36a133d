"""Draw the pictures of the README: one training step of an inner layer, accuracy by bits, and a sheet of generated digits.

    python docs/pictures.py [FOLDER]

Writes pipeline-light.svg, accuracy-light.svg, the same in dark, and digits.png into FOLDER, by default the folder of this
script. The accuracies are those of accuracy.json beside it: by model and bits, one for each seed.
"""

import io
import json
import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from bitnet.datasets import load_generated

# paper and ink, then (fill, edge) of what counts bits, of quantizers, and of what stays float
LIGHT = {"paper": "#ffffff", "ink": "#1f2328", "faint": "#59636e",
         "bits": ("#d6e6fb", "#1f5fbf"), "quantizer": ("#fde8c8", "#b26a00"), "float": ("#eef0f3", "#8a93a6")}
DARK = {"paper": "#0d1117", "ink": "#e6edf3", "faint": "#9aa4b0",
        "bits": ("#122d52", "#5b9cf5"), "quantizer": ("#3d2a0a", "#e0a040"), "float": ("#21262d", "#8b949e")}

COLUMNS, WIDTH, HEIGHT = (9.8, 36.2, 62.8, 89.6), 18, 9.6  # centres of the columns; size of a box
TOP, MIDDLE, BOTTOM = 49, 30, 11


class Diagram:
    """Boxes and arrows on a sheet of 100 x 60 units."""

    def __init__(self, colors):
        self.colors = colors
        self.figure = Figure((10, 6))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, 100), ylim=(0, 60))
        self.axes.axis("off")
        self.text(0.8, 58, "One training step of an inner layer", 14, weight="bold", ha="left")
        self.text(99.2, 57.9, "bits (W, A, G) = (1, 2, 4), layer conv2 of model A, N images", color=colors["faint"],
                  ha="right")

    def text(self, x, y, text, size=10.5, color=None, **options):
        self.axes.text(x, y, text, **({"fontsize": size, "ha": "center", "va": "center", "color": color or self.colors["ink"]}
                                      | options))

    def box(self, column, y, kind, title, *lines):
        fill, edge = self.colors[kind]
        x = COLUMNS[column]
        self.axes.add_patch(FancyBboxPatch((x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, facecolor=fill, edgecolor=edge,
                                           linewidth=1.6, boxstyle="round,pad=0,rounding_size=1.2", zorder=3))
        self.text(x, y + 1.35 * len(lines), title, 11.5, weight="bold", zorder=4)
        for i, line in enumerate(lines):
            self.text(x, y + 1.35 * len(lines) - 2.75 * (i + 1), line, 10, zorder=4)

    def arrow(self, points, label=None, at=None, kind="float", **options):
        """A line through points with a head at its end; ``label`` on the paper colour, centred on ``at``."""
        color = self.colors[kind][1]
        xs, ys = zip(*points, strict=True)
        for width, ink in ((8, self.colors["paper"]), (1.7, color)):  # a gap where it crosses another line
            self.axes.plot(xs, ys, color=ink, linewidth=width, solid_joinstyle="round", solid_capstyle="butt", zorder=2)
        self.axes.annotate("", points[-1], points[-2], zorder=2, arrowprops={
            "arrowstyle": "-|>,head_width=0.32,head_length=0.6", "color": color, "linewidth": 1.7, "shrinkA": 0, "shrinkB": 0})
        if label:
            self.text(*at, label, 10.5, color=color if kind != "float" else self.colors["faint"], weight="bold", **options)


def draw_pipeline(path, colors):
    sheet = Diagram(colors)
    a, b, c, d = COLUMNS
    half, rise = WIDTH / 2, HEIGHT / 2

    sheet.box(0, TOP, "quantizer", "activation codes", "N x 18 x 18 x 64", "uint8, 0 to 3")
    sheet.box(1, TOP, "bits", "forward", "2 x 1 bit planes", "XOR, popcount")
    sheet.box(2, TOP, "float", "batch norm", "then 2 x 2 max pool,", "N x 9 x 9 x 64")
    sheet.box(3, TOP, "quantizer", "quantize", "clip to [0, 1],", "round to 4 levels")
    sheet.box(1, MIDDLE, "quantizer", "weights", "kept in float32,", "used as sign x mean")
    sheet.box(2, MIDDLE, "bits", "weight gradient", "4 x 2 bit planes,", "each sample by itself")
    sheet.box(1, BOTTOM, "bits", "input gradient", "4 x 1 bit planes", "XOR, popcount")
    sheet.box(2, BOTTOM, "quantizer", "quantize gradient", "scale of each sample,", "noise, 16 levels")
    sheet.box(3, BOTTOM, "float", "backward of", "clip, max pool,", "batch norm")

    sheet.arrow([(b, MIDDLE + rise), (b, TOP - rise)], "1 bit", (b - 3.2, 37.3), "quantizer")
    sheet.arrow([(b, MIDDLE - rise), (b, BOTTOM + rise)], "1 bit", (b - 3.2, 20.5), "quantizer")
    sheet.arrow([(a + half, TOP), (b - half, TOP)], "2 bits", ((a + b) / 2, TOP + 1.8), "quantizer")
    sheet.arrow([(a, TOP - rise), (a, 39.8), (c, 39.8), (c, MIDDLE + rise)], "2 bits", (a + 3.8, 41.6), "quantizer")
    sheet.arrow([(b + half, TOP), (c - half, TOP)], "int16", ((b + c) / 2, TOP + 1.8), "bits")
    sheet.arrow([(c + half, TOP), (d - half, TOP)], "float32", ((c + d) / 2, TOP + 1.8))
    sheet.arrow([(d, TOP - rise), (d, 37.5)], "2 bits", (d + 4, 40.8), "quantizer")
    sheet.text(d, 35.6, "next layer", 10.5, color=colors["faint"])
    sheet.text(d, 24.6, "from the next layer", 10.5, color=colors["faint"])
    sheet.arrow([(d, 22.8), (d, BOTTOM + rise)], "float32", (d + 4.6, 19.3))
    sheet.arrow([(d - half, BOTTOM), (c + half, BOTTOM)], "float32", ((c + d) / 2, BOTTOM + 1.8))
    sheet.arrow([(c - half, BOTTOM), (b + half, BOTTOM)], "4 bits", ((b + c) / 2, BOTTOM + 1.8), "quantizer")
    sheet.arrow([(c, BOTTOM + rise), (c, MIDDLE - rise)], "4 bits", (c + 3.8, 20.5), "quantizer")
    sheet.arrow([(c - half, MIDDLE), (b + half, MIDDLE)], "update", ((b + c) / 2, MIDDLE + 1.8), "bits")
    sheet.arrow([(b - half, BOTTOM), (a + 3.8, BOTTOM)], "float32", (22, BOTTOM + 1.8))
    sheet.text(a - 2.6, BOTTOM, "gradient for\nthe layer before", 10.5, color=colors["faint"], linespacing=1.4)

    for i, (kind, meaning) in enumerate([("bits", "integer product on packed bits"), ("quantizer", "integer codes, quantizers"),
                                         ("float", "float32")]):
        x = (0.8, 31.5, 56.5)[i]
        fill, edge = colors[kind]
        sheet.axes.add_patch(FancyBboxPatch((x, 0.9), 2.6, 1.9, facecolor=fill, edgecolor=edge, linewidth=1.4,
                                            boxstyle="round,pad=0,rounding_size=0.5"))
        sheet.text(x + 3.6, 1.85, meaning, 10, color=colors["faint"], ha="left")
    write_svg(sheet.figure, path, colors)


def write_svg(figure, path, colors):
    with matplotlib.rc_context({"svg.hashsalt": "bitnet"}):  # the same file in every run
        text = io.StringIO()
        figure.savefig(text, format="svg", facecolor=colors["paper"], metadata={"Date": None})
    path.write_text("\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n")


def draw_accuracy(path, colors):
    """Test accuracy against bits, a line for each width of the network."""
    measured = json.loads((Path(__file__).parent / "accuracy.json").read_text())
    cost = {}  # pairs of bit planes in the three products of a training step; float32 stands apart
    for bits in sorted({bits for row in measured["accuracy"].values() for bits in row}, key=pairs_of):
        cost[bits] = len(cost)
    figure = Figure((10, 4.6), layout="constrained")
    axes = figure.add_subplot(facecolor=colors["paper"])
    inks = [colors["bits"][1], colors["quantizer"][1], colors["float"][1], colors["ink"]]
    ends = []
    for (model, row), ink, width in zip(measured["accuracy"].items(), inks, (2.6, 2.2, 1.8, 1.4), strict=True):
        points = sorted((cost[bits], [100 * value for value in seeds]) for bits, seeds in row.items())
        means = [sum(seeds) / len(seeds) for _, seeds in points]
        axes.plot([x for x, _ in points], means, "o-", color=ink, linewidth=width, markersize=6)
        for x, seeds in points:
            axes.plot([x] * len(seeds), seeds, "_", color=ink, markersize=9)
        ends.append((means[-1], f"model {model}", ink))
    place = 0
    for end, name, ink in sorted(ends):
        place = max(end, place + 3.2)  # names one above the other
        axes.text(len(cost) - 0.88, place, name, color=ink, va="center", fontsize=10, weight="bold")
    axes.set_xticks(list(cost.values()), ["float32" if "32" in bits else f"({bits})\n{pairs_of(bits)}" for bits in cost])
    axes.set_xlim(-0.3, len(cost) - 0.2)
    axes.set_title("Wide networks need fewer bits", color=colors["ink"], loc="left", fontsize=14, weight="bold")
    axes.set_xlabel("bits (W, A, G), and pairs of bit planes in a training step: WA + WG + AG", color=colors["ink"],
                    fontsize=10.5)
    axes.set_ylabel("test accuracy, %", color=colors["ink"], fontsize=10.5)
    axes.tick_params(colors=colors["ink"], labelsize=10.5)
    axes.grid(axis="y", color=colors["faint"], alpha=0.3, linewidth=0.8)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=colors["faint"])
    write_svg(figure, path, colors)


def pairs_of(bits):
    """Pairs of bit planes in the three products of a training step."""
    w, a, g = map(int, bits.split(","))
    return w * a + w * g + a * g


def draw_digits(path, rows=3, columns=14):
    digits = load_generated("test", 1000)
    figure = Figure((10, 0.7 * rows + 0.1), facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    for axes, image in zip(figure.subplots(rows, columns).ravel(), digits.images, strict=False):
        axes.imshow(image, interpolation="nearest")
        axes.axis("off")
    figure.savefig(path, dpi=100, metadata={"Software": None})


def main(folder=Path(__file__).parent):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, colors in (("light", LIGHT), ("dark", DARK)):
        draw_pipeline(folder / f"pipeline-{name}.svg", colors)
        draw_accuracy(folder / f"accuracy-{name}.svg", colors)
    draw_digits(folder / "digits.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
