"""A screening: the same for many structures, by several workers, with nothing lost or done twice.

Everything that is known of a structure lies in a folder of its own, whose name ends in the key of
the result. The record there is written last, and each file appears whole or not at all, so that
the folder itself says what is done, whenever the program was killed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from mace_functional.autodiff.memory import BUDGET_FRACTION, free_memory
from mace_functional.potential.protocol import Potential
from mace_functional.screening.evaluate import Task, cached_model, evaluate
from mace_functional.screening.keys import key_of, potential_digest
from mace_functional.screening.progress import ScreeningProgress
from mace_functional.screening.provenance import Provenance
from mace_functional.screening.record import RECORD, STRUCTURE, Record, Spectrum
from mace_functional.screening.references import Reference
from mace_functional.screening.rows import Row, checked
from mace_functional.screening.saved_eigenvectors import Eigenvectors
from mace_functional.screening.screen_checks import (
    check_potential,
    check_references,
    check_settings,
)
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.screening.sources import Source, Structures, find_sources
from mace_functional.screening.table import (
    ROOM,
    formula_words,
    heat_capacity,
    table,
    write_table,
)
from mace_functional.screening.wording import formatted
from mace_functional.screening.workers import (
    Worker,
    borrowed,
    completed,
    cores,
    is_dask,
    own_processes,
)
from mace_functional.support import validation
from mace_functional.support.atomic_write import atomic_write
from mace_functional.support.defaults import TEMPERATURES
from mace_functional.support.renamed import renamed_option
from mace_functional.vibrations.result_text import html_table

STRUCTURES, SETTINGS, LOCK = "structures", "settings.json", ".lock"
"""What there is in the folder of a screening."""

LONGEST_NAME = 80
"""Bytes of a structure's name in the name of a folder: file systems take 255, keys included."""


@dataclass(frozen=True, eq=False)
class Screening:
    """A screening that is done.

    Attributes:
        folder: Of all its files.
        records: Of the structures, in their order.
        folders: Of the files of each structure.
        settings: What was computed.
        temperatures: Of the table, K.
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
        capacities = [heat_capacity(row, temperature) for row in rows]
        records = self.records
        columns = {
            "structure": [record.name for record in records],
            "formula": [formula_words(record) for record in records],
            "atoms": [formatted(record.n_atoms, "d") for record in records],
            f"Cv at {temperature:g} K, J/(g K)": [formatted(c, ".4f") for c in capacities],
            "imaginary modes": [formatted(record.n_imaginary, "d") for record in records],
            "largest force, eV/Å": [formatted(record.largest_force, ".1e") for record in records],
            "failure": [record.failure or "" for record in records],
        }
        if not self.failed:
            del columns["failure"]
        return html_table(f"Screening in {self.folder.name}", columns)

    @property
    def failed(self) -> list[Record]:
        """Those of structures that failed."""
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

    The same call goes on from where the last one was interrupted, within a structure too. What is
    done for the same structure, model and settings is not done again, under whatever name, and not
    for other temperatures. A structure that fails is recorded with the reason and stops nothing.

    Molecules, and all structures without a mesh, have their modes at Gamma. What Gamma alone
    leaves out of the heat capacity of a crystal is estimated, and kept with it.

    Args:
        structures: Files, folders, names of structures of the package, or Atoms by name; see
            `find_sources`.
        output: Folder for `structures/NAME-KEY/` with `record.json`, `frequencies.npz` and
            `structure.xyz` (geometry, energy, forces) each, `table.csv`, `table.json`,
            `settings.json` and `about.json` (date, versions, digest of the model). Made if missing.
        settings: What to compute.
        potential: Computes all structures, in place of the model that `settings.model` names, which
            then only names it in the report. Processes are sent it, so it must be one that can be
            pickled, unless `executor` is a `ThreadPoolExecutor`. Results are kept under its class,
            what it prints as, its settings and parameters: where only its code changes, give
            another folder.
        temperatures: Of the table, K.
        references: Heat capacities for the table to compare with.
        executor: Of `concurrent.futures`, or `Client.get_executor()` of Dask, whose workers must
            see the same files. If None, processes of our own, one for each worker: should one die,
            its structure is tried once more, and the others go on. A script calls this under
            `if __name__ == "__main__":` then, as Python asks for.
        workers: Tasks at once. If None, as many as there are cores, because small structures gain
            little from several threads; or what the executor has.
        devices: Of the models: "cpu", or one entry for each process, such as "cuda:0", "cuda:1".
        memory_budget: Bytes that each worker may take for second derivatives. If None, its share of
            half of the free memory.
        retry: Compute structures again that have failed before.
        progress: Show a bar, and a line for every structure, on standard error.

    Returns:
        Records and folders, in the order of the structures.

    Raises:
        ValueError: If there are no structures, an option is bad, a reference knows none of the
            structures, another screening writes to the folder, or the potential does not go with
            the settings or cannot be sent to processes.
        ChildProcessError: If the executor breaks, or no process can begin.
        Exception: As `load_model`.
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
        places = _places(folder / STRUCTURES, keys, sources)
        done, tasks = _sorted_out(places, keys, sources, settings, retry)

        def result() -> Screening:
            ready = [(s, key) for s, key in zip(sources, keys, strict=True) if key in done]
            return Screening(
                folder,
                [
                    replace(done[key], name=s.name, file=s.file, findings=list(s.findings))
                    for s, key in ready
                ],
                [places[key] for _, key in ready],
                settings,
                temperatures,
                references,
                Provenance.of(settings.model, digest),
            )

        crew = _crew(executor, workers, devices, len(tasks))
        share = _share(executor, devices, len(crew)) if memory_budget is None else memory_budget
        tasks = [replace(task, memory_budget=share, potential=potential) for task in tasks]
        try:
            _compute(tasks, crew, done, progress)
        finally:
            screening = result()
            write_table(folder, table(screening.rows(), temperatures, references))
            screening.provenance.save(folder)
        return screening


def _compute(
    tasks: list[Task], crew: Sequence[Worker], done: dict[str, Record], progress: bool
) -> None:
    """Add the records of all tasks to those that are done, as they come."""
    failed = sum(record.failure is not None for record in done.values())
    with ScreeningProgress(tasks, len(done), failed, progress) as shown:
        try:
            with closing(completed(tasks, crew, evaluate)) as coming:
                for task, record in coming:
                    done[task.key] = record
                    shown.done(task, record)
        except KeyboardInterrupt:
            shown.say("interrupted: call the same again, to go on from here")
            raise


def _with_absolute_path(settings: ScreenSettings) -> ScreenSettings:
    """ScreenSettings that mean the same model in every folder."""
    path = Path(settings.model)
    return replace(settings, model=str(path.absolute())) if path.is_file() else settings


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep others out of a folder. The system lets go of the lock of a process that is killed."""
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


def _places(folder: Path, keys: Sequence[str], sources: Sequence[Source]) -> dict[str, Path]:
    """The folder of each key: one that is there, whatever its name, or a new one."""
    there = {path.name.rpartition("-")[2]: path for path in folder.glob("*-*")}
    places: dict[str, Path] = {}
    for key, source in zip(keys, sources, strict=True):
        name = re.sub(r"[^\w.+-]", "_", source.name).encode()[:LONGEST_NAME].decode(errors="ignore")
        places.setdefault(key, there.get(key, folder / f"{name}-{key}"))
    return places


def _sorted_out(
    places: dict[str, Path],
    keys: Sequence[str],
    sources: Sequence[Source],
    settings: ScreenSettings,
    retry: bool,
) -> tuple[dict[str, Record], list[Task]]:
    """What is ready or has failed already, and what is to be done: each key once."""
    done: dict[str, Record] = {}
    tasks: dict[str, Task] = {}
    for key, source in zip(keys, sources, strict=True):
        if key in done or key in tasks:
            continue
        ready = _ready(places[key], settings, retry)
        if ready is not None:
            done[key] = ready
        elif source.atoms is None:
            record = Record(key, source.name, source.file, failure=source.failure)
            places[key].mkdir(parents=True, exist_ok=True)
            record.save(places[key])
            done[key] = record
        else:
            tasks[key] = Task(
                key,
                source.name,
                source.file,
                source.atoms,
                places[key],
                settings,
                findings=source.findings,
            )
    return done, list(tasks.values())


def _ready(folder: Path, settings: ScreenSettings, retry: bool) -> Record | None:
    """The record of a structure that needs nothing more; those that cannot be used are removed."""
    if not (folder / RECORD).exists():
        return None
    record: Record | None
    try:
        record = Record.load(folder)
        if record.failure is None:
            (folder / STRUCTURE).stat()
            if settings.eigenvectors:
                Eigenvectors.load(folder)
            if checked(Row(record, Spectrum.load(folder))).spectrum is None:
                record = None
    except Exception:  # a damaged file may raise anything, and is computed anew
        record = None
    if record is None or (record.failure is not None and retry):
        (folder / RECORD).unlink()
        return None
    return record


def _row(record: Record, folder: Path) -> Row:
    spectrum = Spectrum.load(folder) if record.failure is None else None
    return Row(record, spectrum, folder)


def _crew(
    executor: Executor | None, workers: int | None, devices: Sequence[str], n_tasks: int
) -> Sequence[Worker]:
    """The workers: no more than there are tasks.

    Raises:
        ValueError: If there is no such device, or the number of workers is not theirs.
    """
    for device in devices:
        validation.compute_device(device)
    if executor is not None:
        return borrowed(executor, devices, workers)
    if list(devices) == ["cpu"]:
        count = cores() if workers is None else workers
        return own_processes(["cpu"] * max(1, min(count, n_tasks)))
    if workers is not None:
        raise ValueError("workers are of the CPU: name a device for each process instead")
    return own_processes(devices)


def _share(executor: Executor | None, devices: Sequence[str], workers: int) -> int | None:
    """Memory of one worker; on other machines, and of a GPU, it is measured where it is needed."""
    if set(devices) != {"cpu"} or (executor is not None and is_dask(executor)):
        return None
    return int(BUDGET_FRACTION * free_memory(torch.device("cpu")) / workers)
