"""Changes of the linkers of a framework: other spacers, nitrogen for CH, groups for H."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list
from fragments import CARBOXYLATE, linker

from mace_functional.structure.connectivity import Parts

TOLERANCE = 1.2
"""Two atoms are bonded up to this multiple of the sum of their covalent radii."""

GROUPS: dict[str, tuple[tuple[str, float, float, float], ...]] = {
    "NH2": (("N", 1.38, 0, 0), ("H", 1.88, 0.87, 0), ("H", 1.88, -0.87, 0)),
    "OH": (("O", 1.36, 0, 0), ("H", 1.68, 0.91, 0)),
    "CH3": (
        ("C", 1.51, 0, 0), ("H", 1.88, 1.03, 0), ("H", 1.88, -0.51, 0.89),
        ("H", 1.88, -0.51, -0.89),
    ),
    "Cl": (("Cl", 1.74, 0, 0),),
    "NO2": (("N", 1.47, 0, 0), ("O", 2.03, 0, 1.08), ("O", 2.03, 0, -1.08)),
}  # fmt: skip
"""Atoms of groups: element and position, Å.

The first coordinate is along the bond, the second in the plane of the ring.
"""


@dataclass(frozen=True)
class Bonds:
    """Bonds of a periodic structure; each one is listed in both directions."""

    first: np.ndarray
    second: np.ndarray
    images: np.ndarray
    """Cell of the second atom relative to that of the first, of integers."""

    @staticmethod
    def of(atoms: Atoms) -> Bonds:
        """Find the bonds from the distances."""
        return Bonds(*neighbor_list("ijS", atoms, natural_cutoffs(atoms, mult=TOLERANCE)))

    def neighbours(self, atom: int) -> np.ndarray:
        """Return the atoms that are bonded to an atom."""
        return self.second[self.first == atom]


@dataclass
class Part:
    """A connected part of a framework."""

    cells: dict[int, np.ndarray]
    """For each atom, the cell in which it is connected to the part's first atom."""
    periods: np.ndarray
    """Lattice vectors, as integers, along which the part goes on without end, (k, 3)."""


def parts(bonds: Bonds, atoms: set[int]) -> list[Part]:
    """Return the connected parts of some of the atoms."""
    indices = np.array(sorted(atoms))
    kept = np.isin(bonds.first, indices) & np.isin(bonds.second, indices)
    first, second = (np.searchsorted(indices, ends[kept]) for ends in (bonds.first, bonds.second))
    found = Parts.of_edges(len(indices), second, first, bonds.images[kept])
    return [
        Part({int(indices[k]): found.cells[k] for k in members}, periods)
        for members, periods in zip(found.atoms(), found.translations, strict=True)
    ]


def with_spacer(framework: Atoms, smiles: str) -> Atoms:
    """Return a framework with other spacers between the carboxylate groups of its linkers.

    The nodes, with the carboxylate groups, move as rigid bodies. The directions of the linkers stay
    as far as the lattice allows, which becomes smaller or larger.

    Args:
        framework: A framework whose linkers all have two carboxylate groups.
        smiles: SMILES string of the spacer, without the carboxylate groups.
    """
    new = linker(CARBOXYLATE, smiles)
    bonds = Bonds.of(framework)
    carbons = {k for k in range(len(framework)) if _is_carboxylate(framework, bonds, k)}
    rest = parts(bonds, set(range(len(framework))) - carbons)
    spacers = [p for p in rest if any(framework.numbers[k] == 6 for k in p.cells)]
    removed = {k for p in spacers for k in p.cells}
    nodes = parts(bonds, set(range(len(framework))) - removed)
    ends = [_ends(bonds, spacer, carbons) for spacer in spacers]
    cell, shifts = _fitted(framework, nodes, ends, new.length)

    atoms = Atoms(cell=cell, pbc=True)
    at: dict[int, np.ndarray] = {}
    for node, shift in zip(nodes, shifts, strict=True):
        for k, image in node.cells.items():
            at[k] = framework.positions[k] + image @ framework.cell.array + shift
            atoms += Atoms([framework.symbols[k]], [at[k]])
    home = {k: image for node in nodes for k, image in node.cells.items()}
    for (p, p_cell), (q, q_cell) in ends:
        o1, o2 = (k for k in bonds.neighbours(p) if framework.numbers[k] == 8)
        start, end = at[p] + (p_cell - home[p]) @ cell, at[q] + (q_cell - home[q]) @ cell
        atoms += new.between(start, end, at[o2] - at[o1])
    return atoms


def _is_carboxylate(atoms: Atoms, bonds: Bonds, k: int) -> bool:
    around = sorted(atoms.numbers[bonds.neighbours(k)])
    return atoms.numbers[k] == 6 and around == [6, 8, 8]


_Ends = list[tuple[int, np.ndarray]]


def _ends(bonds: Bonds, spacer: Part, carbons: set[int]) -> _Ends:
    """Return the two carboxylate carbons of a spacer, each with its cell."""
    return [
        (int(bonds.second[k]), spacer.cells[int(bonds.first[k])] + bonds.images[k])
        for k in range(len(bonds.first))
        if int(bonds.first[k]) in spacer.cells and int(bonds.second[k]) in carbons
    ]


def _fitted(
    framework: Atoms, nodes: list[Part], ends: list[_Ends], length: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lattice and the shifts of the nodes with which all linkers have a given length.

    The unknowns of the linear equations are the changes of the lattice and the shifts; the solution
    with the smallest changes is taken.

    Args:
        framework: The framework as it is.
        nodes: Its nodes; the periods of those without end stay.
        ends: The two carboxylate carbons of each linker.
        length: Their new distance, Å.
    """
    old = framework.cell.array
    node_of = {k: n for n, node in enumerate(nodes) for k in node.cells}
    home = {k: image for node in nodes for k, image in node.cells.items()}
    rows, values = [], []
    for (p, p_cell), (q, q_cell) in ends:
        vector = framework.positions[q] + q_cell @ old - framework.positions[p] - p_cell @ old
        row = np.zeros(3 + len(nodes))
        row[:3] = (q_cell - home[q]) - (p_cell - home[p])
        row[3 + node_of[q]] += 1
        row[3 + node_of[p]] -= 1
        rows.append(row)
        values.append((length / np.linalg.norm(vector) - 1) * vector)
    for period in (period for node in nodes for period in node.periods):
        rows.append(np.concatenate([period, np.zeros(len(nodes))]))
        values.append(np.zeros(3))
    solution = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return old + solution[:3], solution[3:]


def with_groups(framework: Atoms, edits: Sequence[str], seed: int = 0) -> Atoms:
    """Return a framework whose linkers are edited at a CH that is drawn at random.

    Args:
        framework: The framework.
        edits: For each linker "N", which replaces CH, or a key of `GROUPS`, which replaces H; the
            edits repeat if there are more linkers.
        seed: Seed of the random choice.
    """
    rng = np.random.default_rng(seed)
    bonds = Bonds.of(framework)
    organic = {k for k, z in enumerate(framework.numbers) if z in (1, 6, 7)}
    sites = [
        [k for k in sorted(part.cells) if _is_ring_ch(framework, bonds, k)]
        for part in parts(bonds, organic)
    ]
    atoms, removed = framework.copy(), []
    for n, choices in enumerate(s for s in sites if s):
        edit, site = edits[n % len(edits)], int(rng.choice(choices))
        hydrogen = next(k for k in bonds.neighbours(site) if framework.numbers[k] == 1)
        removed.append(hydrogen)
        if edit == "N":
            atoms.symbols[site] = "N"
        else:
            atoms += _group(framework, bonds, site, edit)
    del atoms[removed]
    return atoms


def _is_ring_ch(atoms: Atoms, bonds: Bonds, k: int) -> bool:
    around = sorted(atoms.numbers[bonds.neighbours(k)])
    return atoms.numbers[k] == 6 and len(around) == 3 and around[0] == 1 and around[1] in (6, 7)


def _group(atoms: Atoms, bonds: Bonds, site: int, group: str) -> Atoms:
    """Return the atoms of a group at a carbon atom with two neighbours in the ring."""
    ring = [k for k in bonds.neighbours(site) if atoms.numbers[k] != 1]
    to_ring = atoms.get_distances(site, ring, mic=True, vector=True)
    out = -to_ring.sum(0) / np.linalg.norm(to_ring.sum(0))
    normal = np.cross(*to_ring)
    normal /= np.linalg.norm(normal)
    axes = np.array([out, np.cross(normal, out), normal])
    symbols = [symbol for symbol, *_ in GROUPS[group]]
    places = np.array([place for _, *place in GROUPS[group]])
    return Atoms(symbols, atoms.positions[site] + places @ axes)
