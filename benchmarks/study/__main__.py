"""Command line of the study: it runs one part or all parts, or the notebook with all data."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from rich.console import Console

from benchmarks.hessian import ROOT
from benchmarks.study import accuracy, finite_size, reference, relaxed, rounding, timing
from benchmarks.study.plan import (
    Plan,
    Result,
    default_models,
    default_structures,
    structures_of,
)
from mace_functional.support.atomic_write import atomic_write

PARTS: dict[str, ModuleType] = {
    "accuracy": accuracy,
    "time": timing,
    "finite-size": finite_size,
    "reference": reference,
    "rounding": rounding,
    "relaxed": relaxed,
}
NOTEBOOK = ROOT / "notebooks" / "heat_capacity_study.ipynb"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study",
        description="Repeat the published study of heat capacities with this package. Results are "
        "kept in the output folder and not measured again.",
    )
    add = parser.add_argument
    add(
        "part",
        choices=[*PARTS, "all", "notebook"],
        help="part of the study, or the notebook with all data",
    )
    add(
        "--output",
        type=Path,
        default=Path("study-results"),
        help="folder for results (%(default)s)",
    )
    add(
        "--structures",
        nargs="+",
        help="files, folders, or names of example structures; by default the structures of the "
        "study, for `relaxed` in their published geometries",
    )
    add("--model", nargs="+", help="names or files of models (MACE-MP-0 small and MACE-DAC-1)")
    add(
        "--forces",
        choices=list(accuracy.FORCES),
        default="mace_functional",
        help="source of the forces for the differences of `accuracy` (%(default)s)",
    )
    add("--device", default="cpu", help="cpu, cuda, ... (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        if options.part == "notebook":
            render(options.output)
            return
        for part in PARTS if options.part == "all" else [options.part]:
            _run(part, options)
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command continues the study")
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


def _run(part: str, options: argparse.Namespace) -> None:
    """Measure missing results, and update the tables and the figure after each."""
    console = Console(stderr=True, highlight=False)
    plan = Plan(
        structures=structures_of(options.structures or default_structures(part)),
        models=options.model or default_models(part),
        output=options.output,
        device=options.device,
        forces=options.forces,
        say=lambda line: console.print(line, markup=False),
    )
    results: list[Result] = []
    for result in PARTS[part].run(plan):
        results.append(result)
        write(part, results, options.output)
    if results:
        print("\n\n".join(PARTS[part].tables(results)), end="\n\n")


def write(part: str, results: Sequence[Result], folder: Path) -> None:
    """Write the tables in Markdown, and the figure."""
    module = PARTS[part]
    with atomic_write(folder / f"{part}.md") as partial:
        partial.write_text("\n\n".join(module.tables(results)) + "\n")
    with atomic_write(folder / f"{part}.png") as partial:
        module.figure(results).savefig(partial, dpi=200)


def render(folder: Path) -> None:
    """Run the notebook with all data, on the results in a folder, and write it there.

    Raises:
        ImportError: If nbclient is not installed.
    """
    try:
        import nbclient
        import nbformat
    except ImportError as error:
        raise ImportError(
            "running the notebook needs nbclient and nbformat: install both"
        ) from error

    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "MACE_FUNCTIONAL_STUDY": "full",
        "MACE_FUNCTIONAL_STUDY_RESULTS": str(folder.resolve()),
    }
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    client = nbclient.NotebookClient(notebook, timeout=None, resources=resources)
    client.execute(env=os.environ | environment)
    with atomic_write(folder / NOTEBOOK.name) as partial:
        nbformat.write(notebook, partial)
    print(f"written: {folder / NOTEBOOK.name}")


if __name__ == "__main__":
    main()
