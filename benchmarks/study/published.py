"""Published results, for comparison with ours.

Sources: means over the data (MIT) of Gönnheimer, Reuter, Margraf, J. Chem. Theory Comput. 2025, 21,
4742; relaxed geometries and heat capacities of supercells: Zenodo 10.5281/zenodo.22813524
(CC-BY-4.0); `reference.csv`: DFT heat capacities of Moosavi et al., Nat. Mater. 2022, 21, 1419
(CC-BY-4.0), and the heat capacities of the first source at 300 K.

Published protocol: MACE-MP-0 medium with D3(BJ, PBE), float64, relaxed to 0.005 eV/Å, Gamma only,
without modes below 1e-3 cm-1.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from mace_functional.screening.references import Reference, read_references

REFERENCE = Path(__file__).with_name("reference.csv")
"""File of heat capacities by DFT and by MACE-MP-0 medium with D3, J/(g K)."""

TIMES = {
    22: (2.51, 5.93),
    44: (4.45, 9.31),
    88: (10.95, 17.66),
    132: (20.16, 29.64),
    176: (32.9, 86.2),
    264: (68.3, 181.6),
    396: (145.8, 372.6),
    594: (317.7, 677.0),
    792: (554.7, 1071.0),
    1056: (974.5, 1738.0),
    1408: (1714.0, 2846.0),
}
"""Times of an exact Hessian and of 6N force calls on an A100, s, by atoms in RSM0011 supercells."""


class Error(NamedTuple):
    """Mean absolute and largest error of a Hessian, eV/Å²."""

    mean: float
    largest: float


DIFFERENCES = {
    "float64": {
        1e-2: Error(4.5e-4, 0.44),
        1e-3: Error(4.8e-6, 5.3e-3),
        1e-4: Error(4.8e-8, 5.3e-5),
        1e-5: Error(5.2e-10, 5.3e-7),
        1e-6: Error(7.2e-10, 5.7e-8),
    },
    "float32": {
        1e-2: Error(4.6e-4, 0.44),
        1e-3: Error(2.2e-4, 0.030),
        1e-4: Error(2.1e-3, 0.25),
        1e-5: Error(0.018, 2.3),
        1e-6: Error(0.17, 21.5),
    },
}
"""Errors of central differences by step, Å; means over ten structures of 38 to 218 atoms."""

SINGLE = Error(7.0e-7, 4.1e-4)
"""Errors of the exact Hessian in float32; means over the same structures."""

SUPERCELL = {
    "RSM0004": (0.5636546498193961, 0.6387595194568401),
    "RSM0010": (0.7269744639297977, 0.7786022764486236),
    "RSM0011": (0.7422853515457829, 0.8009195987536093),
    "RSM0020": (0.8296373918691352, 0.8847782672029171),
}
"""Heat capacities at 300 K of the unit cell and the 2x2x2 supercell, J/(g K)."""

SUPERCELL_MEAN, SUPERCELL_CORRELATION, SUPERCELL_COUNT = 0.0254, 0.979, 209
"""Mean of their difference, J/(g K), its correlation with 3R(7/8)/M, and number of structures."""

RELATIVE_ERRORS = {"all": 10.35, "MOF": 10.4, "COF": 15.1, "zeo": 3.5}
"""Mean relative error to DFT at 300 K, %, of 232 structures and of each class."""

SCALE, SCALED_ERROR = 1.181, 3.15
"""Best common scale of all frequencies, and the mean relative error with this scale, %."""

SINGLE_HEAT = 7e-8
"""Median relative change of Cv from float64 to float32 (Langer, Hill, Ceriotti 2026)."""

DFT_COLUMNS = tuple(f"dft_cv_{t}K" for t in (250, 275, 300, 325, 350, 375, 400))
"""Columns of `REFERENCE` with heat capacities by DFT, one for each temperature."""


def dft() -> list[Reference]:
    """Read the heat capacities by DFT, for each temperature."""
    return read_references(REFERENCE, DFT_COLUMNS)


def medium_d3() -> Reference:
    """Read the heat capacities by MACE-MP-0 medium with D3 at 300 K."""
    return read_references(REFERENCE, ["mace_mp0_medium_d3_cv_300K"])[0]


def kinds() -> dict[str, str]:
    """Read the class of each structure by its name: "MOF", "COF" or "zeo"."""
    return _column("type")


def masses() -> dict[str, float]:
    """Read the mass of the cell of each structure by its name, amu."""
    return {name: float(mass) for name, mass in _column("mass_amu").items()}


def _column(heading: str) -> dict[str, str]:
    """Read a column of `REFERENCE` by the names of the structures."""
    with REFERENCE.open(newline="") as lines:
        return {row["name"]: row[heading] for row in csv.DictReader(lines)}
