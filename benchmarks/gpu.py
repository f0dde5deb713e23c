"""Check and time mace_functional on a GPU, beside the CPU and mace-torch, in eight minutes.

    python benchmarks/gpu.py                           a GPU, with all sections
    python benchmarks/gpu.py --device cpu --quick      a minute on a CPU, to try the script
    python benchmarks/gpu.py --json OUT --markdown OUT

Sections, each with its share of the time: every public function against the CPU, in float64 and
float32; forces, Hessian-vector products and Hessians from 27 to 1944 atoms; dynamical matrices and
meshes; foundation models, if their weights are in `../shared` or `$MACE_FUNCTIONAL_SHARED`. What
does not fit a share is left out and said so. Both files are written after each section.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # `in_mace_torch` is a helper of the tests

import mace  # noqa: E402, F401  (before e3nn, whose constants torch otherwise refuses to load)
import ase.io  # noqa: E402
import gpu_checks  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from ase import Atoms  # noqa: E402
from in_mace_torch import in_mace_torch  # noqa: E402
from mace.calculators import MACECalculator  # noqa: E402

import mace_functional as mf  # noqa: E402
from mace_functional.autodiff import columns  # noqa: E402

FOLDERS = (os.environ.get("MACE_FUNCTIONAL_SHARED", ""), ROOT / "shared", ROOT.parent / "shared")
WEIGHTS = ("MACE-MP-0_small.model", "MACE-DAC-1.model")
FRAMEWORK = Path("heatcapacity", "relaxed", "RSM0011.xyz")
"""A zeolite of 22 atoms, relaxed, in the shared folder."""

SHARES = {"checks": 0.3, "sizes": 0.35, "phonons": 0.15, "weights": 0.2}
QUICK_SHARES = {"checks": 0.6, "sizes": 0.1, "phonons": 0.1, "weights": 0.2}
"""Share of the time of each section; a section may also use what earlier ones have left."""

CELLS = [(1, 1, 3), (2, 2, 2), (3, 3, 3), (4, 4, 4), (6, 6, 6)]
"""Supercells of quartz, 9 atoms each: 27, 72, 243, 576 and 1944 atoms."""
QUICK_CELLS = [(1, 1, 3)]
FEW_ATOMS = 4
"""Atoms of the partial Hessian from which the time of the whole one is estimated."""
COLUMN = 4.0
"""Time of a column of mace-torch's Hessian over that of its force call, from above."""
REPEATS = 5
SAFETY = 2.0
"""A call is made if what is left of the time is this many times as long as its estimate."""

FORCES, GET_HESSIAN = "mace-torch force call", "mace-torch get_hessian"
GRADIENT, HVP, PRODUCT, HESSIAN = "gradient", "HVP", "further product", "Hessian"
NOTE = (
    "Times are medians of up to five calls after a first one, with `torch.cuda.synchronize` before "
    "the clock is read. A force call of mace-torch, through its ASE calculator, includes the "
    "neighbour search and the stress. A further product is `HessianOperator @ v`. Memory is the "
    "peak of `torch.cuda.max_memory_allocated` above what was in use before. Chunk is the largest "
    'number of columns at once that `chunk_size="auto"` chose.'
)


class Clock:
    """The time that is left, for all sections and for the present one.

    Args:
        seconds: Time for all sections.
        shares: Share of each section.
    """

    def __init__(self, seconds: float, shares: dict[str, float]) -> None:
        self.started, self.seconds, self.shares = time.perf_counter(), seconds, shares
        self.share, self.end = 0.0, self.started

    def begin(self, section: str) -> None:
        """Start a section, which ends when its share and those before it are used up."""
        self.share += self.shares[section]
        self.end = self.started + self.seconds * self.share

    def left(self) -> float:
        """Return the seconds that are left for the section."""
        return self.end - time.perf_counter()

    def is_late(self) -> bool:
        """Return True when the section has no time left."""
        return self.left() <= 0


@dataclass
class Measurement:
    """Time and memory of a call.

    Attributes:
        seconds: Median time after the first call; None if it was left out or failed.
        first: Time of the first call.
        memory: Peak memory on the GPU, bytes; None on a CPU.
        chunk: Largest number of columns at once; None if there were none.
        problem: Reason why there is no time.
    """

    seconds: float | None = None
    first: float | None = None
    memory: int | None = None
    chunk: int | None = None
    problem: str = ""

    def text(self) -> str:
        """Describe the time in a cell of a table."""
        return self.problem if self.seconds is None else digits(self.seconds)


@dataclass
class Report:
    """What was found, as JSON and as markdown.

    Attributes:
        machine: Hardware and versions.
        data: Measurements by section.
        tables: Tables in markdown.
    """

    machine: str
    data: dict[str, Any] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Return all tables, with the machine above and the explanation below."""
        return "\n\n".join([self.machine, *self.tables, NOTE]) + "\n"

    def write(self, options: argparse.Namespace) -> None:
        """Write the files that the options name."""
        if options.json is not None:
            text = json.dumps({"machine": self.machine, **self.data}, indent=1)
            options.json.write_text(text + "\n")
        if options.markdown is not None:
            options.markdown.write_text(self.markdown())


class Bench:
    """Measures calls on a device.

    Args:
        device: "cuda", "cuda:1" or "cpu".
        clock: The time that is left.
    """

    def __init__(self, device: str, clock: Clock) -> None:
        self.device, self.clock = torch.device(device), clock

    def measure(self, call: Callable[[], Any], estimate: float = 0.0) -> Measurement:
        """Time a call, unless it would take too long.

        Args:
            call: The call.
            estimate: Seconds that it is expected to take.
        """
        if SAFETY * estimate > self.clock.left() or self.clock.is_late():
            about = f" (est. {digits(estimate)} s)" if estimate else ""
            return Measurement(problem=f"left out{about}")
        gc.collect()
        before = self._start()
        try:
            with _chunks() as sizes:
                first = self._timed(call)
                times = []
                while len(times) < REPEATS and (len(times) + 2) * first < self.clock.left():
                    times.append(self._timed(call))
        except Exception as error:
            return Measurement(problem=type(error).__name__)
        memory = None
        if self.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(self.device) - before
        return Measurement(median(times or [first]), first, memory, max(sizes, default=None))

    def _start(self) -> int:
        """Start to measure memory; return the bytes in use."""
        if self.device.type != "cuda":
            return 0
        torch.cuda.empty_cache()
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return int(torch.cuda.memory_allocated(self.device))

    def _timed(self, call: Callable[[], Any]) -> float:
        started = time.perf_counter()
        call()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - started


@contextmanager
def _chunks() -> Iterator[list[int]]:
    """Record the number of columns of every chunk."""
    sizes: list[int] = []
    vmap = columns.vmap

    def recording(apply: Any) -> Any:
        mapped = vmap(apply)

        def chunk(vectors: torch.Tensor) -> Any:
            sizes.append(len(vectors))
            return mapped(vectors)

        return chunk

    with mock.patch.object(columns, "vmap", recording):
        yield sizes


def digits(value: float | None) -> str:
    """Write a number with three digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in markdown."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = ["| " + " | ".join(row) + " |" for row in (header, rule, *rows)]
    return f"**{title}**\n\n" + "\n".join(lines)


def machine(device: str) -> str:
    """Describe hardware and versions."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    if torch.device(device).type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        tf32 = "on" if torch.backends.cuda.matmul.allow_tf32 else "off"
        name = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, TF32 {tf32}; {name}"
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "mace-torch", "mace_functional"))
    return (
        f"{name}, {torch.get_num_threads()} threads; Python {platform.python_version()}, "
        f"CUDA {torch.version.cuda}, {packages}"
    )


def shared(*parts: str | Path) -> Path | None:
    """Return a file of the shared folder, or None if it is not there."""
    paths = (Path(folder, *parts) for folder in FOLDERS if folder)
    return next((path for path in paths if path.is_file()), None)


def checks(bench: Bench, report: Report) -> None:
    """Compare every public function with the CPU."""
    found = []
    for comparison in gpu_checks.compare(str(bench.device), bench.clock.is_late):
        found.append(comparison)
        error = "-" if comparison.error is None else f"{comparison.error:.1e}"
        print(f"  {comparison.dtype}, {comparison.name}: {error} {comparison.verdict}", flush=True)
    report.data["checks"] = [c._asdict() | {"verdict": c.verdict} for c in found]
    rows = [
        [
            c.name,
            c.dtype,
            "-" if c.error is None else f"{c.error:.0e}",
            f"{c.tolerance:.0e}",
            c.verdict.replace("|", "/"),
        ]
        for c in found
    ]
    title = f"Largest difference between {bench.device.type} and CPU, over the largest entry"
    report.tables.append(table(title, ["", "dtype", "difference", "tolerance", "verdict"], rows))


def derivatives(
    bench: Bench, model: mf.MaceModel, calculator: MACECalculator | None, atoms: Atoms
) -> dict[str, Measurement]:
    """Time forces, products and Hessians of a structure by both packages."""
    structure = mf.from_ase(atoms, model)
    energy = mf.energy_fn(model, structure.topology)
    args = structure.positions, structure.cell, model.params
    vector = torch.ones_like(structure.positions)
    operator = cache(lambda: mf.HessianOperator(energy, *args))
    found = {
        GRADIENT: bench.measure(lambda: mf.forces(energy)(*args)),
        HVP: bench.measure(lambda: mf.hvp(energy)(*args, vector)),
        PRODUCT: bench.measure(lambda: operator() @ vector),
    }
    few = range(FEW_ATOMS)
    partial = bench.measure(lambda: mf.hessian(energy, indices=few, chunk_size=None)(*args))
    estimate = (partial.seconds or 0.0) * len(atoms) / FEW_ATOMS
    found[HESSIAN] = bench.measure(lambda: mf.hessian(energy)(*args), estimate)
    if calculator is None:
        return found
    random, start = np.random.default_rng(0), atoms.positions.copy()

    def force_call() -> Any:
        # An ASE calculator returns old results if nothing has moved.
        moved = atoms.copy()
        moved.calc = calculator
        moved.positions = start + random.normal(scale=1e-5, size=start.shape)
        return moved.get_forces()

    for _ in range(3):  # TorchScript compiles in its first calls
        found[FORCES] = bench.measure(force_call)
    estimate = COLUMN * 3 * len(atoms) * (found[FORCES].seconds or 0.0)
    found[GET_HESSIAN] = bench.measure(lambda: calculator.get_hessian(atoms), estimate)
    return found


METHODS = (FORCES, GRADIENT, HVP, PRODUCT, HESSIAN, GET_HESSIAN)


def derivative_tables(title: str, found: dict[str, dict[str, Measurement]]) -> list[str]:
    """Return tables of times and of memory, with a column for each structure."""
    seconds = [
        [method, *(m[method].text() if method in m else "-" for m in found.values())]
        for method in METHODS
    ]
    memory = [
        [
            method,
            *(
                digits(m[method].memory / 2**20) if method in m and m[method].memory else "-"
                for m in found.values()
            ),
        ]
        for method in METHODS
    ]
    chunks = ["chunk of the Hessian"]
    chunks += [str(m[HESSIAN].chunk) if m[HESSIAN].chunk else "-" for m in found.values()]
    tables = [table(f"{title}: seconds", ["atoms", *found], [*seconds, chunks])]
    if any(m.memory for measurements in found.values() for m in measurements.values()):
        tables.append(table(f"{title}: peak memory, MiB", ["atoms", *found], memory))
    return tables


def sizes(bench: Bench, report: Report, dtype: str, quick: bool) -> None:
    """Time supercells of quartz with the embedded model."""
    model = mf.load_model("embedded", dtype=dtype, device=bench.device)
    calculator = _calculator(in_mace_torch(mf.load_model("embedded")), bench, dtype)
    found: dict[str, dict[str, Measurement]] = {}
    for cells in QUICK_CELLS if quick else CELLS:
        atoms = mf.example_structure("quartz").repeat(cells)
        found[str(len(atoms))] = derivatives(bench, model, calculator, atoms)
        print(f"  {len(atoms)} atoms:", _summary(found[str(len(atoms))]), flush=True)
    report.data[f"sizes, {dtype}"] = _plain(found)
    report.tables += derivative_tables(f"Quartz, embedded model, {dtype}", found)


def phonons(bench: Bench, report: Report, quick: bool) -> None:
    """Time dynamical matrices and a mesh of quartz and MOF-5 with the embedded model."""
    model = mf.load_model("embedded", device=bench.device)
    found = {}
    for name in ("quartz",) if quick else ("quartz", "MOF-5"):
        found[name] = lattice(bench, model, mf.example_structure(name), quick)
        print(f"  {name}:", _summary(found[name]), flush=True)
    report.data["phonons"] = _plain(found)
    report.tables.append(phonon_table("Phonons, embedded model, float64: seconds", found))


def lattice(bench: Bench, model: mf.MaceModel, atoms: Atoms, quick: bool) -> dict[str, Measurement]:
    """Time the Hessian, dynamical matrices, force constants and a mesh of a crystal."""
    structure = mf.from_ase(atoms, model)
    energy = mf.energy_fn(model, structure.topology)
    D = mf.dynamical_matrix_fn(model, structure.topology)
    args = structure.positions, structure.cell, model.params
    found = {"Hessian at Gamma": bench.measure(lambda: mf.hessian(energy)(*args))}
    estimate = found["Hessian at Gamma"].seconds or 0.0
    for name, q in (
        ("D(0)", [0.0, 0.0, 0.0]),
        ("D(q), real phases", [0.5, 0.0, 0.5]),
        ("D(q), general q", [0.1, 0.2, 0.3]),
    ):
        call = lambda q=q: D(q, *args, structure.masses)  # noqa: E731
        found[name] = bench.measure(call, 3 * estimate)
    made = cache(lambda: mf.phonons_of(model, atoms, method="force-constants"))
    found["force constants"] = bench.measure(
        lambda: mf.force_constants(model, atoms), 10 * estimate
    )
    if found["force constants"].seconds is not None:
        mesh = mf.Mesh.of(atoms, (2, 2, 2) if quick else (4, 4, 4))
        made()
        found[f"modes on a mesh, {len(mesh.q)} wave vectors"] = bench.measure(
            lambda: mf.mesh_modes(made(), mesh)
        )
    return found


def phonon_table(title: str, found: dict[str, dict[str, Measurement]]) -> str:
    """Return a table of times and memory, with two columns for each crystal."""
    names = list(dict.fromkeys(name for m in found.values() for name in m))
    rows = []
    for name in names:
        row = [name]
        for m in found.values():
            cell = m.get(name, Measurement(problem="-"))
            row += [cell.text(), digits(cell.memory / 2**20) if cell.memory else "-"]
        rows.append(row)
    header = ["", *(x for name in found for x in (name, "MiB"))]
    return table(title, header, rows)


def weights(bench: Bench, report: Report, dtype: str, quick: bool) -> None:
    """Time foundation models on a framework of 22 atoms and a supercell of it."""
    framework = shared(FRAMEWORK)
    for name in WEIGHTS[:1] if quick else WEIGHTS:
        path = shared("weights", name)
        if path is None or framework is None:
            report.tables.append(f"{name} or {FRAMEWORK.name} is missing: set the shared folder.")
            continue
        model = mf.load_model(path, dtype=dtype, device=bench.device)
        calculator = _calculator(path, bench, dtype)
        found = {}
        for cells in (1,) if quick else (1, 2, 4):
            atoms = ase.io.read(framework).repeat((1, 1, cells))
            found[str(len(atoms))] = derivatives(bench, model, calculator, atoms)
            print(f"  {name}, {len(atoms)} atoms:", _summary(found[str(len(atoms))]), flush=True)
        report.data[f"{name}, {dtype}"] = _plain(found)
        report.tables += derivative_tables(f"{FRAMEWORK.stem}, {name}, {dtype}", found)


def _calculator(source: torch.nn.Module | Path, bench: Bench, dtype: str) -> MACECalculator | None:
    """Return mace-torch's calculator; None, with a message, if it does not start."""
    torch.set_default_dtype(getattr(torch, dtype))  # mace-torch makes some tensors in it
    given = {"model_paths": str(source)} if isinstance(source, Path) else {"models": source}
    try:
        return MACECalculator(**given, device=str(bench.device), default_dtype=dtype)
    except Exception as error:
        print(f"  mace-torch: {type(error).__name__}: {error}")
        return None


def _plain(found: dict[str, dict[str, Measurement]]) -> dict[str, Any]:
    return {key: {name: asdict(m) for name, m in ms.items()} for key, ms in found.items()}


def _summary(found: dict[str, Measurement]) -> str:
    return ", ".join(f"{name} {m.text()}" for name, m in found.items())


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--device", default="cuda", help="cuda, cuda:1, ... or cpu (%(default)s)")
    add("--dtype", choices=("float64", "float32"), default="float64", help="of the timings")
    add("--minutes", type=float, help="time for all sections (8; 1 with --quick)")
    add("--quick", action="store_true", help="smallest structures, to try the script")
    add("--json", type=Path, metavar="OUT", help="write all measurements here")
    add("--markdown", type=Path, metavar="OUT", help="write the tables here")
    options = parser.parse_args()
    if options.minutes is None:
        options.minutes = 1.0 if options.quick else 8.0
    return options


def main() -> None:
    """Run all sections."""
    options = parse()
    warnings.simplefilter("ignore", UserWarning)  # TorchScript of mace-torch has many
    device = str(torch.device(options.device))
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU: use --device cpu --quick to try the script")
    clock = Clock(60 * options.minutes, QUICK_SHARES if options.quick else SHARES)
    bench, report = Bench(device, clock), Report(machine(device))
    print(report.machine, flush=True)
    sections: dict[str, Callable[[], None]] = {
        "checks": lambda: checks(bench, report),
        "sizes": lambda: sizes(bench, report, options.dtype, options.quick),
        "phonons": lambda: phonons(bench, report, options.quick),
        "weights": lambda: weights(bench, report, options.dtype, options.quick),
    }
    for name, section in sections.items():
        clock.begin(name)
        print(f"{name}, {clock.left():.0f} s left", flush=True)
        try:
            section()
        except Exception as error:  # the other sections may still work
            report.tables.append(f"{name}: {type(error).__name__}: {error}")
            print(report.tables[-1], flush=True)
        finally:
            torch.set_default_dtype(torch.float32)
        report.write(options)
    print()
    print(report.markdown())
    print(f"{time.perf_counter() - clock.started:.0f} s of {clock.seconds:.0f} s")
    if any(check["verdict"] not in ("ok", "left out") for check in report.data.get("checks", [])):
        sys.exit(1)


if __name__ == "__main__":
    main()
