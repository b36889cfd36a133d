"""The repository as a whole: who imports whom, what is installed, and what must not be in it."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"bitnet": ROOT / "bitnet", "bitnet.kernels": ROOT / "kernels", "bitnet.datasets": ROOT / "datasets"}
# what may be imported from the left: each of these needs only those before it
HOUSE = ("kernels.machine", "kernels.rounding", "kernels.products", "kernels.pointwise", "kernels", "datasets", "settings",
         "text", "bits", "checks", "codes", "description", "random", "tensor", "execution", "constraints", "functional",
         "module", "quantizers", "layers", "networks", "optimizers", "methods", "models", "storage", "report", "deploy",
         "exchange", "pretrained", "files", "training", "__main__")
OURS = ("bitnet", "kernels", "datasets", "examples", "benchmarks", "tests")
ENGINE = HOUSE[HOUSE.index("codes"):HOUSE.index("storage")]


def modules():
    """{"bitnet.kernels.packing": path, ...} of all packages; a package is the module of its __init__."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


MODULES = modules()


@cache
def imports(module):
    """The modules of this project that a module imports, anywhere in its file."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:  # from . is from the package: the module itself, or the one above it
                above = module.split(".")[:None if MODULES[module].name == "__init__.py" else -1]
                start = ".".join(above[:len(above) - node.level + 1] + [start] * bool(start))
            for alias in node.names:
                found.add(f"{start}.{alias.name}" if f"{start}.{alias.name}" in MODULES else start)
    return {name for name in found if name.split(".")[0] in OURS} - {module}


def test_the_walk_finds_imports():
    # what the other tests rely on
    assert {"bitnet.kernels.products.packing", "bitnet.kernels.machine.threads"} <= imports("bitnet.kernels.products.popcount")
    assert {"bitnet.execution", "bitnet.codes", "bitnet.tensor"} <= imports("bitnet.functional.conv")
    assert "bitnet.kernels.machine.vectors" in needs("bitnet.functional.conv")
    assert {"bitnet.datasets.svhn", "bitnet.datasets.cache"} <= needs("bitnet.datasets")


@pytest.mark.parametrize("package, also", [("bitnet.kernels", set()), ("bitnet.datasets", {"bitnet.kernels.machine.compile"})])
def test_kernels_and_datasets_know_nothing_but_themselves(package, also):
    for module in MODULES:
        if module.startswith(package):
            strangers = {name for name in imports(module) if not name.startswith(package)} - also
            assert not strangers, f"{module} imports {strangers}"


def test_all_imports_are_of_modules_that_exist():
    for module in MODULES:
        unknown = imports(module) - MODULES.keys()
        assert not unknown, f"{module} imports {unknown}"


def test_nothing_imports_the_whole_package():
    # bitnet/__init__ imports everything: a module that imports it would be in a circle
    for module in MODULES:
        assert "bitnet" not in imports(module), f"{module} imports bitnet itself"


@cache
def needs(module):
    """Everything that a module imports, and what that imports, and so on."""
    found, left = set(), [module]
    while left:
        new = imports(left.pop()) - found
        found |= new
        left += new
    return found


def floor(module):
    """Where in the house a module lives: the place of its part in HOUSE."""
    parts = module.split(".")[1:]
    name = ".".join(parts[:2]) if parts[:1] == ["kernels"] else parts[0]
    return HOUSE.index(name)


def test_imports_have_one_direction():
    for module in MODULES.keys() - {"bitnet"}:
        above = {name for name in imports(module) if floor(name) > floor(module)}
        assert not above, f"{module} imports {above}, which are built on it"


def test_nobody_is_asked_for_a_name_outside_its_own_file():
    asked = re.compile(r"method ==|name ==|type\(.*\) is")
    for path in sorted((ROOT / "bitnet").rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not asked.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def test_what_is_trained_is_computed_in_one_order_of_operations():
    # the last bits of these depend on the processor; kernels.pointwise.elementary has some that do not
    varying = re.compile(r"\bnp\.(exp|exp2|expm1|log|log2|log10|log1p|tanh|sinh|cosh|power|matmul|dot|inner|tensordot)\(")
    for path in sorted((ROOT / "bitnet").rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found = varying.search(line)
            known = not found or "# exact" in line or "report" in path.parts
            assert known, f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def test_there_are_no_circles():
    for module in MODULES:
        for name in imports(module):
            # a package and its own parts are one
            if not module.startswith(f"{name}.") and not name.startswith(f"{module}."):
                assert module not in needs(name), f"{module} and {name} need each other"


def test_the_engine_knows_nothing_of_files_and_data():
    for part in ENGINE:
        strangers = {name for name in needs(f"bitnet.{part}")
                     if name.startswith(("bitnet.datasets", "bitnet.training", "bitnet.storage", "bitnet.report"))}
        assert not strangers, f"bitnet.{part} needs {strangers}"


def listed():
    """All files of the repository, those not yet added to it included."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                           capture_output=True, text=True).stdout.split("\0")
    return [Path(name) for name in names if name and (ROOT / name).is_file()]


def test_no_path_of_somebodys_machine():
    machine = re.compile(rb"(?<![\w.])/(work|root|home/\w+|Users/\w+)/")
    for path in listed():
        found = machine.search((ROOT / path).read_bytes()) if path.suffix not in (".png", ".jpg") else None
        assert found is None, f"{path} names {found.group().decode()}"


def sources():
    return [path for path in listed() if path.suffix == ".py"]


def test_nothing_is_unpickled():
    # a checkpoint or a data file from somewhere else must not be able to run code
    for path in sources():
        if path in (Path("kernels", "machine", "compile.py"), Path("kernels", "machine", "ahead.py")):
            continue  # compiled kernels: code in a folder that only their owner may write to; and notes from parent to child
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").split(".")[0]]
            assert not {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"} & set(names), path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the sources: building leaves files behind, and must not pick up old ones."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in listed():
        (folder / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, folder / "source" / path)
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder,
                           folder / "source"], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_bitnet_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    # kernels and datasets at the top would overwrite the files of other libraries
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"bitnet"} and len(tops) == 2
    expected = {module.replace(".", "/") + ("/__init__.py" if path.name == "__init__.py" else ".py")
                for module, path in MODULES.items()}
    assert {name for name in names if name.endswith(".py")} == expected


def test_the_wheel_installs_the_command_line(wheel):
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith("entry_points.txt"))
        assert "bitnet = bitnet.__main__:main" in file.read(name).decode()


def test_the_wheel_works_outside_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = ("import importlib, sys\n"
            "for name in sys.argv[2:]:\n"
            "    try:\n"
            "        module = importlib.import_module(name)\n"
            "    except ModuleNotFoundError as error:\n"
            "        assert error.name == 'onnx', error  # of an extra\n"
            "        continue\n"
            "    assert module.__file__.startswith(sys.argv[1]), (name, module.__file__)\n"
            "import bitnet\n"
            "assert bitnet.models.svhn('D').fc.weight.shape == (64, 10)\n"
            "assert len(bitnet.load('svhn').classes) == 10\n")
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code, str(site), *sorted(MODULES)], cwd=tmp_path, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
