"""The three benchmarks from outside: their tables, their JSON, their pictures and their errors."""

import json
import subprocess
import sys

import pytest

from bitnet import execution

PATHS = {"conv": {"forward", "input_grad", "weight_grad", "layer"}, "train_step": {"train"}, "inference": {"inference"}}
IMPLS = {"popcount", "byte_dot", "float", "auto", "torch", "torch_bf16", "torch_fake_quant", "openvino", "openvino_int8",
         "openvino_binary", "frozen"}


def run(scripts, name, *options, timeout=600):
    return subprocess.run([sys.executable, str(scripts / f"{name}.py"), *options], capture_output=True, text=True,
                          timeout=timeout, check=False)


@pytest.fixture(scope="module", params=PATHS)
def quick(request, scripts, tmp_path_factory):
    """Name, standard output and folder of a quick run."""
    folder = tmp_path_factory.mktemp(request.param)
    result = run(scripts, request.param, "--quick", "--json", str(folder / "result.json"))
    assert result.returncode == 0, result.stderr
    return request.param, result.stdout, folder


def test_json_has_the_stable_keys(quick):
    name, _, folder = quick
    result = json.loads((folder / "result.json").read_text())
    assert result.keys() == {"machine", "peak", "rows"}
    assert {"processor", "threads", "cores"} <= result["machine"].keys()
    assert {"popcount_gmacs", "byte_gmacs", "float_gmacs", "clock_ghz"} <= result["peak"].keys()
    assert {row["path"] for row in result["rows"]} == PATHS[name]
    for row in result["rows"]:
        assert {"case", "path", "bits", "impl", "ms", "share_of_peak"} <= row.keys()
        assert ("gmacs" in row) == (name == "conv") and ("images_per_second" in row) == (name != "conv")
        assert row["impl"] in IMPLS and row["ms"] > 0 and len(row["bits"].split(",")) == 3


def test_rows_are_complete(quick):
    name, _, folder = quick
    rows = json.loads((folder / "result.json").read_text())["rows"]
    for case in {(row["case"], row["path"]) for row in rows}:
        impls = {(row["impl"], row["bits"] == "32,32,32") for row in rows if (row["case"], row["path"]) == case}
        assert impls >= {(family, False) for family in (*execution.FAMILIES, "auto")} | {("float", True)}
    if name == "train_step":
        assert any(row.get("peak_memory_mib", 0) > 1 for row in rows if row["impl"] == "auto")


def test_share_of_peak_counts_plane_products(quick):
    name, _, folder = quick
    result = json.loads((folder / "result.json").read_text())
    for row in result["rows"]:
        assert (row["share_of_peak"] is not None) == (row["impl"] == "popcount")
        if row["impl"] == "popcount" and name == "conv":
            planes = 1
            for bits in row["bits"].split(","):
                planes *= 1 if bits == "-" else int(bits)
            assert row["share_of_peak"] == pytest.approx(row["gmacs"] * planes / result["peak"]["popcount_gmacs"], abs=1e-3)


def test_table_and_picture(quick):
    _, output, folder = quick
    assert "limit of" in output and "GMAC/s" in output and "popcount" in output and "thread" in output.splitlines()[0]
    assert (folder / "result.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("options", [["--threads", "0"], ["--threads", "many"], ["--json", "no/such/folder/result.json"],
                                     ["--picture", "picture.txt"], ["--fast"]])
def test_a_bad_option_gets_one_sentence(scripts, name, options):
    result = run(scripts, name, *options)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith(f"{name}.py: ") and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("bits", ["1,2", "0,2,4", "1,2,9", "a,b,c"])
def test_bad_bits_get_one_sentence(scripts, bits):
    result = run(scripts, "train_step", "--bits", bits)
    assert result.returncode == 2 and bits in result.stderr and len(result.stderr.splitlines()) == 1


def test_help(scripts):
    result = run(scripts, "conv", "--help")
    assert result.returncode == 0 and "--quick" in result.stdout


class TestResultsOfSeveralMachines:
    def test_one_picture_of_both(self, quick, scripts, tmp_path):
        _, _, folder = quick
        result = json.loads((folder / "result.json").read_text())
        result["machine"]["processor"] = "another"
        result["rows"] = [row | {"ms": 2 * row["ms"]} for row in result["rows"] if row["impl"] != "byte_dot"]
        (tmp_path / "other.json").write_text(json.dumps(result))
        done = run(scripts, "pictures", str(folder / "result.json"), str(tmp_path / "other.json"), str(tmp_path / "both.png"))
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize("content", ["[]", "{", '{"rows": []}', '{"rows": [1]}', '{"rows": [{"case": 1}]}', "\x00", "null"])
    def test_other_files_get_one_sentence(self, scripts, tmp_path, content):
        (tmp_path / "other.json").write_text(content)
        result = run(scripts, "pictures", str(tmp_path / "other.json"), str(tmp_path / "picture.png"))
        assert result.returncode == 2 and "expected the JSON file of a benchmark" in result.stderr
        assert len(result.stderr.splitlines()) == 1

    def test_a_missing_file(self, scripts, tmp_path):
        result = run(scripts, "pictures", str(tmp_path / "none.json"), str(tmp_path / "picture.png"))
        assert result.returncode == 2 and "none.json: No such file" in result.stderr
