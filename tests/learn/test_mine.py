"""The reader's own file: the solution is right and trains, the skeleton waits, and mistakes are named."""

import ast
import contextlib
import importlib.util
import io
import subprocess
import sys

import numpy as np
import pytest

from .conftest import LEARN

SOLUTION = LEARN / "solutions" / "mine.py"
# what was done wrong, as check.py should say it: where (the piece), and the lines of the solution that become others
PLANTED = {
    "it was rounded down, not to the nearest": (
        "activation_codes", "np.rint((2**bits - 1) * np.clip(x, 0, 1))", "((2**bits - 1) * np.clip(x, 0, 1))"),
    "the sign of 0 was taken as -1": ("weight_codes", "(w >= 0)", "(w > 0)"),
    "the mean of w was taken, not that of |w|": ("weight_codes", "np.abs(w).mean(", "w.mean("),
    "the window is missing": ("activation_grad", "grad * ((x >= 0) & (x <= 1))", "grad + 0 * x"),
    "missing bits were filled with ones": ("pack", "-octets.shape[-1] % 8)])", "-octets.shape[-1] % 8)], constant_values=255)"),
    "planes were not weighted with 2**(l + m)": ("count", " << (l + m)", ""),
    "AND was taken, not XOR": ("count", "None] ^ right", "None] & right"),
    "the sum of u was taken, not that of c": ("mixed", "c.sum(axis=1, dtype=np.int64)", "u.sum(axis=1, dtype=int)[:, None]"),
    "T was subtracted once, not twice": ("signed", "- 2 * count", "- count"),
    "the filter was turned around": ("forward", "flat(c).T", "flat(c[::-1, ::-1]).T"),
    "all samples share one scale": ("gradient_codes", "axis=(1, 2, 3), keepdims=True)", ") * np.ones((len(g), 1, 1, 1))"),
    "the noise is missing": ("gradient_codes", " + noise", ""),
    "the table for the border is missing": ("input_grad", "naive + n_v * (1 - inside) @ sums.T", "naive"),
    "the filter was not turned around": ("input_grad", "c[::-1, ::-1]", "c"),
    "the scales of the samples are missing": ("weight_grad", " * np.float32(scale)", ""),
    "all four places of a window got the gradient": ("max_pool_grad", "grad * (place == tap)", "grad"),
    "mean and variance were treated as constants": ("batch_norm_grad", "(grad - share)", "grad"),
    "the correction for the start at 0 is missing": (
        "adam", "rate / (1 - 0.9**step) * mean / (np.sqrt(square / (1 - 0.999**step)) + eps)",
        "rate * mean / (np.sqrt(square) + eps)"),
}


@pytest.fixture(scope="module")
def course():
    """check.py and pieces.py as modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(LEARN)
        for name in ("common", "network", "pieces", "check"):
            patch.delitem(sys.modules, name, raising=False)
        import check

        yield check
        for name in ("common", "network", "pieces", "check"):
            sys.modules.pop(name, None)


def said(course, mine, *names):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        right = course.check(*names, mine=mine)
    return right, printed.getvalue()


def module(source, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("planted", path)
    planted = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(planted)
    return planted


def test_the_solution_is_right(course):
    right, printed = said(course, course.load(SOLUTION), *course.PIECES)
    assert right, printed
    assert printed.count(": right\n") == len(course.PIECES)


def test_the_solution_is_short_and_numpy_alone():
    source = SOLUTION.read_text(encoding="utf-8")
    imported = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imported] == ["import numpy as np"]
    assert len(source.splitlines()) < 250


def test_the_skeleton_is_the_solution_without_its_lines(course):
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (LEARN / "mine.py", SOLUTION)]
    functions = [{node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)} for tree in trees]
    assert list(functions[0]) == list(functions[1])
    waiting = []
    for name, (mine, solution) in {name: (functions[0][name], functions[1][name]) for name in functions[0]}.items():
        assert ast.unparse(mine.args) == ast.unparse(solution.args) and ast.get_docstring(mine) == ast.get_docstring(solution)
        if ast.unparse(mine.body[-1]) == "raise NotImplementedError":
            waiting.append(name)
        else:
            assert ast.unparse(mine) == ast.unparse(solution)
    assert waiting == list(course.PIECES)
    right, printed = said(course, course.load(LEARN / "mine.py"), *course.PIECES)
    assert not right and printed.count("your turn") == len(waiting)


@pytest.mark.parametrize("words", PLANTED)
def test_a_mistake_is_named(course, tmp_path, words):
    piece, before, after = PLANTED[words]
    source = SOLUTION.read_text(encoding="utf-8")
    start = source.index(f"\ndef {piece}(")
    end = source.find("\n\n\n", start)
    assert source[start:end].count(before) == 1
    planted = module(source[:start] + source[start:end].replace(before, after) + source[end:], tmp_path)
    right, printed = said(course, planted, piece)
    assert not right and f"mine.{piece}: not yet." in printed and printed.endswith(f"It looks as if {words}.\n"), printed
    assert "expected" in printed and "got" in printed


@pytest.mark.parametrize("line, words", [
    ("return None", "expected numbers, got NoneType None"),
    ("return np.zeros(3)", "expected the shape (3, 4), got (3,)"),
    ("return 1 / 0", "ZeroDivisionError: division by zero"),
])
def test_other_wrong_answers_are_told(course, tmp_path, line, words):
    mine = module(f"import numpy as np\ndef mixed(u, u_bits, c, c_bits):\n    {line}\n", tmp_path)
    right, printed = said(course, mine, "mixed", "signed")
    assert not right and words in printed and "mine.signed: your turn" in printed


def test_it_trains_as_bitnet_does(course):
    """Same parameters, images and noise: in each step the same loss, and the loss falls."""
    from network import small
    from pieces import noise, parameters_of

    from bitnet import execution, functional, random
    from bitnet.datasets import load_generated

    mine, network, found = course.load(SOLUTION), small(width=8).train(), load_generated("train", 64)
    images, labels = np.float32(found.images) / 256, found.labels.astype(np.int64)
    p, state, losses = parameters_of(network), {}, []
    for step in range(12):
        for parameter, array in zip(network.named_parameters().values(), p.values(), strict=True):
            parameter.data[...] = array
        with execution.log() as log:
            theirs = functional.softmax_cross_entropy(network(images[:16]), labels[:16])
        assert log
        random.seed(step)
        loss, grads, _ = mine.gradients(p, images[:16], labels[:16], (1, 2, 4), noise)
        assert np.isclose(loss, float(theirs.data), rtol=1e-4)
        mine.adam(p, grads, state, 0.01)
        losses.append(loss)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("arguments, code, words", [
    (["nonsense"], 2, "check.py: expected pieces among activation_codes, "),
    (["--file", "no.py"], 2, "check.py: expected your file at no.py, found none"),
    (["--file", "broken.py"], 2, "check.py: expected broken.py to be importable, got SyntaxError: "),
    (["pack", "--hint"], 1, "mine.pack: your turn\n  hint: "),
])
def test_the_command(tmp_path, environment, arguments, code, words):
    (tmp_path / "broken.py").write_text("def pack(:\n")
    done = subprocess.run([sys.executable, LEARN / "check.py", *arguments], cwd=tmp_path, env=environment, capture_output=True,
                          text=True)
    assert done.returncode == code and words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == (code == 2)
