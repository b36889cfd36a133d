"""The pages in a browser: nothing fails, nothing is too wide, and the widgets calculate as bitnet does."""

import itertools
import re
import shutil

import numpy as np
import pytest

from bitnet import Tensor
from bitnet.quantizers import DoReFaActivation, DoReFaWeight, quantize_k

from .conftest import LEARN

sync_api = pytest.importorskip("playwright.sync_api")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium")
WIDTHS = {"desktop": 1280, "phone": 390}
WIDGETS = ("staircase", "window", "dot", "noise", "border", "triples", "scales", "amdahl", "frozen")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """visit(path, width) -> a page; what it complains about, and what it asks a network for, fails the test."""
    wrong, pages = [], []

    def visit(path, width=1280):
        page = browser.new_page(viewport={"width": width, "height": 800})
        pages.append(page)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url))
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.goto(path.as_uri())
        return page

    yield visit
    for page in pages:
        page.close()
    assert not wrong


@pytest.fixture(scope="module")
def playground(tmp_path_factory):
    """A page with all widgets and nothing else."""
    folder = tmp_path_factory.mktemp("playground")
    body = "".join(f'<div class="widget" data-widget="{name}"></div>' for name in WIDGETS)
    text = (LEARN / "page" / "page.html").read_text(encoding="utf-8").replace("<!-- BODY -->", body)
    (folder / "index.html").write_text(text, encoding="utf-8")
    for name in ("widgets.js", "course.css"):
        shutil.copyfile(LEARN / "page" / name, folder / name)
    return folder / "index.html"


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_pages_fit(site, visit, width):
    folder, _ = site
    for path in sorted(folder.glob("*.html")):
        page = visit(path, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{path.name} is wider than its window"
        boxes = "[...document.querySelectorAll('math')].map(e => e.getBoundingClientRect())"
        sizes = page.evaluate(f"{boxes}.map(b => [b.width, b.height])")
        assert all(w > 3 and h > 6 for w, h in sizes)
        assert len(sizes) > 20 or path.name in ("index.html", "solutions.html", "glossary.html")
        pictures = page.evaluate("[...document.images].map(e => [e.naturalWidth, e.getBoundingClientRect().width])")
        shown = [(natural, across) for natural, across in pictures if across]
        twice = path.name[0] in "01"  # a chapter's pictures were drawn for both widths
        assert len(shown) == len(pictures) / (2 if twice else 1)
        assert all(natural > 400 and 300 < across <= width for natural, across in shown)  # none is cut


def test_solutions_are_folded(site, visit):
    page = visit(site[0] / "solutions.html")
    first = page.locator("details").first
    assert not first.locator("pre").is_visible()
    first.locator("summary").click()
    assert first.locator("pre").is_visible()


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_widgets_fit(playground, visit, width):
    page = visit(playground, width)
    for name, least, most in (("Bits of u", 1, 4), ("Bits of c", 1, 4)):
        for bits in (least, most):
            put(page.locator('[data-widget="dot"]'), name, bits)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    for widget in page.locator(".widget").all():
        assert widget.bounding_box()["height"] > 200


def put(widget, name, value):
    """Set a slider or a choice by its label, as a hand would."""
    control = widget.get_by_label(name, exact=True)
    if control.evaluate("e => e.tagName") == "SELECT":
        control.select_option(value)
    else:
        control.evaluate("(e, value) => { e.value = value; e.dispatchEvent(new Event('input', {bubbles: true})); }", str(value))


def says(widget):
    return widget.locator(".says").inner_text().replace("−", "-")


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]


@pytest.mark.parametrize("bits", range(1, 9))
def test_arithmetic_is_that_of_the_quantizers(playground, visit, bits):
    page, rng = visit(playground), np.random.default_rng(bits)
    top = 2**bits - 1
    x = np.concatenate([rng.uniform(-0.5, 1.5, 300), (np.arange(top) + 0.5) / top, np.arange(top + 1) / top])  # halves, levels
    ours = page.evaluate("([xs, k]) => xs.map(x => course.activation(x, k)).map(c => [c.code, c.real])", [x.tolist(), bits])
    assert np.array_equal(np.array(ours)[:, 0], DoReFaActivation(bits).encode(x).values)
    assert np.array_equal(np.array(ours)[:, 1], quantize_k(x.clip(0, 1), bits))

    w = rng.normal(0, 0.3, 300)
    mean, largest = float(np.abs(w).mean()), float(np.abs(w).max())
    ours = page.evaluate("([ws, k, e, m]) => ws.map(w => course.weight(w, k, e, m)).map(c => [c.code, c.level, c.real])",
                         [w.tolist(), bits, mean, largest])
    codes = DoReFaWeight(bits).encode(w)
    assert np.array_equal(np.array(ours)[:, 0], codes.values) and np.array_equal(np.array(ours)[:, 1], codes.levels())
    assert np.allclose(np.array(ours)[:, 2], codes.decode(np.float64))

    g, sigma = rng.normal(0, 1, 300), rng.uniform(-0.5, 0.5, 300)
    m = float(np.abs(g).max())
    ours = page.evaluate("([gs, k, m, s]) => gs.map((g, i) => course.gradient(g, k, m, s[i]).real)",
                         [g.tolist(), bits, m, sigma.tolist()])
    assert np.allclose(ours, 2 * m * (quantize_k((g / (2 * m) + 0.5 + sigma / top).clip(0, 1), bits) - 0.5))


def test_staircase(playground, visit):
    widget = visit(playground).locator('[data-widget="staircase"]')
    for bits in (1, 2, 3, 8):
        put(widget, "Bits", bits)
        for x in (-0.5, 0.0, 0.4, 0.5, 0.71, 1.0):
            put(widget, "Quantizer", "activation")
            put(widget, "Number", x)
            code = DoReFaActivation(bits).encode(np.array([x])).values[0]
            real = quantize_k(np.clip(x, 0, 1), bits)
            assert says(widget).startswith(f"{x:.2f} gets the code {code}, in bits {code:0{bits}b}; level {code}, "
                                           f"rounded {real:.3f}, error ")
            assert numbers(says(widget))[-1] == round(real - np.clip(x, 0, 1), 3)
            put(widget, "Quantizer", "weight")
            codes = DoReFaWeight(bits).encode(np.array([x, 1.0]))
            assert f"gets the code {codes.values[0]}, in bits {codes.values[0]:0{bits}b}; level " in says(widget)
            assert f"= {codes.levels()[0]}, rounded" in says(widget)
            assert widget.locator(".bit b").all_inner_texts() == list(f"{codes.values[0]:0{bits}b}")
            rounded = 0.4 * codes.levels()[0] if bits == 1 else codes.decode(np.float64)[0]
            assert f"rounded {rounded:.3f}" in says(widget)


def test_sliders_obey_the_keyboard_and_the_plot_a_pointer(playground, visit):
    widget = visit(playground).locator('[data-widget="staircase"]')
    before = says(widget)
    widget.get_by_label("Bits", exact=True).focus()
    widget.page.keyboard.press("ArrowRight")
    assert widget.get_by_label("Bits", exact=True).input_value() == "3" and says(widget) != before
    box = widget.locator("svg").bounding_box()
    widget.page.mouse.click(box["x"] + 0.95 * box["width"], box["y"] + 0.5 * box["height"])
    assert float(widget.get_by_label("Number", exact=True).input_value()) > 0.8
    assert widget.locator(".says").get_attribute("aria-live") == "polite"


def test_window(playground, visit):
    widget = visit(playground).locator('[data-widget="window"]')
    put(widget, "Gradient", -0.65)
    for x in (-1.0, -0.01, 0.0, 0.4, 1.0, 1.01, 2.0):
        put(widget, "Number", x)
        tensor = Tensor(np.array([x]), requires_grad=True)
        rounded = DoReFaActivation(2)(tensor)
        rounded.backward(np.array([-0.65]))
        assert numbers(says(widget))[:4] == [x, round(float(rounded.data[0]), 3), -0.65, tensor.grad[0]]


def test_dot(playground, visit):
    widget = visit(playground).locator('[data-widget="dot"]')
    seen = set()
    for a_bits, w_bits in ((1, 1), (2, 1), (3, 2), (4, 4)):
        put(widget, "Bits of u", a_bits)
        put(widget, "Bits of c", w_bits)
        for _ in range(4):
            widget.get_by_role("button", name="Shuffle").click()
            codes = np.array([int(text) for text in widget.locator(".codes button").all_inner_texts()])
            u, c = codes[:8], codes[8:]
            assert u.max() < 2**a_bits and c.max() < 2**w_bits
            expected = int(u @ (2 * c - (2**w_bits - 1)))
            assert says(widget).endswith(f": {expected}.") and f"= {expected}. Plainly" in says(widget)
            cells = [row.locator("td").all_inner_texts() for row in widget.locator("table").nth(1).locator("tr").all()[1:]]
            assert len(cells) == a_bits * w_bits
            T = 0
            for name, word, ones, times in cells:
                l, m = numbers(name)
                xor = (u >> int(l) & 1) ^ (c >> int(m) & 1)
                assert word == "".join(map(str, xor)) and int(ones) == xor.sum() and int(times) == 2 ** (l + m)
                T += int(ones) * int(times)
            assert f"= {T}. By bits: {2**a_bits - 1} · {c.sum()} - {T} = {expected}." in says(widget)
            seen.add(expected)
    assert len(seen) > 5
    first = widget.locator(".codes button").first
    before = int(first.inner_text())
    first.click()
    assert int(widget.locator(".codes button").first.inner_text()) == (before + 1) % 16
    assert widget.locator(".codes button").first.evaluate("e => e === document.activeElement")
    assert len(set(map(str, (widget.get_attribute("data-by-bits"), widget.get_attribute("data-plain"))))) == 1


def test_border(playground, visit):
    widget = visit(playground).locator('[data-widget="border"]')
    sums = np.array([[2, -4, 0], [6, -2, 4], [-6, 2, -8]])
    kinds = set()
    for bits, (row, column) in itertools.product((1, 3), ((0, 0), (0, 3), (2, 3), (5, 5), (5, 1), (2, 0))):
        for name, value in (("Bits of v", bits), ("Row", row), ("Column", column)):
            put(widget, name, value)
        outside = np.pad(np.zeros((6, 6), int), 1, constant_values=1)[row:row + 3, column:column + 3]
        constant = (2**bits - 1) * (outside * sums).sum()
        assert says(widget).startswith(f"{outside.sum()} of 9 taps lie outside.")
        assert f"The table gives back {constant}; " in says(widget)
        assert widget.locator("td.one").count() == outside.sum()
        kinds.add(says(widget)[-7:])
    assert len(kinds) == 6


def test_triples(playground, visit):
    widget = visit(playground).locator('[data-widget="triples"]')
    for stride, product, index, terms in (
            (1, "forward", 0, "y0 = x0·w1 + x1·w2: "), (1, "input", 1, "dx1 = g0·w2 + g1·w1 + g2·w0: "),
            (2, "weight", 1, "dw1 = g0·x0 + g1·x2 + g2·x4: "), (2, "input", 2, "dx2 = g1·w1: ")):
        put(widget, "Product", product)
        put(widget, "Stride", stride)
        put(widget, "Result", index)
        assert says(widget).startswith(terms) and widget.locator("td.one").count() == terms.count("·")


def test_scales(playground, visit):
    widget = visit(playground).locator('[data-widget="scales"]')
    for bits, power in ((4, 4), (2, 0), (8, 6)):
        put(widget, "Bits", bits)
        put(widget, "Smaller by", power)
        own, shared = (round(2**power / (2**bits - 1), 3) if both else round(1 / (2**bits - 1), 3) for both in (0, 1))
        assert f"at most {own:.3f} of" in says(widget) and f"one scale for both {shared:.3f}" in says(widget)
        assert says(widget).endswith("more than the gradient itself.") == (shared > 1)


def test_amdahl(playground, visit):
    widget = visit(playground).locator('[data-widget="amdahl"]')
    for q, power, rest in ((60, 3, 1), (80, 6, 1), (39, 2, 1.5), (100, 1, 1)):
        for name, value in (("Share q", q), ("Speed-up s", power), ("Rest r", rest)):
            put(widget, name, value)
        gain = 1 / ((1 - q / 100) / rest + q / 100 / 2**power)
        assert f"the whole {gain:.2f} times." in says(widget)


def test_frozen(playground, visit):
    page = visit(playground)
    widget = page.locator('[data-widget="frozen"]')
    sums = np.arange(-100, 101)
    for slope, shift, bits in ((1.5, 0.5, 2), (-2, 0.25, 2), (0.25, -1, 1), (4, 2, 3), (-0.5, 0.75, 3)):
        for name, value in (("Slope", slope), ("Shift", shift), ("Bits", bits)):
            put(widget, name, value)
        found = page.evaluate("([a, b, k]) => course.thresholds(a / 100, b, k, 100)", [slope, shift, bits])
        codes = DoReFaActivation(bits).encode(slope / 100 * sums + shift).values
        reached = (found["sign"] * sums[:, None] >= np.array(found["steps"])).sum(axis=1)
        assert np.array_equal(reached, codes)
        what = "minus the sum" if slope < 0 else "a sum"
        assert says(widget).startswith(f"The code is how many of these {what} has reached: ")


def test_noise(playground, visit):
    widget = visit(playground).locator('[data-widget="noise"]')

    def rows():
        return [np.array(numbers(row.inner_text().replace("−", "-"))) for row in widget.locator("tr").all()]

    for bits in (1, 2, 4, 8):
        put(widget, "Bits", bits)
        top = 2**bits - 1
        put(widget, "Noise", "off")
        put(widget, "Mean of", 6)
        g, codes, means = rows()
        assert np.array_equal(codes, np.rint(top * (g / 2 + 0.5)))
        assert np.allclose(means, 2 * codes / top - 1, atol=0.006)
        plain = numbers(says(widget))[-1]
        assert np.isclose(plain, np.sqrt(np.mean((2 * codes / top - 1 - g) ** 2)), atol=6e-4)

        put(widget, "Noise", "on")
        put(widget, "Mean of", 0)
        once, seen = says(widget), set()
        for _ in range(8):
            widget.get_by_role("button", name="Draw again").click()
            g, codes, means = rows()
            assert np.all(np.abs(codes - top * (g / 2 + 0.5)) < 1 + 1e-9)  # one of both neighbours
            assert np.allclose(means, 2 * codes / top - 1, atol=0.006)
            seen.add(tuple(codes))
        assert len(seen) > 1
        put(widget, "Mean of", 10)
        g, _, means = rows()
        assert np.all(np.abs(means - g) < 4 / top / np.sqrt(1024) + 0.006)  # a draw is off by 1 / top at most, typically
        assert numbers(says(widget))[-1] < numbers(once)[-1]
