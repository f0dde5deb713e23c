"""The picture of the README: `python docs/heat_capacity.py RESULT.json REFERENCE.csv NAME`.

RESULT.json comes from `mace-functional thermo ... --temperatures 10 20 ... --json RESULT.json`, and
REFERENCE.csv holds heat capacities by density functional theory, in columns `dft_cv_300K`.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

BROADENING = 8.0
"""Standard deviation of the Gaussians of the spectrum, cm-1."""


def main(result: str, reference: str, name: str) -> None:
    """Draw the spectrum and the heat capacity."""
    data = json.loads(Path(result).read_text())
    with Path(reference).open() as lines:
        row = next(r for r in csv.DictReader(lines) if r["name"] == name)
    dft = {
        float(key.removeprefix("dft_cv_").removesuffix("K")): float(value)
        for key, value in row.items()
        if key.startswith("dft_cv_")
    }
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.9), layout="constrained")

    frequencies = np.array(data["frequencies_cm-1"])
    grid = np.linspace(0, frequencies.max() + 100, 2000)
    peaks = np.exp(-0.5 * ((grid[:, None] - frequencies) / BROADENING) ** 2).sum(1)
    left.fill_between(grid, peaks, color="#3b6ea5", alpha=0.35, lw=0)
    left.plot(grid, peaks, color="#3b6ea5", lw=0.9)
    left.vlines(frequencies, 0, -0.06 * peaks.max(), color="0.3", lw=0.6)
    left.set(xlabel="wavenumber (cm$^{-1}$)", ylabel="density of states at $\\Gamma$")
    left.set(xlim=(0, grid[-1]), ylim=(-0.07 * peaks.max(), None), yticks=[])

    right.plot(
        data["temperatures_K"],
        data["heat_capacity_J_per_gK"],
        color="#3b6ea5",
        label=f"{name}, MACE",
    )
    right.plot(list(dft), list(dft.values()), "o", ms=3.5, color="#c8553d", label="DFT")
    right.set(xlabel="temperature (K)", ylabel="$C_V$ (J g$^{-1}$ K$^{-1}$)", xlim=(0, None))
    right.set_ylim(0, None)
    right.legend(frameon=False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=160)


if __name__ == "__main__":
    main(*sys.argv[1:])
