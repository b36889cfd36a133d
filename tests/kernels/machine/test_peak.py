"""The limits of this machine: numbers that machines have, each loop's rate that of whole instructions."""

from bitnet.kernels.machine import peak, threads


def test_limits_are_of_this_machine(thread_count):
    thread_count(2)
    found = peak.measure(quick=True)
    assert all(value > 0 for value in found.values() if value is not None)
    assert found["popcount_gmacs"] > found["float_gmacs"] / 2
    # a loop that the compiler did away with would take no time; the bounds leave room for other programs on the machine
    assert found["byte_macs_per_cycle"] < 1000 and found["float_macs_per_cycle"] < 200 and found["clock_ghz"] < 10
    text = peak.describe(found, threads.get_threads())
    assert text.startswith("limit of 2 threads") and f"byte dot product {found['byte_gmacs']:.0f} GMAC/s" in text


def test_a_core_with_four_vector_ports_is_not_taken_for_a_disturbance():
    assert round(peak.popcount_limit(338)) == 341 and round(peak.popcount_limit(347)) == 341
    assert round(peak.popcount_limit(640)) == 683 and round(peak.popcount_limit(2000)) == 683
