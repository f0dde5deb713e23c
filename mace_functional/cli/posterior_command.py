"""`mace-functional posterior`: how uncertain the weights of a model are."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mace_functional.cli.console import Console
from mace_functional.cli.label_options import all_labels, read_labels
from mace_functional.cli.loaded_models import load
from mace_functional.cli.output_files import write_json
from mace_functional.cli.printed_results import print_written
from mace_functional.training import LabelledStructure
from mace_functional.training.held_back import held_back
from mace_functional.uncertainty import Calibration, fit_posterior
from mace_functional.uncertainty.fitted_posterior import LAST_LAYER


def run(options: argparse.Namespace) -> None:
    """Fit and calibrate the distribution, write the files and print how it covers errors."""
    console = Console(stderr=True)
    data, held = _parts(options)
    model: Any = load(options, console)
    weights = LAST_LAYER if options.weights is None else options.weights.split(",")
    posterior, calibration = fit_posterior(
        model, data, held, weights=weights, kind=options.kind, progress=console.is_terminal
    )
    posterior.save(options.output)
    results = {
        "model": str(options.model),
        "structures": len(data),
        "calibration_structures": len(held),
        "weights": list(posterior.names),
        "numbers": posterior.factor.shape[0],
        **asdict(calibration),
    }
    if options.json is not None:
        write_json(options.json, results)
    _print(results, calibration)
    print_written(console, options.output, options.json)


def _parts(
    options: argparse.Namespace,
) -> tuple[list[LabelledStructure], list[LabelledStructure]]:
    """Return the structures to fit and those to calibrate on."""
    data = all_labels(options)
    if options.calibration is not None:
        return data, read_labels(options, options.calibration)
    if len(data) < 2:
        raise ValueError("one structure cannot be split: give --calibration, or more structures")
    rng = np.random.default_rng(options.seed)
    return held_back(data, options.fraction, rng)


def _print(results: dict[str, Any], calibration: Calibration) -> None:
    """Print what was fitted, and how it covers the errors, to standard output."""
    console = Console()
    console.print(f"model       {results['model']}")
    console.print(f"data        {results['structures']} structures")
    console.print(f"uncertain   {results['numbers']} numbers in {', '.join(results['weights'])}")
    table = Table(
        title=f"{results['calibration_structures']} structures, calibrated on {calibration.kind}",
        caption="z: error over its standard deviation; 68 % and 95 % of normal errors are within",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in ("", "labels", "rms z", "within 1", "within 2"):
        table.add_column(heading, justify="right" if heading else "left")
    for kind, n in calibration.n_labels.items():
        shares = (f"{share:.1%}" for share in calibration.within[kind])
        table.add_row(kind, str(n), f"{calibration.rms_z[kind]:.2f}", *shares)
    console.print(table)
