"""What the doctor says of machines that differ from a quick one in one respect."""

import pytest

from bitnet.report import doctor

LIMITS = {
    "popcount_gmacs": 1000.0, "byte_gmacs": 400.0, "float_gmacs": 100.0, "clock_ghz": 2.0, "popcount_macs_per_cycle": 341.0,
    "byte_macs_per_cycle": 128.0, "float_macs_per_cycle": 32.0, "popcount_share_of_clock": 0.99, "float_share_of_clock": 0.99,
    "bandwidth_gbs": 20.0}


def facts(**others):
    """A machine on which nothing is slow, but for what others say."""
    return {"processor": "a processor", "target": "x86_64-unknown-linux-gnu znver4", "host": "znver4",
            "features": {"avx512vpopcntdq", "avx512vnni", "avx512f", "avx2", "fma"}, "system": "Linux", "python": "3.11.0",
            "versions": {"numpy": "2.0"}, "blas": ["openblas 0.3 for Zen"], "processors": 2, "all": 2, "threads": 2,
            "quota": None, "one": LIMITS | {"popcount_gmacs": 500.0}, "peak": LIMITS, "kept": True} | others


def test_nothing_is_slow_on_a_quick_machine():
    assert doctor.findings(facts()) == []


@pytest.mark.parametrize(("others", "words"), [
    ({"host": "skylake"}, ["znver4, not for this processor, skylake"]),
    ({"features": {"avx512vnni", "fma"}, "one": LIMITS | {"popcount_gmacs": 500.0, "popcount_macs_per_cycle": 60.0}},
     ["popcount", "VPOPCNTDQ", "60 multiply-accumulates", "341"]),
    ({"features": {"avx512vpopcntdq", "fma"}}, ["byte_dot", "VNNI"]),
    ({"features": {"avx512vpopcntdq", "avx512vnni"}}, ["float", "multiply-add"]),
    ({"peak": LIMITS | {"popcount_share_of_clock": 0.5}}, ["50% of what the clock allows"]),
    ({"peak": LIMITS | {"popcount_gmacs": 600.0}}, ["2 do 1.2 times the popcounts of one"]),
    ({"quota": 1.5}, ["1.5 processors", "2 threads", "--threads 1 "]),
    ({"processors": 8}, ["2 of 8 processors", "OMP_NUM_THREADS"]),
    ({"kept": False}, ["cannot be kept", "NUMBA_CACHE_DIR"]),
])
def test_each_cause_is_one_sentence_with_its_numbers(others, words):
    (found,) = doctor.findings(facts(**others))
    assert all(word in found for word in words) and found.endswith(".") and "\n" not in found


def test_limits_by_bits():
    text = doctor.describe(facts())
    rows = {line[:line.index("  ")].strip(): line.split() for line in text.splitlines() if " x " in line[:16]}
    assert rows["1 x 1"][3:] == ["1,000", "400", "100", "popcount"]
    assert rows["2 x 4"][3:] == ["125", "400", "100", "byte_dot"]  # eight pairs of planes


def test_this_machine(tmp_path):
    found = doctor.examine()
    assert found["one"]["popcount_gmacs"] > 0 and found["peak"]["popcount_gmacs"] > 0
    assert {"numpy", "numba"} <= found["versions"].keys() and found["processor"] in doctor.describe(found)
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert doctor.quota(tmp_path / "cpu.max") == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert doctor.quota(tmp_path / "cpu.max") is None is doctor.quota(tmp_path / "none")
