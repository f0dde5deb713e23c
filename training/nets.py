"""Frameworks that are built from nodes and linkers, along the edges of a net."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from ase import Atoms
from fragments import CARBOXYLATE, End, chain, linker, pillar

LAYER_DISTANCE = 3.6
"""Distance between layers of covalent frameworks, which lie exactly above each other, Å."""

RING_RADII = {"C": 1.39, "N": 1.37, "H": 2.48}
"""Distances of atoms from the centre of a six-membered ring, Å."""


def honeycomb(end: End, element: str, smiles: str) -> Atoms:
    """Return a layered framework of six-membered rings, each joined to three others.

    Args:
        end: The rings, `BENZENE` or `TRIAZINE`.
        element: Element of the ring's atoms that carry no linker; carbon carries hydrogen.
        smiles: SMILES string of the linker between two rings.
    """
    edge = linker(end, smiles)
    a = np.sqrt(3) * edge.length
    cell = np.array([[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, LAYER_DISTANCE]])
    first, second = (2 * cell[0] + cell[1]) / 3, (cell[0] + 2 * cell[1]) / 3
    atoms = edge.between(first, second, _about_z(90) @ (second - first))
    for centre in (first, second):
        ring_carbon = np.argmin(np.linalg.norm(atoms.positions - centre, axis=1))
        out = _about_z(60) @ ((atoms.positions[ring_carbon] - centre) * [1, 1, 0])
        out /= np.linalg.norm(out)
        added = ["C", "H"] if element == "C" else [element]
        atoms += Atoms(added, [centre + RING_RADII[symbol] * out for symbol in added])
    turns = (_about_z(degrees) for degrees in (0, 120, 240))
    return _turned(atoms, turns, first, cell)


def diamond_net(node: str, smiles: str) -> Atoms:
    """Return a framework of atoms with four linkers each, in the primitive cell of diamond.

    Args:
        node: Element of the atoms, "C" or "Si".
        smiles: SMILES string of the linker between two of them.
    """
    edge = chain(node, smiles)
    second = edge.length / np.sqrt(3) * np.ones(3)
    cell = 2 * second[0] * (np.ones((3, 3)) - np.eye(3))
    atoms = edge.between(np.zeros(3), second, np.array([1.0, -1.0, 0.0]))
    turns = [np.diag(signs) for signs in ([1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1])]
    nodes = Atoms([node, node], [np.zeros(3), second])
    return _turned(atoms, turns, np.zeros(3), cell) + nodes


def paddle_wheel(spacer: str, pillar_smiles: str) -> Atoms:
    """Return a tetragonal framework of paddle wheels of two Zn with pillars between them.

    Args:
        spacer: SMILES string of the linkers in the layers, without their carboxylate groups.
        pillar_smiles: SMILES string of the pillar, with its first atom a nitrogen.
    """
    # Distances from the centre of the paddle wheel, Å.
    zinc, nitrogen, carbon, oxygen, oxygen_height = 1.48, 3.56, 2.57, 1.98, 1.12
    edge, post = linker(CARBOXYLATE, spacer), pillar(pillar_smiles)
    a, c = edge.length + 2 * carbon, post.length + 2 * nitrogen
    ends = np.array([carbon, a - carbon])
    height = np.array([0, 0, oxygen_height])
    sheet = edge.between(*np.outer(ends, [1, 0, 0]), height)
    for sign in (1, -1):
        sheet += Atoms("C", [[sign * carbon, 0, 0]])
        sheet += Atoms("O2", [np.array([sign * oxygen, 0, 0]) + s * height for s in (1, -1)])
    atoms = _turned(sheet, (_about_z(0), _about_z(90)), np.zeros(3), np.diag([a, a, c]))
    start, end = np.array([0, 0, nitrogen]), np.array([0, 0, c - nitrogen])
    atoms += post.between(start, end, np.array([1.0, 1.0, 0.0]))
    return atoms + Atoms("Zn2", [[0, 0, zinc], [0, 0, -zinc]])


def _turned(
    atoms: Atoms, turns: Iterable[np.ndarray], centre: np.ndarray, cell: np.ndarray
) -> Atoms:
    """Return a crystal of copies of some atoms, each one turned about a centre."""
    crystal = Atoms(cell=cell, pbc=True)
    for turn in turns:
        copy = atoms.copy()
        copy.positions = (atoms.positions - centre) @ turn.T + centre
        crystal += copy
    return crystal


def _about_z(degrees: float) -> np.ndarray:
    """Return the matrix of a rotation about z."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
