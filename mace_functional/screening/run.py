"""A screening: many structures, several workers, and results that survive an interruption.

All results of a structure lie in a folder of its own, whose name ends in the key of the result.
Files are written atomically and the record last, so the folder shows what is done whenever the
program was killed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from ase import Atoms
from filelock import FileLock, Timeout

from mace_functional.parallel.processes import WorkerProcesses
from mace_functional.parallel.shared_parts import completed, delivery_of, workers_of
from mace_functional.parallel.workers import Worker, cores, memory_of_worker
from mace_functional.potential.protocol import Potential
from mace_functional.screening.constant_pressure import GRUNEISEN, is_cp_retried, load_modes
from mace_functional.screening.evaluate import cached_model, evaluate
from mace_functional.screening.keys import key_of, potential_digest
from mace_functional.screening.progress import ScreeningProgress
from mace_functional.screening.provenance import Provenance
from mace_functional.screening.record import RECORD, STRUCTURE, Record, Spectrum
from mace_functional.screening.references import Reference
from mace_functional.screening.rows import Row, checked
from mace_functional.screening.sampled_thermo import (
    NO_CP,
    imaginary_words,
    is_current,
    sampled_thermo,
)
from mace_functional.screening.saved_eigenvectors import Eigenvectors
from mace_functional.screening.saved_structures import read_geometry
from mace_functional.screening.screen_checks import (
    check_potential,
    check_references,
    check_settings,
)
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.screening.sources import Source, Structures, find_sources
from mace_functional.screening.table import (
    ROOM,
    cp_words,
    formula_words,
    heat_capacity_words,
    table,
    write_table,
)
from mace_functional.screening.task import Task
from mace_functional.screening.wording import formatted
from mace_functional.support import validation
from mace_functional.support.atomic_write import atomic_write
from mace_functional.support.defaults import TEMPERATURES
from mace_functional.support.renamed import renamed_option
from mace_functional.vibrations.result_text import html_table

STRUCTURES, SETTINGS, LOCK = "structures", "settings.json", ".lock"
"""Names of subfolder and files in the folder of a screening."""

DIED = "its process died, perhaps for want of memory"
"""Reason of the failure of a structure whose worker dies again and again."""

LONGEST_NAME = 80
"""Most bytes of a structure's name in the name of its folder; file systems take 255 in all."""


@dataclass(frozen=True, eq=False)
class Screening:
    """A finished screening.

    Attributes:
        folder: Folder of all its files.
        records: Records of the structures, in their order.
        folders: Folder of each structure.
        settings: Settings of the screening.
        temperatures: Temperatures of the table, K.
        references: Heat capacities that the table and the report compare with.
        provenance: Date, versions and digest of the model.
    """

    folder: Path
    records: list[Record]
    folders: list[Path]
    settings: ScreenSettings
    temperatures: Sequence[float]
    references: Sequence[Reference]
    provenance: Provenance

    def __repr__(self) -> str:
        n_failed = len(self.failed)
        return f"Screening({len(self.records) - n_failed} done, {n_failed} failed; {self.folder})"

    def _repr_html_(self) -> str:
        temperature = min(self.temperatures, key=lambda kelvin: abs(kelvin - ROOM))
        rows = self.rows()
        records = self.records
        columns = {
            "structure": [record.name for record in records],
            "formula": [formula_words(record) for record in records],
            "atoms": [formatted(record.n_atoms, "d") for record in records],
            f"Cv at {temperature:g} K, J/(g K)": [
                heat_capacity_words(row, temperature) for row in rows
            ],
            f"Cp at {temperature:g} K, J/(g K)": [cp_words(row, temperature) for row in rows],
            "imaginary modes": [imaginary_words(record) for record in records],
            "largest force, eV/Å": [formatted(record.largest_force, ".1e") for record in records],
            "failure": [record.failure or "" for record in records],
        }
        if not self.settings.cp:
            del columns[f"Cp at {temperature:g} K, J/(g K)"]
        if not self.failed:
            del columns["failure"]
        return html_table(f"Screening in {self.folder.name}", columns)

    @property
    def failed(self) -> list[Record]:
        """Records of structures that failed."""
        return [record for record in self.records if record.failure is not None]

    def rows(self) -> list[Row]:
        """The records with their spectra."""
        return [
            _row(record, folder) for record, folder in zip(self.records, self.folders, strict=True)
        ]

    def report(self) -> Path:
        """Write `report.html`, one page that holds all it shows, and its figures beside it.

        Returns:
            Path of the page.
        """
        from mace_functional.screening.report import write_report  # matplotlib, for a report alone

        return write_report(
            self.folder,
            self.rows(),
            self.settings,
            self.temperatures,
            self.references,
            self.provenance,
        )


@renamed_option("memory", "memory_budget")
def screen(
    structures: Structures,
    output: str | os.PathLike[str],
    settings: ScreenSettings,
    *,
    potential: Potential | None = None,
    temperatures: Sequence[float] = TEMPERATURES,
    references: Sequence[Reference] = (),
    executor: Executor | None = None,
    workers: int | None = None,
    devices: Sequence[str] = ("cpu",),
    memory_budget: int | None = None,
    retry: bool = False,
    progress: bool = False,
) -> Screening:
    """Relaxation, frequencies and harmonic thermodynamics of many structures.

    The same call continues an interrupted screening, within a structure too. Results for the same
    structure, model and settings are not computed again, even under another name or for other
    temperatures. A structure that fails is recorded with the reason; the others are computed.

    Structures of more than `settings.stochastic_above` atoms are computed without their Hessian, at
    the Gamma point of the given cell, with standard errors, at the temperatures of the table and of
    the references. For other temperatures or options of the sampling, it is repeated for the same
    relaxed structure.

    Molecules, and all structures without a mesh, have their modes at Gamma. The heat capacity of a
    crystal that is missing at Gamma alone is estimated and recorded. With `settings.cp` there are
    heat capacities at constant pressure beside those at constant volume; a structure that has none
    says why.

    Args:
        structures: Files, folders, names of structures of the package, or Atoms by name; see
            `find_sources`.
        output: Folder for `structures/NAME-KEY/` with `record.json`, `frequencies.npz` and
            `structure.xyz` (geometry, energy, forces) each, `table.csv`, `table.json`,
            `settings.json` and `about.json` (date, versions, digest of the model). Made if missing.
        settings: Settings of the screening.
        potential: Potential for all structures, in place of the model; `settings.model` is then its
            name in the report. It must be one that can be pickled, to be sent to processes, unless
            `executor` is a `ThreadPoolExecutor`. Its class, printed form, settings and parameters
            are part of the keys of results: if only its code changes, give another folder.
        temperatures: Temperatures of the table, K.
        references: Heat capacities for the table to compare with.
        executor: Executor of `concurrent.futures`, or `Client.get_executor()` of Dask, whose
            workers must see the same files. If None, one process is started for each worker. If a
            process dies, its structure is tried once more, and the others continue. A script must
            call this under `if __name__ == "__main__":`, because each process imports it.
        workers: Number of tasks at once. If None, the number of cores, because small structures
            gain little from several threads; or the number of workers of the executor.
        devices: Of the models: "cpu", or one entry for each process, such as "cuda:0", "cuda:1".
        memory_budget: Memory of each worker for second derivatives, bytes. If None, each has an
            equal share of half of the free memory.
        retry: True to compute structures again that failed before, and heat capacities at constant
            pressure that ended in an error.
        progress: True to show a bar, and a line for every structure, on standard error.

    Returns:
        Records and folders, in the order of the structures.

    Raises:
        ValueError: If there are no structures, an option is bad, a reference knows none of the
            structures, another screening writes to the folder, or the potential contradicts the
            settings or cannot be sent to processes.
        ChildProcessError: If the executor breaks, or no process can start.
        Exception: Exceptions of `load_model`.
    """
    check_settings(settings, temperatures, workers)
    memory_budget = validation.memory_budget(memory_budget)
    if potential is not None:
        check_potential(potential, settings, executor)
    sources = find_sources(structures)
    check_references(references, sources)
    settings = _with_absolute_path(settings)
    folder = Path(output).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        model = cached_model(settings, "cpu") if potential is None else potential
        digest = potential_digest(model)
        _write_settings(folder, settings, digest)
        keys = [key_of(source, model, digest, settings) for source in sources]
        folders = _folders(folder / STRUCTURES, keys, sources)
        wanted = {*map(float, temperatures), *(r.temperature for r in references)}
        done, tasks = _split_done_and_todo(
            folders, keys, sources, settings, tuple(sorted(wanted)), retry
        )

        def result() -> Screening:
            ready = [(s, key) for s, key in zip(sources, keys, strict=True) if key in done]
            return Screening(
                folder,
                [_record_of(done[key], s, settings) for s, key in ready],
                [folders[key] for _, key in ready],
                settings,
                temperatures,
                references,
                Provenance.of(settings.model, digest),
            )

        with _executor(executor, workers, devices, len(tasks)) as given:
            crew = workers_of(given, devices, None if executor is None else workers)
            if memory_budget is None:
                memory_budget = memory_of_worker(crew, devices[0])
            tasks = [replace(task, memory_budget=memory_budget) for task in tasks]
            try:
                _compute(_Structures(evaluate, potential), tasks, crew, done, progress)
            finally:
                screening = result()
                write_table(folder, table(screening.rows(), temperatures, references))
                screening.provenance.save(folder)
        return screening


@dataclass(frozen=True)
class _Structures:
    """The job: the structures of a screening, with a potential that all share."""

    evaluate: Callable[[Task], Record]
    potential: Potential | None

    def begun(self, device: str | None) -> Callable[[Task], Record]:
        """Return the function that does a task on a device."""
        potential, name = self.potential, device or "cpu"
        if potential is not None:
            compute_device = validation.compute_device(name)
            if torch.device(potential.device) != compute_device:
                potential = potential.to(device=compute_device)
        return lambda task: self.evaluate(replace(task, device=name, potential=potential))


def _compute(
    job: _Structures,
    tasks: list[Task],
    workers: Sequence[Worker],
    done: dict[str, Record],
    progress: bool,
) -> None:
    """Do all tasks, the most costly first, and add their records to `done`, as they come."""
    tasks = sorted(tasks, key=lambda task: task.cost, reverse=True)
    delivery = delivery_of(job, workers)
    failed = sum(record.failure is not None for record in done.values())
    with ScreeningProgress(tasks, len(done), failed, progress) as shown:
        try:
            with closing(completed(delivery, tasks, workers, lost=_died)) as coming:
                for i, record in coming:
                    done[tasks[i].key] = record
                    shown.done(tasks[i], record)
        except KeyboardInterrupt:
            shown.say("interrupted: call the same again to continue")
            raise


def _with_absolute_path(settings: ScreenSettings) -> ScreenSettings:
    """Settings in which the path of a model is absolute, so that all workers find it."""
    path = Path(settings.model)
    return replace(settings, model=str(path.absolute())) if path.is_file() else settings


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other screenings. The system frees the lock of a killed process."""
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise ValueError(
            f"another screening is writing to {folder}: wait for its end, or name another folder"
        ) from error


def _write_settings(folder: Path, settings: ScreenSettings, digest: str) -> None:
    data = {**settings.as_dict(), "potential_digest": digest}
    with atomic_write(folder / SETTINGS) as partial:
        partial.write_text(json.dumps(data, indent=1) + "\n")


def _folders(folder: Path, keys: Sequence[str], sources: Sequence[Source]) -> dict[str, Path]:
    """The folder of each key: an existing one, under any name, or a new one."""
    existing = {path.name.rpartition("-")[2]: path for path in folder.glob("*-*")}
    folders: dict[str, Path] = {}
    for key, source in zip(keys, sources, strict=True):
        name = re.sub(r"[^\w.+-]", "_", source.name).encode()[:LONGEST_NAME].decode(errors="ignore")
        folders.setdefault(key, existing.get(key, folder / f"{name}-{key}"))
    return folders


def _split_done_and_todo(
    folders: dict[str, Path],
    keys: Sequence[str],
    sources: Sequence[Source],
    settings: ScreenSettings,
    temperatures: tuple[float, ...],
    retry: bool,
) -> tuple[dict[str, Record], list[Task]]:
    """Split keys into records that are done or failed before, and tasks; each key counts once.

    A record that lacks one part stays in its folder until its task is done.
    """
    done: dict[str, Record] = {}
    tasks: dict[str, Task] = {}
    for key, source in zip(keys, sources, strict=True):
        if key in done or key in tasks:
            continue
        ready, relaxed = _ready(folders[key], settings, retry), None
        if ready is not None and _lacks_part(ready, settings, temperatures, retry):
            relaxed = _relaxed_before(folders[key], source)
        elif ready is not None:
            done[key] = ready
            continue
        if source.atoms is None:
            record = Record(key, source.name, source.file, failure=source.failure)
            folders[key].mkdir(parents=True, exist_ok=True)
            record.save(folders[key])
            done[key] = record
        else:
            tasks[key] = Task(
                key,
                source.name,
                source.file,
                source.atoms,
                folders[key],
                settings,
                findings=source.findings,
                temperatures=temperatures,
                earlier=None if relaxed is None else ready,
                relaxed=relaxed,
            )
    return done, list(tasks.values())


def _ready(folder: Path, settings: ScreenSettings, retry: bool) -> Record | None:
    """The record of a structure that is done; a record that cannot be used is removed."""
    if not (folder / RECORD).exists():
        return None
    record: Record | None
    try:
        record = Record.load(folder)
        if record.failure is None:
            (folder / STRUCTURE).stat()
            if settings.eigenvectors and record.stochastic is None:
                Eigenvectors.load(folder)
            if settings.cp and record.no_cp is None and record.stochastic is None:
                load_modes(folder)
            if not checked(_row(record, folder)).has_result:
                record = None
    except Exception:  # a damaged file may raise anything
        record = None
    if record is None or (record.failure is not None and retry):
        (folder / RECORD).unlink()
        return None
    return record


def _lacks_part(
    record: Record, settings: ScreenSettings, temperatures: Sequence[float], retry: bool
) -> bool:
    """True if a sampling has to be repeated, or a heat capacity at constant pressure be retried."""
    if record.failure is not None:
        return False
    if settings.is_sampled(record.n_atoms or 0):
        return not is_current(record, settings, temperatures)
    return retry and settings.cp and is_cp_retried(record)


def _relaxed_before(folder: Path, source: Source) -> Atoms | None:
    """The structure that an earlier record is for; None if its file cannot be used."""
    try:
        return None if source.atoms is None else read_geometry(folder, source.atoms)
    except Exception:  # a damaged file may raise anything
        return None


def _record_of(record: Record, source: Source, settings: ScreenSettings) -> Record:
    """The record of a structure under its name here."""
    no_cp = NO_CP if settings.cp and record.stochastic is not None else record.no_cp
    return replace(
        record, name=source.name, file=source.file, findings=list(source.findings), no_cp=no_cp
    )


def _row(record: Record, folder: Path) -> Row:
    if record.failure is not None:
        return Row(record, None, folder)
    if record.stochastic is not None:
        return Row(record, None, folder, sampled=sampled_thermo(record))
    has_cp = record.no_cp is None and (folder / GRUNEISEN).exists()
    strained = load_modes(folder) if has_cp else None
    return Row(record, Spectrum.load(folder), folder, strained)


def _died(task: Task) -> Record:
    """Write the record of a structure whose worker dies again and again."""
    return task.failed(DIED)


def _executor(
    executor: Executor | None, workers: int | None, devices: Sequence[str], n_tasks: int
) -> AbstractContextManager[Executor]:
    """Return the executor, or else one process for each worker, no more than there are tasks.

    Raises:
        ValueError: If a device does not exist, or a number of workers is given for GPUs.
    """
    for device in devices:
        validation.compute_device(device)
    if executor is not None:
        return nullcontext(executor)
    if list(devices) != ["cpu"]:
        return WorkerProcesses(workers, devices=devices)
    count = cores() if workers is None else workers
    return WorkerProcesses(max(1, min(count, n_tasks)))
