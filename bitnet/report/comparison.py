"""Methods beside each other: a table as text, and a picture of errors against bits and sizes.

A row is what ``training.compare`` makes of a method: {"name", "method", "bits", "error", "published", "packed", ...}.
"""

from matplotlib.transforms import Bbox

from bitnet.report.pictures import FAINT, INK, new_figure, own_style, write_figure
from bitnet.text import columns, size_text


def compared(rows, data):
    """Rows of methods as text; ``data`` says what they were trained on."""
    head = ["method", "W,A,G", "error", "published", "packed", "training", "inference", "on bits", "(inference)", "epochs",
            "minutes", "setting of the published error"]  # fmt: skip
    five = any("top5_error" in row for row in rows)
    cells = [head[:3] + ["top-5 error"] * five + head[3:]]
    for row in rows:
        published, setting = row["published"] or (None, "")
        cells.append([
            row["name"], ",".join(map(str, row["bits"])), _with_deviation(row),
            *[f"{row['top5_error']:.2f} %" if "top5_error" in row else "-"] * five,
            "-" if published is None else f"{published:.2f} %",
            size_text(row["packed"]), f"{row['train_images_per_second']:.0f}/s",
            f"{row['infer_images_per_second']:.0f}/s",
            f"{row['bit_share_training']:.0%}", f"{row['bit_share_inference']:.0%}", str(row["epochs"]),
            f"{row['minutes']:.1f}", setting,
        ])  # fmt: skip
    return "\n".join([
        f"trained on {data}", columns(cells, left=(0, 1, 11 + five)),
        "error: of the test set after the last epoch; training, inference: images a second; on bits: share of the "
        "multiply-accumulates of a training",
        "step (inference: of a forward pass) on integer kernels; packed: all parameters, quantized weights in W bits",
        *["+-: standard error of the mean over seeds"] * any(row.get("deviation") is not None for row in rows),
    ])  # fmt: skip


def _with_deviation(row):
    deviation = row.get("deviation")
    return f"{row['error']:.2f} %" if deviation is None else f"{row['error']:.2f} +- {deviation:.2f} %"


@own_style
def draw_compared(path, rows, title):
    """Write a picture of rows: error against bits, and against size; bars are standard errors, where there are some."""
    figure, panels = new_figure(title, 13, 5.5, columns=2)
    colors = {"": INK}
    quantities = (("bit products of a multiply-accumulate, W x A (1024: float)", lambda row: row["bits"][0] * row["bits"][1]),
                  ("parameters packed, kB", lambda row: row["packed"] / 1e3))
    for axes, (label, x) in zip(panels, quantities, strict=True):
        values = [x(row) for row in rows]
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 2, max(values) * 2)
        ticks = [base * 10**power for power in range(-3, 7) for base in (1, 2, 5)] if axes is panels[1] else sorted(set(values))
        axes.set_xticks([tick for tick in ticks if min(values) / 2 <= tick <= max(values) * 2], minor=False)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: "")
        for row in rows:
            axes.errorbar(x(row), row["error"], row.get("deviation"), fmt="o", capsize=3,
                          color=colors.setdefault(row["method"], f"C{len(colors) % 10}"))
        axes.set_xlabel(label)
        axes.set_ylabel("test error, %")
        axes.set_ylim(0, 1.08 * max(row["error"] + (row.get("deviation") or 0) for row in rows) + 0.01)
        axes.grid(axis="y", color=FAINT, linewidth=0.7)
    figure.draw_without_rendering()  # from here on it is known where things lie
    for axes, (_, x) in zip(panels, quantities, strict=True):
        taken = [Bbox.from_bounds(*(axes.transData.transform((x(row), row["error"])) - 4), 8, 8) for row in rows]
        for row in rows:
            _write_beside(axes, row["name"], (x(row), row["error"]), colors[row["method"]], taken)
    write_figure(figure, path)


def _write_beside(axes, name, point, color, taken):
    """Write a name where there is room beside its point, and add its box to those that are ``taken``."""
    for shift in (0, 11, -11, 22, -22):
        for side in (1, -1):
            text = axes.annotate(name, point, (7 * side, shift), textcoords="offset points", fontsize=8, color=color,
                                 ha="left" if side == 1 else "right", va="center")
            box = text.get_window_extent()
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                return
            text.remove()
    axes.add_artist(text)  # no room anywhere
