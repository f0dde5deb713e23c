"""Draw the figure of the README: `python docs/heat_capacity.py RESULT.json REFERENCE.csv NAME`.

RESULT.json is written by `mace-functional thermo ... --json RESULT.json`. REFERENCE.csv contains
heat capacities by density functional theory, in columns such as `dft_cv_300K`.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import torch

from mace_functional.figures import thermo_figure
from mace_functional.figures.axes import RED


def main(result: str, reference: str, name: str) -> None:
    """Draw the spectrum and the heat capacity of a structure, with reference values."""
    data = json.loads(Path(result).read_text())
    with Path(reference).open() as lines:
        row = next(r for r in csv.DictReader(lines) if r["name"] == name)
    dft = {
        float(key.removeprefix("dft_cv_").removesuffix("K")): float(value)
        for key, value in row.items()
        if key.startswith("dft_cv_")
    }
    frequencies = torch.tensor(data["frequencies_cm-1"], dtype=torch.float64)
    figure = thermo_figure(frequencies, data["temperatures_K"], data["mass_amu"])
    heat_capacity = figure.axes[1]
    heat_capacity.lines[0].set_label(f"{name}, MACE")
    heat_capacity.plot(list(dft), list(dft.values()), "o", ms=3.5, color=RED, label="DFT")
    heat_capacity.legend(frameon=False, fontsize=8)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=200)


if __name__ == "__main__":
    main(*sys.argv[1:])
