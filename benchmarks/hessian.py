"""Time the Hessian of mace_functional beside mace-torch's, in one run.

    python benchmarks/hessian.py                                 published structures, on CPU
    python benchmarks/hessian.py --growth                        times over the number of atoms
    python benchmarks/hessian.py --structure FILE --model FILE   your own

Weights and structures are looked for in `../shared`, or in `$MACE_FUNCTIONAL_SHARED`. Every method
runs in a process of its own, so that its peak memory is its own.
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
WHOLE = 8
"""Cells up to which the whole Hessian is computed; beyond, its time is estimated."""
BLOCKS = (2, 12)
"""Atoms of the two partial Hessians that the estimate is made from."""
STEP = 1e-3
"""Displacement of the finite differences, Å."""
KEEP_MEMORY = {f"MALLOC_{name}_": str(2**32) for name in ("MMAP_THRESHOLD", "TRIM_THRESHOLD")}
KEEP_MEMORY |= {"MALLOC_TOP_PAD_": str(2**32), "MALLOC_MMAP_MAX_": "0"}
"""Let glibc keep what is freed. Old versions refuse so large a threshold but heed the last."""

FORCES, GET_HESSIAN = "mace-torch force call", "mace-torch get_hessian"
DIFFERENCES = "mace-torch 6N differences"
GRADIENT, HVP, PRODUCT, HESSIAN = "our gradient", "our HVP", "our further product", "our Hessian"
METHODS = (FORCES, GET_HESSIAN, DIFFERENCES, GRADIENT, HVP, PRODUCT, HESSIAN)
MOST = {GET_HESSIAN: 3, DIFFERENCES: 1, HESSIAN: 3}
"""Calls at most, of the long ones."""
RATIOS = ((FORCES, GRADIENT), (HVP, GRADIENT), (GET_HESSIAN, HESSIAN), (DIFFERENCES, HESSIAN))

NOTE = (
    "Times are medians after a first call, which is in brackets where it took half as long again. "
    "A force call of mace-torch, through its ASE calculator, includes the neighbour search and the "
    "stress; our times do not. A further product is `HessianOperator @ v`; its first call "
    "also linearises. Memory is the peak above what was in use after loading. Times marked est. "
    f"are extrapolated from the partial Hessians of {BLOCKS[0]} and {BLOCKS[1]} atoms."
)


@dataclass(frozen=True)
class Job:
    """What a process measures; `block` is the number of atoms of a partial Hessian."""

    structure: str
    model: str
    device: str
    dtype: str
    repeats: int
    method: str = ""
    supercell: Sequence[int] = (1, 1, 1)
    block: int | None = None

    def atoms(self) -> Any:
        """The structure."""
        import ase.io

        atoms: Any = ase.io.read(self.structure)
        return atoms.repeat(self.supercell)


@dataclass(frozen=True)
class Measurement:
    """Its result: a median and the first call in seconds, peak memory in bytes, directed edges."""

    seconds: float
    first: float | None
    memory: int
    atoms: int
    edges: int | None
    estimated: bool = False


Measurements = dict[str, Measurement | None]
Calls = dict[str, Callable[[], Any]]


def mace_torch(job: Job) -> tuple[Calls, int | None]:
    """The methods of mace-torch; who wants edges asks the other one."""
    from mace.calculators import MACECalculator

    from mace_functional.mace.subnormal import flush_subnormal

    torch.set_default_dtype(getattr(torch, job.dtype))  # mace-torch makes some tensors in it
    atoms = job.atoms()
    calculator = MACECalculator(model_paths=job.model, device=job.device, default_dtype=job.dtype)
    for module in calculator.models:  # as load_model does: the same weights on both sides
        flush_subnormal(module)
    atoms.calc = calculator
    start, random = atoms.positions.copy(), np.random.default_rng(0)

    def moved(displacement: Any) -> Any:
        atoms.positions = start + displacement
        return atoms.get_forces()

    def differences() -> Any:
        steps = STEP * np.eye(start.size).reshape(-1, *start.shape)
        return np.array([(moved(-step) - moved(step)) / (2 * STEP) for step in steps])

    return {
        # An ASE calculator returns old results if nothing has moved.
        FORCES: lambda: moved(random.normal(scale=1e-5, size=start.shape)),
        GET_HESSIAN: lambda: calculator.get_hessian(atoms),
        DIFFERENCES: differences,
    }, None


def mace_functional(job: Job) -> tuple[Calls, int | None]:
    """Our methods, and the number of edges."""
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
    """Resident memory of this process in bytes, and its peak."""
    now = psutil.Process().memory_info().rss
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return now, 1024 * next(int(x.split()[1]) for x in lines if x.startswith("VmHWM:"))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return now, peak if platform.system() == "Darwin" else 1024 * peak


def work(job: Job, output: Path) -> None:
    """Measure in this process; the last result, and then the measurement, go to files."""
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
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = torch.cuda.memory_allocated(job.device) if cuda else resident()[0]
    warm_up = FORCES if job.method == DIFFERENCES else job.method
    # TorchScript compiles in its first calls, not in the first alone.
    warm = [timed(calls[warm_up])[0] for _ in range(3 if warm_up == FORCES else 1)]
    first = warm[0] if warm_up == job.method else None
    times = []
    for _ in range(min(job.repeats, MOST.get(job.method, job.repeats))):
        elapsed, result = timed(calls[job.method])
        times.append(elapsed)
    peak = torch.cuda.max_memory_allocated(job.device) if cuda else resident()[1]
    result = result.cpu().numpy() if isinstance(result, torch.Tensor) else result
    np.save(output.with_suffix(".npy"), result)
    found = Measurement(median(times), first, max(0, peak - before), len(job.atoms()), edges)
    output.write_text(json.dumps(asdict(found)))


class Runner:
    """Starts a process for each measurement and says which one is running."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, os.environ | environment
        self.console = Console(stderr=True, highlight=False)

    def measure(self, title: str, job: Job) -> Measurement | None:
        """A measurement; None if its process failed, for want of memory perhaps."""
        self.console.print(f"{title}: {job.method} ...", end=" ")
        output = self.folder / f"{job.method}.json"
        for old in (output, output.with_suffix(".npy")):
            old.unlink(missing_ok=True)
        command = [sys.executable, __file__, "--worker", json.dumps(asdict(job)), str(output)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode or not output.exists():
            last = done.stderr.strip().splitlines()[-1:]
            self.console.print("failed with code", done.returncode, *last, markup=False)
            return None
        found = Measurement(**json.loads(output.read_text()))
        self.console.print(f"{digits(found.seconds)} s")
        return found

    def estimate(self, title: str, job: Job) -> Measurement | None:
        """A Hessian's time from two partial ones: a constant, and so much for every column."""
        few, many = (self.measure(f"{title}, {k} atoms", replace(job, block=k)) for k in BLOCKS)
        if few is None or many is None:
            return None
        per_atom = (many.seconds - few.seconds) / (BLOCKS[1] - BLOCKS[0])
        total = few.seconds + per_atom * (few.atoms - BLOCKS[0])
        return replace(many, seconds=total, first=None, estimated=True)

    def difference(self, method: str) -> float | None:
        """Largest difference of our last Hessian to that of a method, eV/Å²."""
        files = [self.folder / f"{name}.npy" for name in (HESSIAN, method)]
        if not all(file.exists() for file in files):
            return None
        ours, other = (np.load(file).reshape(-1) for file in files)
        return float(abs(ours - other).max())


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in markdown."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = ["| " + " | ".join(row) + " |" for row in (header, rule, *rows)]
    return f"**{title}**\n\n" + "\n".join(lines)


def digits(value: float | None) -> str:
    """Three of them."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def seconds(m: Measurement | None) -> str:
    """The time, the first call where it took much longer, and whether it is an estimate."""
    if m is None:
        return "failed"
    first = f" ({digits(m.first)})" if m.first is not None and m.first > 1.5 * m.seconds else ""
    return f"{digits(m.seconds)}{first}{' est.' if m.estimated else ''}"


def ratio(found: Measurements, above: str, below: str) -> float | None:
    """How many times as long one method takes as another."""
    a, b = found[above], found[below]
    return a.seconds / b.seconds if a and b else None


def plain(found: Measurements) -> dict[str, Any]:
    """Measurements for JSON."""
    return {name: m and asdict(m) for name, m in found.items()}


def compare(runner: Runner, jobs: dict[str, Job]) -> tuple[dict[str, Any], list[str]]:
    """All methods on all cases."""
    cases: dict[str, Measurements] = {}
    differences: dict[str, dict[str, float | None]] = {}
    for name, job in jobs.items():
        cases[name] = {m: runner.measure(name, replace(job, method=m)) for m in METHODS}
        differences[name] = {m: runner.difference(m) for m in (GET_HESSIAN, DIFFERENCES)}

    def size(found: Measurements) -> str:
        return next((f"{m.atoms}, {m.edges}" for m in found.values() if m and m.edges), "-")

    def memory(m: Measurement | None) -> str:
        return digits(m.memory / 2**20) if m else "failed"

    def difference(case: str, method: str) -> str:
        value = differences[case][method]
        return "-" if value is None else f"{value:.1e}"

    columns = list(cases.values())
    sizes = ["atoms, directed edges", *map(size, columns)]
    times = [[m, *(seconds(found[m]) for found in columns)] for m in METHODS]
    peaks = [[m, *(memory(found[m]) for found in columns)] for m in METHODS]
    ratios = [[f"{a} / {b}", *(digits(ratio(found, a, b)) for found in columns)] for a, b in RATIOS]
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
    """Times over the number of atoms, with exponents of N and median ratios."""
    columns = (FORCES, GRADIENT, HVP, HESSIAN)
    pairs = ((FORCES, GRADIENT), (HVP, GRADIENT), (HESSIAN, GRADIENT))
    sizes: dict[str, Measurements] = {}
    rows = []
    for supercell in GROWTH:
        cell = "x".join(map(str, supercell))
        jobs = {m: replace(job, supercell=supercell, method=m) for m in columns}
        found = sizes[cell] = {m: runner.measure(cell, jobs[m]) for m in columns[:-1]}
        hessian = runner.measure if np.prod(supercell) <= WHOLE else runner.estimate
        found[HESSIAN] = hessian(cell, jobs[HESSIAN])
        atoms = next((str(m.atoms) for m in found.values() if m), "-")
        ratios = (digits(ratio(found, *pair)) for pair in pairs)
        rows.append([cell, atoms, *(seconds(found[m]) for m in columns), *ratios])
    exponents = (digits(exponent([found[m] for found in sizes.values()])) for m in columns)
    medians = (middle([ratio(found, *pair) for found in sizes.values()]) for pair in pairs)
    rows.append(["power of N", "", *exponents, *[""] * len(pairs)])
    rows.append(["median", "", *[""] * len(columns), *map(digits, medians)])
    ratios_of = ("force call / gradient", "HVP / gradient", "Hessian / gradient")
    header = ["cells", "atoms", *columns, *ratios_of]
    data = {cell: plain(found) for cell, found in sizes.items()}
    return data, [table("Seconds over the number of atoms", header, rows)]


def middle(values: Sequence[float | None]) -> float | None:
    """Median of those that there are."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def exponent(measurements: Sequence[Measurement | None]) -> float | None:
    """Least-squares slope of log time over log N."""
    points = [(np.log(m.atoms), np.log(m.seconds)) for m in measurements if m]
    if len(points) < 2:
        return None
    log_atoms, log_seconds = np.transpose(points)
    return float(np.polyfit(log_atoms, log_seconds, 1)[0])


def machine(options: argparse.Namespace) -> str:
    """Where and with what it was measured."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    if options.device.startswith("cuda"):
        name = f"{torch.cuda.get_device_name(options.device)}, {name}"
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "mace-torch", "mace_functional"))
    memory = "freed memory kept by glibc" if options.keep_memory else "plain environment"
    return (
        f"{name}, {psutil.cpu_count()} cores, {torch.get_num_threads()} threads; {options.device}, "
        f"{options.dtype}; {memory}; Python {platform.python_version()}, {packages}"
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Time the Hessian of mace_functional beside mace-torch's."
    )
    add = parser.add_argument
    add("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    add("--structure", type=Path, help="a structure of your own, with --model")
    add("--model", type=Path, help="its mace-torch checkpoint")
    add("--growth", action="store_true", help="supercells of RSM0011, or of --structure, instead")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ... (%(default)s)")
    add("--dtype", choices=("float64", "float32"), default="float64")
    add("--repeats", type=int, default=7, help="calls, at most 3 of Hessians (%(default)s)")
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
    """What was asked for."""
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
