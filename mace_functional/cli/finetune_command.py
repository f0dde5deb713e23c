"""`mace-functional finetune`: training of a model on labelled structures."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.data import chemical_symbols
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mace_functional.cli.console import BOLD, Console
from mace_functional.cli.finetune_parser import WEIGHTS, WRITTEN, model_file
from mace_functional.cli.label_options import all_labels, read_labels
from mace_functional.cli.loaded_models import load
from mace_functional.cli.output_files import write_figure, write_json
from mace_functional.cli.printed_results import print_written
from mace_functional.cli.process_groups import is_first, process_group
from mace_functional.mace.loading import EMBEDDED
from mace_functional.mace.model_file import SUFFIX, save_model
from mace_functional.potential.parameters import named_leaves
from mace_functional.potential.sum import SumPotential
from mace_functional.structure.reading.errors import StructureError
from mace_functional.training import (
    FineTuned,
    LabelledStructure,
    LossWeights,
    finetune,
    labelled_by,
)
from mace_functional.training.label_errors import QUANTITIES
from mace_functional.training.labelled_frames import read_frames

KINDS = {
    "energies": "energy",
    "forces": "forces",
    "stresses": "stress",
    "Hessians": "curvature",
}
"""Kinds of labels, with the attribute of `LabelledStructure`."""


def run(options: argparse.Namespace) -> None:
    """Train the model, write the files and print the results."""
    started = time.perf_counter()
    with process_group(options.device) as device:
        options.device = device
        console = Console(stderr=True, quiet=not is_first())
        data, held = all_labels(options), options.validation
        if isinstance(held, Path):
            held = read_labels(options, held)
        model = load(options, console)
        with console.status("replay"):
            replay = labelled_by(model, _replayed(options, model), directions=1)
        with _goes_on(options, console):
            found = _trained(options, model, data, held, replay, console)
        if not is_first():
            return
        results = _results(options, found, data, held, len(replay))
        _write(options, found, console)
        results["seconds"] = time.perf_counter() - started
        if options.json is not None:
            write_json(options.json, results)
        _print(results)
        models = (model_file(options, suffix) for suffix in WRITTEN)
        written = (path for path in models if path.exists())
        print_written(console, *written, options.log, options.json, options.figure)


def _trained(
    options: argparse.Namespace,
    model: Any,
    data: Sequence[LabelledStructure],
    held: float | Sequence[LabelledStructure],
    replay: Sequence[LabelledStructure],
    console: Console,
) -> FineTuned:
    """Train the model.

    Raises:
        ValueError: See `finetune`; also for a gradient that is not finite.
    """
    names: str | list[str] = options.trainable
    if names not in ("all", "readouts"):
        term = "0." if isinstance(model, SumPotential) else ""
        names = [term + name.strip() for name in options.trainable.split(",")]
    try:
        return finetune(
            model,
            data,
            validation=held,
            replay=replay,
            epochs=options.epochs,
            batch_size=options.batch_size,
            rate=options.rate,
            loss=LossWeights(**{term: getattr(options, f"{term}_weight") for term in WEIGHTS}),
            trainable=names,
            fit_references=options.fit_references,
            average=options.average,
            patience=options.patience,
            seed=options.seed,
            checkpoint=options.checkpoint,
            log=options.log,
            progress=console.is_terminal and is_first(),
        )
    except FloatingPointError as error:
        raise ValueError(f"{error} (--rate)") from error


def _replayed(options: argparse.Namespace, model: Any) -> list[Atoms]:
    """Read the structures of --replay, with names for errors.

    Raises:
        StructureError: If a file cannot be read, or the model cannot compute a structure.
    """
    structures = []
    for path in options.replay:
        for number, atoms in enumerate(read_frames(path)):
            atoms.info.setdefault("name", f"{path.name}@{number}")
            try:
                model.structure(atoms)
            except ValueError as error:
                raise StructureError(f"{path}, structure {number}: {error}") from error
            structures.append(atoms)
    return structures


@contextmanager
def _goes_on(options: argparse.Namespace, console: Console) -> Iterator[None]:
    """Say after an interruption how the training goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if options.checkpoint.exists():
            console.print(
                f"the state is in {options.checkpoint}: the same command goes on from there"
            )
        raise


def _write(options: argparse.Namespace, found: FineTuned, console: Console) -> None:
    """Write the model and the figure, and remove the state, which is no longer needed."""
    from mace_functional.mace.mace_torch.export import save_mace_torch  # imports mace-torch

    trained: Any = found.potential
    model: Any = trained.potentials[0] if isinstance(trained, SumPotential) else trained
    ours, theirs = (model_file(options, suffix) for suffix in WRITTEN)
    save_model(model, ours)
    known = options.model == EMBEDDED or Path(options.model).suffix == SUFFIX
    try:
        save_mace_torch(model, theirs, source=None if known else options.model)
    except (TypeError, ValueError) as error:
        console.print(f"there is no {theirs}: {error}", style=BOLD)
    if options.figure is not None:
        from mace_functional.figures import training_figure  # imports matplotlib

        write_figure(options.figure, training_figure(found.history))
    options.checkpoint.unlink(missing_ok=True)


def _results(
    options: argparse.Namespace,
    found: FineTuned,
    data: Sequence[LabelledStructure],
    held: float | Sequence[LabelledStructure],
    n_replay: int,
) -> dict[str, Any]:
    """Return what was done and found, for JSON."""
    leaves = named_leaves(found.potential.params)
    loss = LossWeights(**{term: getattr(options, f"{term}_weight") for term in WEIGHTS})
    n_held = None if isinstance(held, float) else len(held)
    return {
        "data": options.data,
        "labels": {"structures": len(data), **_counts(data)},
        "validation": options.validation if n_held is None else str(options.validation),
        "validation_structures": n_held,
        "replay_structures": n_replay,
        "model": str(options.model),
        "dtype": options.dtype,
        "dispersion": options.dispersion,
        "loss": asdict(loss),
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "rate": options.rate,
        "seed": options.seed,
        "weights": list(found.weights),
        "trained_numbers": sum(leaves[name].numel() for name in found.weights),
        "reference_shifts_eV": {chemical_symbols[z]: s for z, s in found.shifts.items()},
        "ending": found.ending,
        "best_epoch": found.best_epoch,
        "history": found.history,
    }


def _counts(data: Sequence[LabelledStructure]) -> dict[str, int]:
    """Count the structures with labels of each kind."""
    return {
        kind: sum(getattr(labelled, attribute) is not None for labelled in data)
        for kind, attribute in KINDS.items()
    }


def _print(results: dict[str, Any]) -> None:
    """Print what was done and the errors to standard output."""
    console = Console()
    labels = results["labels"]
    kinds = ", ".join(f"{labels[kind]} {kind}" for kind in KINDS if labels[kind])
    console.print(f"data        {labels['structures']} structures of {', '.join(results['data'])}")
    console.print(f"labels      {kinds}")
    n_held, held = results["validation_structures"], results["validation"]
    share = f"{100 * held:g} % of the data" if n_held is None else f"{n_held} of {held}"
    console.print(f"validation  {share}")
    if results["replay_structures"]:
        console.print(f"replay      {results['replay_structures']} structures")
    dispersion = results["dispersion"]
    correction = "" if dispersion is None else f", trained with D3({dispersion}) on top"
    console.print(f"model       {results['model']}{correction}, {results['dtype']}")
    n_weights, n_numbers = len(results["weights"]), results["trained_numbers"]
    console.print(f"trained     {n_numbers} numbers in {n_weights} tensors")
    shifts = results["reference_shifts_eV"]
    if shifts:
        words = ", ".join(f"{element} {shift:.4f}" for element, shift in shifts.items())
        console.print(f"references  shifted by {words} eV")
    history = results["history"]
    console.print(
        f"training    {history[-1]['epoch']} epochs, {results['ending']}; best epoch "
        f"{results['best_epoch']}"
    )
    if "validation" in history[0]:
        best = history[results["best_epoch"]]
        console.print(_table(history[0]["validation"], best["validation"]))
        if not results["best_epoch"]:
            console.print(
                "no epoch has a smaller loss on the validation set than the model before, which is "
                "written unchanged: take more --epochs, or another --rate",
                style=BOLD,
            )
    else:
        first, last = history[1]["loss"], history[-1]["loss"]
        console.print(f"mean loss of the steps of an epoch, from {first:.4g} to {last:.4g}")
    console.print(f"{results['seconds']:.1f} s")


def _table(before: dict[str, float], after: dict[str, float]) -> Table:
    """Return the errors before and after the training as a table."""
    table = Table(title="root-mean-square errors on the validation set", box=SIMPLE_HEAD)
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_column("")
    for name, shown in QUANTITIES.items():
        errors = [record.get(f"rmse_{name}") for record in (before, after)]
        if None not in errors:
            numbers = (_number(shown.factor * e) for e in errors if e is not None)
            table.add_row(shown.name, *numbers, shown.unit)
    table.add_row("loss", _number(before["loss"]), _number(after["loss"]), "")
    return table


def _number(x: float) -> str:
    return f"{x:#.4g}".rstrip(".")
