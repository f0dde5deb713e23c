"""Parts of frameworks: linkers from SMILES strings, and their placement between two points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from rdkit import Chem
from rdkit.Chem import AllChem


@dataclass(frozen=True)
class End:
    """A group at both ends of a linker, which is there to give the linker its geometry.

    The linker's SMILES string is written between those of the group at the left and at the right.
    """

    left: str
    right: str
    left_atoms: tuple[int, ...]
    """Atoms whose mean position is the start of the axis; numbers within `left`."""
    right_atoms: tuple[int, ...]
    """Atoms whose mean position is the end of the axis; numbers within `right`."""
    across: tuple[int, int]
    """Two atoms of `left`; the vector between them fixes the rotation about the axis."""
    kept: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    """Atoms of `left` and `right` that are part of the linker."""


@dataclass(frozen=True)
class Linker:
    """Atoms between two points."""

    atoms: Atoms
    start: np.ndarray
    end: np.ndarray
    side: np.ndarray
    """Vector that fixes the rotation about the axis; it need not be perpendicular to it."""

    @property
    def length(self) -> float:
        """Distance between the two points, Å."""
        return float(np.linalg.norm(self.end - self.start))

    def between(self, start: np.ndarray, end: np.ndarray, side: np.ndarray) -> Atoms:
        """Return the atoms, centred between two points.

        Args:
            start: The point to which the start belongs, Å.
            end: The point to which the end belongs, Å.
            side: Vector to which the linker's `side` turns.
        """
        turn = _axes(self.end - self.start, self.side).T @ _axes(end - start, side)
        placed = self.atoms.copy()
        centred = placed.positions - (self.start + self.end) / 2
        placed.positions = centred @ turn + (start + end) / 2
        return placed


CARBOXYLATE = End("OC(=O)", "C(=O)O", (1,), (0,), (0, 2))
"""The axis goes from one carboxylate carbon to the other, the side from O to O."""

_RING = (0, 1, 2, 3, 4, 5)

BENZENE = End("c1ccc(cc1)", "c1ccccc1", _RING, _RING, (2, 4), ((3,), (0,)))
"""The axis goes from the centre of one ring to that of the other; two ring atoms are kept."""

TRIAZINE = End("c1ncnc(n1)", "c1ncncn1", _RING, _RING, (3, 5), ((4,), (0,)))
"""The axis and the atoms that are kept are as those of `BENZENE`."""


def linker(end: End, smiles: str) -> Linker:
    """Return a flat linker without the groups at its ends, but with their atoms that are kept.

    Args:
        end: The group at both ends.
        smiles: SMILES string of the linker; its last open atom carries the right group.
    """
    whole = end.left + smiles + end.right
    total = _heavy_atoms(whole)
    first, last = _heavy_atoms(end.left), total - _heavy_atoms(end.right)
    kept = {*end.kept[0], *range(first, last), *(last + k for k in end.kept[1])}
    right = [last + k for k in end.right_atoms]
    return _fragment(_planar(whole), list(end.left_atoms), right, end.across, kept)


def chain(node: str, smiles: str) -> Linker:
    """Return a linker between two atoms that form four bonds, without these.

    Args:
        node: Element of the two atoms, between which the axis goes.
        smiles: SMILES string of the linker.
    """
    whole = f"[{node}H3]{smiles}[{node}H3]"
    last = _heavy_atoms(whole) - 1
    mol = _in_space(whole)
    # The atom that is farthest from the axis lies in the plane of a ring, where there is one.
    positions = mol.GetConformer().GetPositions() - mol.GetConformer().GetPositions()[0]
    far = int(np.argmax(np.linalg.norm(np.cross(positions, positions[last]), axis=1)))
    return _fragment(mol, [0], [last], (0, far), set(range(1, last)))


def pillar(smiles: str) -> Linker:
    """Return a molecule that binds with two nitrogen atoms, between which the axis goes.

    Args:
        smiles: SMILES string of the molecule, with its first atom a nitrogen.
    """
    mol = _in_space(smiles)
    start, end = (a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() == 7)
    return _fragment(mol, [start], [end], (start, start + 1), set(range(mol.GetNumAtoms())))


def _fragment(
    mol: Chem.Mol, start: list[int], end: list[int], across: tuple[int, int], kept: set[int]
) -> Linker:
    """Return some atoms of a molecule, with their hydrogen."""
    positions = mol.GetConformer().GetPositions()
    atoms = [a for a in mol.GetAtoms() if _heavy_atom(a) in kept]
    return Linker(
        Atoms([a.GetSymbol() for a in atoms], positions[[a.GetIdx() for a in atoms]]),
        positions[start].mean(0),
        positions[end].mean(0),
        positions[across[1]] - positions[across[0]],
    )


def _planar(smiles: str) -> Chem.Mol:
    """Return a molecule that is relaxed from a flat drawing, so that it stays flat.

    Conformers in space of conjugated linkers are often twisted, and too high for stacked layers.
    """
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.Compute2DCoords(mol)
    AllChem.MMFFOptimizeMolecule(mol, maxIters=2000)
    return mol


def _in_space(smiles: str) -> Chem.Mol:
    """Return a molecule in space, relaxed with a force field."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=0)
    if AllChem.MMFFHasAllMoleculeParams(mol):
        AllChem.MMFFOptimizeMolecule(mol, maxIters=2000)
    else:
        AllChem.UFFOptimizeMolecule(mol, maxIters=2000)
    return mol


def _heavy_atoms(smiles: str) -> int:
    return int(Chem.MolFromSmiles(smiles).GetNumAtoms())


def _heavy_atom(atom: Chem.Atom) -> int:
    """Return the number of an atom, or of the atom to which a hydrogen is bonded."""
    owner = atom if atom.GetAtomicNum() > 1 else atom.GetNeighbors()[0]
    return int(owner.GetIdx())


def _axes(axis: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Return three perpendicular unit vectors as rows: the axis, the side, and the third one."""
    x = axis / np.linalg.norm(axis)
    y = side - (side @ x) * x
    y /= np.linalg.norm(y)
    return np.array([x, y, np.cross(x, y)])
