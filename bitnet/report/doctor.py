"""What kind of machine this is for kernels on bits: instructions, limits, versions, and what is slow on it and why.

    facts = examine()      a few seconds: the limits are measured
    describe(facts)        for people
    findings(facts)        sentences about what is slower here than elsewhere; none where nothing is
"""

import importlib.metadata
import os
import platform

import llvmlite.binding
from threadpoolctl import threadpool_info

from bitnet.execution import FAMILIES, dispatch
from bitnet.kernels.machine import compile, peak, threads
from bitnet.text import columns

PACKAGES = ("bitnet-dorefa", "numpy", "numba", "llvmlite", "scipy", "h5py", "pillow", "onnx", "onnxruntime", "qonnx")
# instructions that kernels care about, as LLVM calls them
INSTRUCTIONS = {"avx512vpopcntdq": "popcount of 512 bits", "avx512vnni": "byte dot products of 512 bits",
                "avx512f": "32 registers of 512 bits", "avx2": "vectors of 256 bits", "fma": "multiply-add in one rounding",
                "neon": "vectors of 128 bits"}
PAIRS = ((1, 1), (1, 2), (1, 4), (2, 4), (4, 4), (8, 8))  # bits of two operands
LEAST_GAIN = 0.75  # of what so many threads could do


def examine():
    """Facts about the machine, its limits measured on one thread and on all of them.

    Returns
    -------
    facts : dict
        processor, target, system, python : str; host : str, what the target would be if nobody had said otherwise
        features : set of str; versions : {package: str}; blas : list of str
        processors : of this process; all : of the machine; threads : of kernels; quota : processors' worth of time, or None
        one, peak : limits of one thread and of all, see ``peak.measure``
        kept : are compiled kernels and measured times kept?
    """
    about, count = dispatch.machine(), threads.get_threads()
    threads.set_threads(1)
    try:
        one = peak.measure(quick=True)
    finally:
        threads.set_threads(count)
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "processor": about["processor"], "target": about["target"], "host": llvmlite.binding.get_host_cpu_name(),
        "features": {name[1:] for name in about["features"].split(",") if name.startswith("+")},
        "system": platform.platform(), "python": platform.python_version(), "versions": versions,
        "blas": sorted({f"{one['internal_api']} {one['version']} for {one.get('architecture', 'any processor')}"
                        for one in threadpool_info() if one["user_api"] == "blas"}),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "all": os.cpu_count(), "threads": count, "quota": quota(), "one": one,
        "peak": peak.measure(quick=True) if count > 1 else one, "kept": compile.store_works() and dispatch.table().kept,
    }


def quota(path="/sys/fs/cgroup/cpu.max"):
    """The processors' worth of time that a container has, of cgroup v2; None: no bound is known."""
    try:
        with open(path) as file:
            allowed, period = file.read().split()
        return int(allowed) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def products(facts):
    """What each family could do at most, in 10^9 multiply-accumulates a second: {(bits, bits): {family: rate}}."""
    limits = facts["peak"]
    return {pair: {"popcount": limits["popcount_gmacs"] / (pair[0] * pair[1]), "byte_dot": limits["byte_gmacs"],
                   "float": limits["float_gmacs"]} for pair in PAIRS}


def describe(facts):
    """Everything as text, without ``findings``."""
    has = [f"{name} ({what})" for name, what in INSTRUCTIONS.items() if name in facts["features"]]
    rows = [["processor", facts["processor"]],
            ["processors", f"{facts['processors']} of {facts['all']} for this process, {facts['threads']} threads"],
            ["system", f"{facts['system']}, Python {facts['python']}"],
            ["target", f"{facts['target']}: {', '.join(has) or 'none of the instructions that kernels care about'}"],
            ["kernels", f"{', '.join(FAMILIES)}; auto takes the quickest of each product"],
            ["BLAS", "; ".join(facts["blas"]) or "not known"],
            ["versions", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())]]
    rates = products(facts)
    table = [["limits for bits", *FAMILIES, "quickest"]]
    table += [[" x ".join(map(str, pair)), *(f"{rates[pair][name]:,.0f}" for name in FAMILIES),
               max(FAMILIES, key=rates[pair].get)] for pair in PAIRS]
    return "\n".join([columns(rows, left=(0, 1)), peak.describe(facts["peak"], facts["threads"]), "",
                      columns(table, left=(0, 4)), "10^9 multiply-accumulates a second that no kernel can exceed here"])


def findings(facts):
    """What is slow on this machine, each with its reason, as a list of sentences."""
    found, one, peak_, count = [], facts["one"], facts["peak"], facts["threads"]
    features = facts["features"]
    if facts["target"].split()[-1] != facts["host"]:
        found.append(f"Numba compiles for {facts['target'].split()[-1]}, not for this processor, {facts['host']}: "
                     "NUMBA_CPU_NAME or NUMBA_CPU_FEATURES says so.")
    if "avx512vpopcntdq" not in features:
        found.append(f"popcount: no instruction of the target counts the ones of a whole vector (AVX-512 VPOPCNTDQ), so "
                     f"several take its place: {one['popcount_macs_per_cycle']:.0f} multiply-accumulates of one bit a cycle, "
                     f"where {peak.popcount_limit(0):.0f} or twice as many could be.")
    if "avx512vnni" not in features:
        found.append(f"byte_dot: no instruction of the target multiplies four bytes and adds them up (AVX-512 VNNI), so bytes "
                     f"are multiplied one by one: {one['byte_macs_per_cycle']:.0f} a cycle, where 128 could be.")
    if not features & {"fma", "neon"}:
        found.append(f"float: the target has no multiply-add: {one['float_macs_per_cycle']:.0f} a cycle, where 16 or 32 could "
                     "be.")
    share = peak_["popcount_share_of_clock"]
    if share and share < 0.9:
        found.append(f"popcount reached {share:.0%} of what the clock allows: other programs took part of these processors.")
    if facts["quota"] and facts["quota"] < count:
        found.append(f"threads: this container has the time of {facts['quota']:g} processors, and kernels run on {count} "
                     f"threads, which then wait in turns: --threads {max(1, int(facts['quota']))} or OMP_NUM_THREADS takes "
                     "fewer.")
    gain = peak_["popcount_gmacs"] / one["popcount_gmacs"]
    if gain < LEAST_GAIN * count:
        found.append(f"threads: {count} do {gain:.1f} times the popcounts of one: they share cores, or other programs are at "
                     "work.")
    if count < facts["processors"]:
        found.append(f"threads: kernels run on {count} of {facts['processors']} processors: NUMBA_NUM_THREADS or "
                     "OMP_NUM_THREADS says so.")
    if not facts["kept"]:
        found.append("start: compiled kernels or their times cannot be kept, so every program begins with compiling and "
                     "measuring: NUMBA_CACHE_DIR and BITNET_CACHE name other folders.")
    return found
