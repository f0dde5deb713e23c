"""Structures of the benchmark of fine-tuning: two families, and what each is used for.

`silica` has seven forms to train on, whose Hessian products the embedded model was trained on
before. `polytypes` has stackings of silicon carbide, aluminium nitride and zinc oxide. Those held
out were chosen before the first training, and never used to choose anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal

import mace_functional as mf

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MACE_FUNCTIONAL_SHARED", ROOT.parent / "shared"))
FRAMEWORKS = SHARED / "heatcapacity" / "structures"

SI_SI = 3.08
"""Distance of neighbouring silicon atoms in silica, Å."""

RIGHT, HEXAGONAL = [90, 90, 90], [90, 90, 120]


def silica_to_train() -> Iterator[tuple[str, Atoms]]:
    """Yield the forms of silica to train on, with approximate coordinates."""
    yield "alpha-cristobalite", built(92, 4.971, 6.923, Si=(0.3, 0.3, 0), O=(0.239, 0.104, 0.179))
    yield "beta-cristobalite", silica(bulk("Si", "diamond", 5.43))
    yield "beta-quartz", built(180, 4.998, 5.46, Si=(0.5, 0, 0), O=(0.207, 0.414, 0.5))
    yield "tridymite", silica(stacked("AB"))
    yield "stishovite", built(136, 4.18, 2.667, Si=(0, 0, 0), O=(0.306, 0.306, 0)).repeat((1, 1, 2))
    yield "sodalite", built(229, 8.965, None, Si=(0.25, 0.5, 0), O=(0.147, 0.147, 0.5))
    yield (
        "coesite",
        crystal(
            ["Si", "Si", "O", "O", "O", "O", "O"],
            [
                *(
                    (0.1403, 0.1083, 0.0723),
                    (0.5068, 0.1580, 0.5407),
                    (0, 0, 0),
                    (0.5, 0.1163, 0.75),
                ),
                *((0.2661, 0.1234, 0.9401), (0.3114, 0.1038, 0.3280), (0.0175, 0.2117, 0.4784)),
            ],
            spacegroup=15,
            cellpar=[7.1356, 12.3692, 7.1736, 90, 120.34, 90],
            primitive_cell=True,
        ),
    )


def silica_held_out() -> Iterator[tuple[str, Atoms]]:
    """Yield the forms of silica that are held out."""
    yield "alpha-quartz", mf.example_structure("quartz")
    yield "BCT", silica(built(139, 4.33, 2.48, Si=(0.18, 0.18, 0)))
    yield "BC8", silica(built(206, 6.64, None, Si=(0.1003, 0.1003, 0.1003)))
    yield (
        "keatite",
        silica(built(96, 5.62, 6.82, Si=(0.0912, 0.0912, 0), Si1=(0.173, 0.378, 0.254))),
    )
    yield "4H", silica(stacked("ABCB"))
    yield "LTA", built(
        221, 11.87, None,
        Si=(0, 0.183, 0.37), O=(0, 0.222, 0.5), O1=(0, 0.297, 0.297), O2=(0.11, 0.11, 0.345),
    )  # fmt: skip
    yield "AFI", ase.io.read(FRAMEWORKS / "AFI.cif")
    yield (
        "seifertite",
        crystal(
            ["Si", "O"],
            [(0, 0.1522, 0.25), (0.7336, 0.6245, 0.9186)],
            spacegroup=60,
            cellpar=[4.097, 5.046, 4.495, 90, 90, 90],
        ),
    )


def silica_to_calibrate() -> Iterator[tuple[str, Atoms]]:
    """Yield the forms of silica by which error bars are calibrated."""
    yield "5H", silica(stacked("ABABC"))
    yield "6H", silica(stacked("ABCACB"))
    cell = crystal(
        ["Si", "O"],
        [(0, 0, 0), (0.29, 0.32, 0)],
        spacegroup=58,
        cellpar=[4.1, 4.25, 2.67, 90, 90, 90],
    )
    yield "CaCl2", cell.repeat((1, 1, 2))


def built(group: int, a: float, c: float | None, **sites: tuple[float, float, float]) -> Atoms:
    """Return the primitive cell of a tetragonal, hexagonal or cubic crystal."""
    angles = HEXAGONAL if 168 <= group < 195 else RIGHT
    return crystal(
        [name.rstrip("0123456789") for name in sites],
        list(sites.values()),
        spacegroup=group,
        cellpar=[a, a, c or a, *angles],
        primitive_cell=True,
    )


def silica(net: Atoms) -> Atoms:
    """Return the silica of a net of silicon atoms: scaled, with oxygen on each bond."""
    net = net.copy()
    shortest = neighbor_list("d", net, 3.2).min()
    net.set_cell(net.cell * (SI_SI / shortest), scale_atoms=True)
    i, vectors = neighbor_list("iD", net, 1.25 * SI_SI)
    if len(i) != 4 * len(net):
        raise ValueError(f"{net} has {len(i)} bonds, not four for each atom")
    middles = net.positions[i] + vectors / 2
    fractions = np.round(net.cell.scaled_positions(middles) % 1.0, 6) % 1.0
    oxygen = np.unique(fractions, axis=0)
    return net + Atoms(f"O{len(oxygen)}", net.cell.cartesian_positions(oxygen))


def stacked(layers: str, elements: tuple[str, str] = ("Si", "Si"), a: float = 3.84) -> Atoms:
    """Return a tetrahedral crystal of double layers in a sequence, such as "ABC" for diamond.

    Args:
        layers: Sequence of the layers.
        elements: Elements of the lower and the upper atoms of the double layers.
        a: Distance of the atoms of a layer, Å.
    """
    places = {"A": (0, 0), "B": (1 / 3, 2 / 3), "C": (2 / 3, 1 / 3)}
    n = len(layers)
    scaled = []
    for k, layer in enumerate(layers):
        above = layers[(k + 1) % n]
        scaled += [(*places[layer], k / n), (*places[above], (k + 0.25) / n)]
    cell = a * np.array([[1, 0, 0], [-0.5, 0.75**0.5, 0], [0, 0, n * (2 / 3) ** 0.5]])
    return Atoms(list(elements) * n, scaled_positions=scaled, cell=cell, pbc=True)


COMPOUNDS = {"SiC": (("Si", "C"), 3.08), "AlN": (("Al", "N"), 3.11), "ZnO": (("Zn", "O"), 3.25)}
"""Compounds with their elements and the distance of equal atoms, Å."""

STACKINGS = {
    "2H": "AB",
    "3C": "ABC",
    "4H": "ABCB",
    "5H": "ABCBC",
    "6H": "ABCACB",
    "9R": "ABABCBCAC",
    "15R": "ABCACBCABACABCB",
}
"""Stackings by their names of Ramsdell."""


def polytypes(*names: str) -> Iterator[tuple[str, Atoms]]:
    """Yield polytypes by name, such as "SiC-4H"."""
    for name in names:
        compound, stacking = name.split("-")
        elements, a = COMPOUNDS[compound]
        yield name, stacked(STACKINGS[stacking], elements, a)


def polytypes_to_train() -> Iterator[tuple[str, Atoms]]:
    """Yield the two simplest stackings of each compound, in supercells along and across the layers.

    A cell of one period sees only sums of the forces between its layers. The supercells along the
    stacking tell them apart.
    """
    for name, atoms in polytypes(*(f"{c}-{s}" for c in COMPOUNDS for s in ("2H", "3C"))):
        yield f"{name}-across", atoms.repeat((2, 2, 1) if name.endswith("2H") else (2, 1, 1))
        yield f"{name}-along", atoms.repeat((1, 1, 3) if name.endswith("2H") else (1, 1, 2))


def polytypes_held_out() -> Iterator[tuple[str, Atoms]]:
    """Yield the polytypes that are held out."""
    compounds = ("SiC-4H", "SiC-6H", "SiC-15R", "AlN-4H", "AlN-6H", "AlN-15R", "ZnO-4H", "ZnO-6H")
    return polytypes(*compounds)


def polytypes_to_calibrate() -> Iterator[tuple[str, Atoms]]:
    """Yield the polytypes by which options are chosen and error bars calibrated."""
    return polytypes("SiC-5H", "AlN-5H", "ZnO-5H", "SiC-9R", "AlN-9R", "ZnO-9R")


class Family(NamedTuple):
    """Structures to train on, to calibrate and choose with, and held out; and how many of each.

    Attributes:
        training: Structures to train on.
        calibration: Structures by which options are chosen and error bars calibrated.
        held_out: Structures that are used for nothing but the test.
        configurations: Number of rattled configurations of each structure to train on.
    """

    training: Callable[[], Iterator[tuple[str, Atoms]]]
    calibration: Callable[[], Iterator[tuple[str, Atoms]]]
    held_out: Callable[[], Iterator[tuple[str, Atoms]]]
    configurations: int


FAMILIES = {
    "silica": Family(silica_to_train, silica_to_calibrate, silica_held_out, 18),
    "polytypes": Family(polytypes_to_train, polytypes_to_calibrate, polytypes_held_out, 3),
}
"""Families by name."""
