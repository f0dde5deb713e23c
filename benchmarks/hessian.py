"""Compare the times of Hessians by mace_functional and by mace-torch.

    python benchmarks/hessian.py                                 published structures, on CPU
    python benchmarks/hessian.py --growth                        times over the number of atoms
    python benchmarks/hessian.py --structure FILE --model FILE   your own

Weights and structures are read from `../shared`, or from `$MACE_FUNCTIONAL_SHARED`. Every method
runs in its own process, so that peak memory is measured for each method.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.markdown import Markdown

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MACE_FUNCTIONAL_SHARED", ROOT.parent / "shared"))
CASES = {
    "RSM0004-small": ("RSM0004.cif", "MACE-MP-0_small.model"),
    "RSM0011-small": ("RSM0011.cif", "MACE-MP-0_small.model"),
    "RSM0011-DAC-1": ("RSM0011.cif", "MACE-DAC-1.model"),
}
GROWTH = [(1, 1, 1), (1, 1, 2), (1, 2, 2), (2, 2, 2), (2, 2, 3), (2, 3, 3), (3, 3, 3)]
LARGEST_COMPLETE = 8
"""Largest number of cells for which the whole Hessian is computed; above, its time is estimated."""
BLOCKS = (2, 12)
"""Numbers of atoms of the two partial Hessians for the estimate."""
STEP = 1e-3
"""Displacement of the finite differences, Å."""
KEEP_MEMORY = {f"MALLOC_{name}_": str(2**32) for name in ("MMAP_THRESHOLD", "TRIM_THRESHOLD")}
KEEP_MEMORY |= {"MALLOC_TOP_PAD_": str(2**32), "MALLOC_MMAP_MAX_": "0"}
"""Environment in which glibc keeps freed memory.

Old versions reject the large thresholds; they use the last variable.
"""

FORCES, GET_HESSIAN = "mace-torch force call", "mace-torch get_hessian"
DIFFERENCES = "mace-torch 6N differences"
GRADIENT, HVP, PRODUCT, HESSIAN = "our gradient", "our HVP", "our further product", "our Hessian"
METHODS = (FORCES, GET_HESSIAN, DIFFERENCES, GRADIENT, HVP, PRODUCT, HESSIAN)
MAX_CALLS = {GET_HESSIAN: 3, DIFFERENCES: 1, HESSIAN: 3}
"""Largest number of calls of the slow methods."""
RATIOS = ((FORCES, GRADIENT), (HVP, GRADIENT), (GET_HESSIAN, HESSIAN), (DIFFERENCES, HESSIAN))

NOTE = (
    "Times are medians after a first call. The first call is in brackets if it took more than 1.5 "
    "times as long. A force call of mace-torch, through its ASE calculator, includes the neighbour "
    "search and the stress; our times do not. A further product is `HessianOperator @ v`; its "
    "first call also linearises. Memory is the peak minus the memory in use after loading. Times "
    f"marked est. are extrapolated from partial Hessians of {BLOCKS[0]} and {BLOCKS[1]} atoms."
)


@dataclass(frozen=True)
class Job:
    """Task of one process; `block` is the number of atoms of a partial Hessian."""

    structure: str
    model: str
    device: str
    dtype: str
    repeats: int
    method: str = ""
    supercell: Sequence[int] = (1, 1, 1)
    block: int | None = None

    def atoms(self) -> Any:
        """Read the structure, and build the supercell."""
        import ase.io

        atoms: Any = ase.io.read(self.structure)
        return atoms.repeat(self.supercell)


@dataclass(frozen=True)
class Measurement:
    """Result of a job: median and first call in s, peak memory in bytes, atoms, directed edges."""

    seconds: float
    first: float | None
    memory: int
    atoms: int
    edges: int | None
    estimated: bool = False


Measurements = dict[str, Measurement | None]
Calls = dict[str, Callable[[], Any]]


def mace_torch(job: Job) -> tuple[Calls, int | None]:
    """Return the methods of mace-torch; the number of edges is left out."""
    from mace.calculators import MACECalculator

    from mace_functional.mace.subnormal import flush_subnormal

    torch.set_default_dtype(getattr(torch, job.dtype))  # mace-torch makes some tensors in it
    atoms = job.atoms()
    calculator = MACECalculator(model_paths=job.model, device=job.device, default_dtype=job.dtype)
    for module in calculator.models:  # as in load_model, so that both use the same weights
        flush_subnormal(module)
    atoms.calc = calculator
    start, random = atoms.positions.copy(), np.random.default_rng(0)

    def forces(displacement: Any) -> Any:
        atoms.positions = start + displacement
        return atoms.get_forces()

    def differences() -> Any:
        steps = STEP * np.eye(start.size).reshape(-1, *start.shape)
        return np.array([(forces(-step) - forces(step)) / (2 * STEP) for step in steps])

    return {
        # Without a displacement, the ASE calculator would return its cached result.
        FORCES: lambda: forces(random.normal(scale=1e-5, size=start.shape)),
        GET_HESSIAN: lambda: calculator.get_hessian(atoms),
        DIFFERENCES: differences,
    }, None


def mace_functional(job: Job) -> tuple[Calls, int | None]:
    """Return the methods of mace_functional, and the number of edges."""
    import mace_functional as mf

    model = mf.load_model(job.model, dtype=getattr(torch, job.dtype), device=job.device)
    structure = mf.from_ase(job.atoms(), model)
    energy = mf.energy_fn(model, structure.graph)
    args = (structure.positions, structure.cell, model.params)
    vector = torch.randn_like(structure.positions)
    operator = cache(lambda: mf.HessianOperator(energy, *args))
    block = None if job.block is None else range(job.block)
    return {
        GRADIENT: lambda: mf.forces(energy)(*args),
        HVP: lambda: mf.hvp(energy)(*args, vector),
        PRODUCT: lambda: operator() @ vector,
        HESSIAN: lambda: mf.hessian(energy, indices=block)(*args),
    }, int(structure.graph.edge_mask.sum())


def resident() -> tuple[int, int]:
    """Return the resident memory of this process in bytes, and its peak."""
    current = psutil.Process().memory_info().rss
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return current, 1024 * next(int(x.split()[1]) for x in lines if x.startswith("VmHWM:"))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return current, peak if platform.system() == "Darwin" else 1024 * peak


def work(job: Job, output: Path) -> None:
    """Measure in this process, and write the last result and the measurement to files."""
    cuda = job.device.startswith("cuda")
    calls, edges = (mace_torch if job.method.startswith("mace-torch") else mace_functional)(job)

    def timed(call: Callable[[], Any]) -> tuple[float, Any]:
        started = time.perf_counter()
        result = call()
        if cuda:
            torch.cuda.synchronize(job.device)
        return time.perf_counter() - started, result

    gc.collect()
    if cuda:
        torch.cuda.synchronize(job.device)
        torch.cuda.reset_peak_memory_stats(job.device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = torch.cuda.memory_allocated(job.device) if cuda else resident()[0]
    warm_up = FORCES if job.method == DIFFERENCES else job.method
    # TorchScript compiles in several of its first calls.
    warm_up_times = [timed(calls[warm_up])[0] for _ in range(3 if warm_up == FORCES else 1)]
    first = warm_up_times[0] if warm_up == job.method else None
    times = []
    for _ in range(min(job.repeats, MAX_CALLS.get(job.method, job.repeats))):
        elapsed, result = timed(calls[job.method])
        times.append(elapsed)
    peak = torch.cuda.max_memory_allocated(job.device) if cuda else resident()[1]
    result = result.cpu().numpy() if isinstance(result, torch.Tensor) else result
    np.save(output.with_suffix(".npy"), result)
    result = Measurement(median(times), first, max(0, peak - before), len(job.atoms()), edges)
    output.write_text(json.dumps(asdict(result)))


class Runner:
    """Starter of a process for each measurement, with progress on standard error."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, os.environ | environment
        self.console = Console(stderr=True, highlight=False)

    def measure(self, title: str, job: Job) -> Measurement | None:
        """Run a job; return None if its process failed, for example for lack of memory."""
        self.console.print(f"{title}: {job.method} ...", end=" ")
        output = self.folder / f"{job.method}.json"
        for old in (output, output.with_suffix(".npy")):
            old.unlink(missing_ok=True)
        command = [sys.executable, __file__, "--worker", json.dumps(asdict(job)), str(output)]
        process = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if process.returncode or not output.exists():
            last = process.stderr.strip().splitlines()[-1:]
            self.console.print("failed with code", process.returncode, *last, markup=False)
            return None
        result = Measurement(**json.loads(output.read_text()))
        self.console.print(f"{digits(result.seconds)} s")
        return result

    def estimate(self, title: str, job: Job) -> Measurement | None:
        """Extrapolate the time of a Hessian linearly from two partial ones."""
        small, large = (self.measure(f"{title}, {k} atoms", replace(job, block=k)) for k in BLOCKS)
        if small is None or large is None:
            return None
        per_atom = (large.seconds - small.seconds) / (BLOCKS[1] - BLOCKS[0])
        total = small.seconds + per_atom * (small.atoms - BLOCKS[0])
        return replace(large, seconds=total, first=None, estimated=True)

    def difference(self, method: str) -> float | None:
        """Return the largest difference between our last Hessian and that of a method, eV/Å²."""
        files = [self.folder / f"{name}.npy" for name in (HESSIAN, method)]
        if not all(file.exists() for file in files):
            return None
        ours, other = (np.load(file).reshape(-1) for file in files)
        return float(abs(ours - other).max())


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = ["| " + " | ".join(row) + " |" for row in (header, rule, *rows)]
    return f"**{title}**\n\n" + "\n".join(lines)


def digits(value: float | None) -> str:
    """Format a number with three significant digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def seconds(m: Measurement | None) -> str:
    """Format a time, with that of the first call if it is much longer, and a mark of estimates."""
    if m is None:
        return "failed"
    first = f" ({digits(m.first)})" if m.first is not None and m.first > 1.5 * m.seconds else ""
    return f"{digits(m.seconds)}{first}{' est.' if m.estimated else ''}"


def ratio(results: Measurements, above: str, below: str) -> float | None:
    """Return the ratio of the times of two methods."""
    a, b = results[above], results[below]
    return a.seconds / b.seconds if a and b else None


def plain(results: Measurements) -> dict[str, Any]:
    """Return measurements as dictionaries for JSON."""
    return {name: m and asdict(m) for name, m in results.items()}


def compare(runner: Runner, jobs: dict[str, Job]) -> tuple[dict[str, Any], list[str]]:
    """Measure all methods on all cases; return the data and the tables."""
    cases: dict[str, Measurements] = {}
    differences: dict[str, dict[str, float | None]] = {}
    for name, job in jobs.items():
        cases[name] = {m: runner.measure(name, replace(job, method=m)) for m in METHODS}
        differences[name] = {m: runner.difference(m) for m in (GET_HESSIAN, DIFFERENCES)}

    def size(results: Measurements) -> str:
        return next((f"{m.atoms}, {m.edges}" for m in results.values() if m and m.edges), "-")

    def memory(m: Measurement | None) -> str:
        return digits(m.memory / 2**20) if m else "failed"

    def difference(case: str, method: str) -> str:
        value = differences[case][method]
        return "-" if value is None else f"{value:.1e}"

    columns = list(cases.values())
    sizes = ["atoms, directed edges", *map(size, columns)]
    times = [[m, *(seconds(results[m]) for results in columns)] for m in METHODS]
    peaks = [[m, *(memory(results[m]) for results in columns)] for m in METHODS]
    ratios = [[f"{a} / {b}", *(digits(ratio(c, a, b)) for c in columns)] for a, b in RATIOS]
    largest = [
        [f"{HESSIAN} to {m}, eV/Å²", *(difference(c, m) for c in cases)]
        for m in (GET_HESSIAN, DIFFERENCES)
    ]
    data = {c: {"methods": plain(cases[c]), "differences": differences[c]} for c in cases}
    return data, [
        table("Seconds", ["", *cases], [sizes, *times]),
        table("Ratios, and largest differences", ["", *cases], ratios + largest),
        table("Peak memory, MiB", ["", *cases], peaks),
    ]


def grow(runner: Runner, job: Job) -> tuple[dict[str, Any], list[str]]:
    """Measure times over the number of atoms N, with fitted powers of N and median ratios."""
    columns = (FORCES, GRADIENT, HVP, HESSIAN)
    pairs = ((FORCES, GRADIENT), (HVP, GRADIENT), (HESSIAN, GRADIENT))
    sizes: dict[str, Measurements] = {}
    rows = []
    for supercell in GROWTH:
        cell = "x".join(map(str, supercell))
        jobs = {m: replace(job, supercell=supercell, method=m) for m in columns}
        results = sizes[cell] = {m: runner.measure(cell, jobs[m]) for m in columns[:-1]}
        hessian = runner.measure if np.prod(supercell) <= LARGEST_COMPLETE else runner.estimate
        results[HESSIAN] = hessian(cell, jobs[HESSIAN])
        atoms = next((str(m.atoms) for m in results.values() if m), "-")
        ratios = (digits(ratio(results, *pair)) for pair in pairs)
        rows.append([cell, atoms, *(seconds(results[m]) for m in columns), *ratios])
    exponents = (digits(exponent([results[m] for results in sizes.values()])) for m in columns)
    medians = (
        known_median([ratio(results, *pair) for results in sizes.values()]) for pair in pairs
    )
    rows.append(["power of N", "", *exponents, *[""] * len(pairs)])
    rows.append(["median", "", *[""] * len(columns), *map(digits, medians)])
    ratio_names = ("force call / gradient", "HVP / gradient", "Hessian / gradient")
    header = ["cells", "atoms", *columns, *ratio_names]
    data = {cell: plain(results) for cell, results in sizes.items()}
    return data, [table("Seconds over the number of atoms", header, rows)]


def known_median(values: Sequence[float | None]) -> float | None:
    """Return the median of the values that are not None."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def exponent(measurements: Sequence[Measurement | None]) -> float | None:
    """Return the least-squares slope of log time over log N."""
    points = [(np.log(m.atoms), np.log(m.seconds)) for m in measurements if m]
    if len(points) < 2:
        return None
    log_atoms, log_seconds = np.transpose(points)
    return float(np.polyfit(log_atoms, log_seconds, 1)[0])


def machine(options: argparse.Namespace) -> str:
    """Describe hardware, options and versions of the measurement."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    if options.device.startswith("cuda"):
        name = f"{torch.cuda.get_device_name(options.device)}, {name}"
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "mace-torch", "mace_functional"))
    memory = "freed memory kept by glibc" if options.keep_memory else "default environment"
    return (
        f"{name}, {psutil.cpu_count()} cores, {torch.get_num_threads()} threads; {options.device}, "
        f"{options.dtype}; {memory}; Python {platform.python_version()}, {packages}"
    )


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Compare the times of Hessians by mace_functional and by mace-torch."
    )
    add = parser.add_argument
    add("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    add("--structure", type=Path, help="a structure of your own, with --model")
    add("--model", type=Path, help="its mace-torch checkpoint")
    add("--growth", action="store_true", help="time supercells of RSM0011, or of --structure")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ... (%(default)s)")
    add("--dtype", choices=("float64", "float32"), default="float64")
    add("--repeats", type=int, default=7, help="calls of a method, 3 of Hessians (%(default)s)")
    add("--keep-memory", action="store_true", help="let glibc keep freed memory, for all methods")
    add("--json", type=Path, metavar="OUT", help="write all measurements here")
    add("--markdown", type=Path, metavar="OUT", help="write the tables here")
    add("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if (options.structure is None) != (options.model is None):
        parser.error("--structure and --model go together")
    if options.repeats < 1:
        parser.error("--repeats must be positive")
    for path in (options.json, options.markdown):
        if path is not None and not path.resolve().parent.is_dir():
            parser.error(f"there is no folder for {path}")
    return options


def jobs_of(options: argparse.Namespace) -> dict[str, Job]:
    """Return the jobs that the options select, by name."""
    if options.structure is not None:
        files = {options.structure.stem: (options.structure, options.model)}
    else:
        names = ["RSM0011-small"] if options.growth else options.cases
        structures, weights = SHARED / "heatcapacity" / "structures", SHARED / "weights"
        files = {n: (structures / CASES[n][0], weights / CASES[n][1]) for n in names}
    missing = [str(path) for pair in files.values() for path in pair if not path.is_file()]
    if missing:
        sys.exit(f"missing {', '.join(missing)}: set MACE_FUNCTIONAL_SHARED, or use --structure")
    common = (options.device, options.dtype, options.repeats)
    return {name: Job(str(file), str(model), *common) for name, (file, model) in files.items()}


def main() -> None:
    """Measure and report."""
    options = parse()
    if options.worker:
        work(Job(**json.loads(options.worker[0])), Path(options.worker[1]))
        return
    jobs, heading = jobs_of(options), machine(options)
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Path(folder), KEEP_MEMORY if options.keep_memory else {})
        data, tables = grow(runner, *jobs.values()) if options.growth else compare(runner, jobs)
    report = "\n\n".join([heading, *tables, NOTE]) + "\n"
    Console().print(Markdown(report))
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": heading, **data}, indent=1) + "\n")
    if options.markdown is not None:
        options.markdown.write_text(report)


if __name__ == "__main__":
    main()
