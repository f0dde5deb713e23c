"""Compare the times of force calls by mace_functional's and mace-torch's ASE calculators.

    python benchmarks/forces.py                              molecules and crystals, on CPU
    python benchmarks/forces.py --compiled                   with compiled gradients too: minutes
    python benchmarks/forces.py --cases quartz-small --dtype float32

A call computes energy, forces and stress of atoms that have moved a little, as in molecular
dynamics; now and then the neighbour list is rebuilt. Weights and structures are read from
`../shared`, or from `$MACE_FUNCTIONAL_SHARED`. Every method runs in its own process, so that peak
memory is measured for each method.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from hessian import SHARED, digits, machine, resident, table
from rich.console import Console
from rich.markdown import Markdown

STRUCTURES = {
    "ethanol": "example",
    "silicon": "bulk",
    "quartz": "example",
    "RSM0011": "heatcapacity/structures/RSM0011.cif",
    "MOF-5": "example",
    "quartz-243": "supercell",
}
WEIGHTS = {"small": "MACE-MP-0_small.model", "DAC-1": "MACE-DAC-1.model"}
CASES = (
    "ethanol-embedded",
    "ethanol-small",
    "silicon-small",
    "quartz-small",
    "RSM0011-small",
    "RSM0011-DAC-1",
    "MOF-5-small",
    "quartz-243-small",
)
STEP = 1e-3
"""Standard deviation of the displacements between two calls, Å; the neighbour list stays valid."""

OURS, REBUILT, COMPILED = "ours", "ours, new neighbour list", "ours, compiled"
THEIRS, THEIRS_COMPILED = "mace-torch", "mace-torch, compile_mode"
THEIRS_CUEQ = "mace-torch, enable_cueq"
METHODS = (OURS, REBUILT, THEIRS)
COMPILED_METHODS = (COMPILED, THEIRS_COMPILED, THEIRS_CUEQ)
WARM_UP = 4
"""Calls before the measured ones: TorchScript compiles in several of its first calls."""

NOTE = (
    "Times are medians, of one call with energy, forces and stress. The first call is in brackets "
    "if it took more than twice as long. Differences are the largest ones of any component of the "
    "forces to those of ours in the same precision. Memory is the peak minus the memory in use "
    "after loading."
)


@dataclass(frozen=True)
class Job:
    """Task of one process."""

    case: str
    device: str
    dtype: str
    repeats: int
    processor_time: bool
    method: str = ""

    @property
    def structure(self) -> str:
        """Name of the structure."""
        return next(s for s in STRUCTURES if self.case.startswith(s + "-") and self.model_of(s))

    def model_of(self, structure: str) -> str | None:
        """Return the name of the model if the rest of the case is one."""
        name = self.case.removeprefix(structure + "-")
        return name if name in (*WEIGHTS, "embedded") else None

    @property
    def model(self) -> str:
        """Name or file of the model."""
        name = self.model_of(self.structure)
        return str(SHARED / "weights" / WEIGHTS[name]) if name in WEIGHTS else "embedded"

    def atoms(self) -> Any:
        """Read or build the structure."""
        import ase.build
        import ase.io

        import mace_functional as mf

        source = STRUCTURES[self.structure]
        if source == "example":
            return mf.example_structure(self.structure)
        if source == "bulk":
            return ase.build.bulk("Si")
        if source == "supercell":
            return mf.example_structure("quartz").repeat(3)
        return ase.io.read(SHARED / source)


class Measurement(NamedTuple):
    """Result of a job: median and first call in s, peak memory in bytes, number of atoms."""

    seconds: float
    first: float
    memory: int
    atoms: int


def calculator_of(job: Job) -> Any:
    """Make the calculator of a method."""
    import mace  # noqa: F401  (before e3nn, whose constants torch otherwise refuses to load)

    import mace_functional as mf

    dtype = getattr(torch, job.dtype)
    if job.method in (OURS, REBUILT, COMPILED):
        model = mf.load_model(job.model, dtype=dtype, device=job.device)
        skin = {"skin": 0.0} if job.method == REBUILT else {}
        return mf.MaceCalculator(model, compiled=job.method == COMPILED, **skin)
    from mace.calculators import MACECalculator

    from mace_functional.mace.subnormal import flush_subnormal

    torch.set_default_dtype(dtype)  # mace-torch makes some tensors in it
    options = {
        THEIRS: {},
        THEIRS_COMPILED: {"compile_mode": "default"},
        THEIRS_CUEQ: {"enable_cueq": True},
    }[job.method]
    module = torch.load(job.model, map_location=job.device, weights_only=False)
    flush_subnormal(module)  # as in load_model, so that both use the same weights
    return MACECalculator(models=module, device=job.device, default_dtype=job.dtype, **options)


def work(job: Job, output: Path) -> None:
    """Measure in this process, and write the last forces and the measurement to files."""
    warnings.filterwarnings("error", "torch.compile", UserWarning)  # no plain gradient instead
    cuda = job.device.startswith("cuda")
    clock = time.process_time if job.processor_time else time.perf_counter
    atoms = job.atoms()
    atoms.calc = calculator_of(job)
    start, random = atoms.positions.copy(), np.random.default_rng(0)

    def call() -> float:
        atoms.positions = start + random.normal(scale=STEP, size=start.shape)
        started = clock()
        atoms.get_forces()
        if atoms.pbc.any():
            atoms.get_stress()
        return clock() - started

    gc.collect()
    if cuda:
        torch.cuda.reset_peak_memory_stats(job.device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = torch.cuda.memory_allocated(job.device) if cuda else resident()[0]
    started = time.perf_counter()
    call()
    first = time.perf_counter() - started
    for _ in range(WARM_UP):
        call()
    times = [call() for _ in range(job.repeats)]
    peak = torch.cuda.max_memory_allocated(job.device) if cuda else resident()[1]
    np.save(output.with_suffix(".npy"), atoms.get_forces())
    output.write_text(json.dumps((median(times), first, max(0, peak - before), len(atoms))))


class Runner:
    """Starter of a process for each measurement, with progress on standard error."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.console = folder, Console(stderr=True, highlight=False)
        self.failures: dict[str, str] = {}

    def measure(self, job: Job) -> Measurement | None:
        """Run a job; return None if its process failed."""
        self.console.print(f"{job.case}: {job.method} ...", end=" ")
        output = self.file(job)
        command = [sys.executable, __file__, "--worker", json.dumps(asdict(job)), str(output)]
        process = subprocess.run(command, env=os.environ, capture_output=True, text=True)
        if process.returncode or not output.exists():
            last = process.stderr.strip().splitlines()[-1:]
            self.failures[job.method] = " ".join(last)
            self.console.print("failed with code", process.returncode, *last, markup=False)
            return None
        result = Measurement(*json.loads(output.read_text()))
        self.console.print(f"{digits(1e3 * result.seconds)} ms")
        return result

    def file(self, job: Job) -> Path:
        """Return the file of a job's measurement."""
        return self.folder / f"{job.case} {job.method}.json"

    def difference(self, job: Job) -> str:
        """Return the largest difference between the forces of a method and ours, eV/Å."""
        files = [self.file(replace(job, method=m)).with_suffix(".npy") for m in (OURS, job.method)]
        if not all(file.exists() for file in files):
            return "-"
        ours, other = (np.load(file) for file in files)
        return f"{abs(ours - other).max():.0e}"


def compare(
    runner: Runner, jobs: list[Job], methods: tuple[str, ...]
) -> tuple[dict[str, Any], list[str]]:
    """Measure all methods on all cases; return the data and the tables."""
    data: dict[str, Any] = {}
    rows: dict[str, list[list[str]]] = {m: [] for m in ("times", "ratios", "memory", "errors")}
    for job in jobs:
        of_case = [replace(job, method=m) for m in methods if job.model != "embedded" or "our" in m]
        found = {j.method: runner.measure(j) for j in of_case}
        data[job.case] = {m: r and r._asdict() for m, r in found.items()}
        ours = found[OURS]
        atoms = str(ours.atoms) if ours else "-"

        def row(
            cell: Callable[[Measurement], str],
            job: Job = job,
            atoms: str = atoms,
            found: dict[str, Measurement | None] = found,
        ) -> list[str]:
            def of(method: str) -> str:
                result = found.get(method)
                return cell(result) if result else ("failed" if method in found else "-")

            return [job.case, atoms, *map(of, methods)]

        rows["times"].append(row(milliseconds))
        rows["memory"].append(row(lambda m: digits(m.memory / 2**20)))
        if ours:
            base = ours.seconds
            rows["ratios"].append(row(lambda m, base=base: digits(m.seconds / base)))
        differences = [runner.difference(replace(job, method=m)) for m in methods[1:]]
        rows["errors"].append([job.case, atoms, "", *differences])
    header = ["", "atoms", *methods]
    titles = {
        "times": "Milliseconds",
        "ratios": "Times over that of ours",
        "memory": "Peak memory, MiB",
        "errors": "Largest difference of forces, eV/Å",
    }
    return data, [table(titles[name], header, rows[name]) for name in titles]


def milliseconds(m: Measurement) -> str:
    """Format a time, with that of the first call, in s, if it is much longer."""
    first = f" (first {digits(m.first)} s)" if m.first > 2 * m.seconds and m.first > 1 else ""
    return f"{digits(1e3 * m.seconds)}{first}"


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Compare the times of force calls by two ASE calculators."
    )
    add = parser.add_argument
    add("--cases", nargs="+", choices=CASES, default=list(CASES))
    add("--compiled", action="store_true", help="also compiled gradients, and cuequivariance")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ... (%(default)s)")
    add("--dtype", choices=("float64", "float32"), default="float64")
    add("--repeats", type=int, default=15, help="calls of a method (%(default)s)")
    add(
        "--processor-time",
        action="store_true",
        help="measure the time of the processor, not of the clock: for shared machines, 1 thread",
    )
    add("--json", type=Path, metavar="OUT", help="write all measurements here")
    add("--markdown", type=Path, metavar="OUT", help="write the tables here")
    add("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats must be positive")
    for path in (options.json, options.markdown):
        if path is not None and not path.resolve().parent.is_dir():
            parser.error(f"there is no folder for {path}")
    return options


def main() -> None:
    """Measure and report."""
    options = parse()
    if options.worker:
        work(Job(**json.loads(options.worker[0])), Path(options.worker[1]))
        return
    options.keep_memory = False
    common = (options.device, options.dtype, options.repeats, options.processor_time)
    jobs = [Job(case, *common) for case in options.cases]
    files = {j.model for j in jobs if j.model != "embedded"}
    files |= {str(SHARED / STRUCTURES[j.structure]) for j in jobs if j.structure == "RSM0011"}
    missing = sorted(file for file in files if not Path(file).is_file())
    if missing:
        sys.exit(f"missing {', '.join(missing)}: set MACE_FUNCTIONAL_SHARED")
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Path(folder))
        methods = (*METHODS, *COMPILED_METHODS) if options.compiled else METHODS
        data, tables = compare(runner, jobs, methods)
    failed = [f"{method} failed: {why}" for method, why in runner.failures.items()]
    clock = "processor time" if options.processor_time else "time of the clock"
    report = "\n\n".join([f"{machine(options)}; {clock}", *tables, *failed, NOTE]) + "\n"
    Console().print(Markdown(report))
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(options), **data}, indent=1) + "\n")
    if options.markdown is not None:
        options.markdown.write_text(report)


if __name__ == "__main__":
    main()
