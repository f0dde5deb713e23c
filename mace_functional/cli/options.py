"""What all verbs ask for: a structure, a model, a relaxation, files to write."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from rich.console import Console

from mace_functional.cli.files import FIGURES
from mace_functional.cli.relaxation import relax_in_place
from mace_functional.model import Model, load_model
from mace_functional.screening.settings import DTYPES
from mace_functional.structures import STRUCTURES

FMAX = 1e-3
"""eV/Å; frequencies then change little with tighter relaxation."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that verbs share: structure, model, and a relaxation beforehand."""
    add_structure_and_model(parser)
    parser.add_argument(
        "--relax",
        action="store_true",
        help="relax positions, and the cell along periodic directions, first",
    )
    parser.add_argument("--fixed-cell", action="store_true", help="keep the cell when relaxing")
    add_limits(parser)
    parser.add_argument(
        "--relaxed",
        type=Path,
        metavar="OUT",
        help="write the structure here after every step of relaxation, and continue from it if it "
        "is there",
    )


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add the options that say when a relaxation stops."""
    parser.add_argument(
        "--fmax", type=float, default=FMAX, help="largest force to relax to, eV/Å (%(default)s)"
    )
    parser.add_argument(
        "--max-steps", type=int, default=1000, help="most steps of relaxation (%(default)s)"
    )


def add_structure_and_model(parser: argparse.ArgumentParser) -> None:
    """Add what says which structure and which model, and where to compute."""
    list_structures(parser)
    parser.add_argument(
        "file",
        metavar="FILE",
        help="structure, in any format that ASE reads, or the name of one of those below",
    )
    add_model(parser)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (%(default)s)")


def list_structures(parser: argparse.ArgumentParser) -> None:
    """Put the structures of the package at the end of the help."""
    width = max(map(len, STRUCTURES))
    parser.epilog = "structures that come with the package:\n" + "".join(
        f"  {name:{width}}  {what}\n" for name, what in STRUCTURES.items()
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add what says which model."""
    parser.add_argument(
        "--model",
        required=True,
        help="embedded, the model that comes with the package; name of a foundation model (small, "
        "...), downloaded once; file of save_model, or mace-torch checkpoint",
    )
    parser.add_argument("--head", help="head of a multi-head model")
    parser.add_argument(
        "--dispersion",
        nargs="?",
        const="pbe",
        metavar="FUNCTIONAL",
        help="add D3 dispersion with Becke-Johnson damping, for the functional that the model was "
        "fitted to (%(const)s if none is named)",
    )
    parser.add_argument("--dtype", choices=list(DTYPES), default="float64")


def check_options(options: argparse.Namespace, outputs: Sequence[Path | None]) -> None:
    """Refuse bad options before anything long starts.

    Args:
        options: Of a verb with the shared options, --temperatures and --figure.
        outputs: The other files that it is to write.

    Raises:
        ValueError: If an option is bad.
    """
    check_temperatures(options)
    check_limits(options)
    if options.relaxed is not None and not options.relax:
        raise ValueError("--relaxed needs --relax")
    if options.figure is not None and options.figure.suffix.lower() not in FIGURES:
        raise ValueError(f"--figure takes a name in {', '.join(FIGURES)}, not {options.figure}")
    check_outputs(options.relaxed, options.figure, *outputs)


def check_temperatures(options: argparse.Namespace) -> None:
    """Refuse temperatures below zero."""
    if any(not t >= 0 for t in options.temperatures):
        raise ValueError("temperatures must be zero or positive, in K")


def check_limits(options: argparse.Namespace) -> None:
    """Refuse a relaxation that could not end, or begin."""
    if not options.fmax > 0 or options.max_steps < 1:
        raise ValueError("--fmax and --max-steps must be positive")


def check_outputs(*paths: Path | None) -> None:
    """Refuse files that could not be written."""
    for path in paths:
        if path is not None:
            folder = path.resolve().parent
            if not os.access(folder, os.W_OK):
                raise ValueError(f"there is no folder {folder} that {path.name} can be written to")


def load(options: argparse.Namespace, console: Console) -> Model:
    """Load the model."""
    with console.status(f"loading {options.model}"):
        return load_model(
            options.model,
            dtype=DTYPES[options.dtype],
            device=options.device,
            head=options.head,
            dispersion=options.dispersion,
        )


def load_and_relax(
    options: argparse.Namespace, atoms: Atoms, console: Console
) -> tuple[Model, dict[str, Any] | None]:
    """Load the model and, if that was asked for, relax the structure in place.

    Returns:
        The model, and what happened in the relaxation.
    """
    model = load(options, console)
    if not options.relax:
        return model, None
    relaxation = relax_in_place(
        atoms,
        model,
        fmax=options.fmax,
        max_steps=options.max_steps,
        cell=not options.fixed_cell,
        output=options.relaxed,
        console=console,
    )
    return model, relaxation
