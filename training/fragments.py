"""Parts of frameworks: linkers from SMILES strings, and their placement between two points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from rdkit import Chem
from rdkit.Chem import AllChem

CONFORMERS = 10
"""Number of conformers, of which the most extended one becomes the linker."""


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
    across: tuple[int, int] | None = None
    """Two atoms of `left`; the vector between them fixes the rotation about the axis."""


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

AMINE = End("[NH2]", "[NH2]", (0,), (0,))
"""The axis goes from one nitrogen atom to the other."""

BENZENE = End("c1ccc(cc1)", "c1ccccc1", (0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5), (2, 4))
"""The axis goes from the centre of one ring to that of the other."""

TRIAZINE = End("c1ncnc(n1)", "c1ncncn1", (0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5), (3, 5))
"""The axis goes from the centre of one ring to that of the other."""


def linker(end: End, smiles: str) -> Linker:
    """Return a linker without the groups at its ends.

    Args:
        end: The group at both ends.
        smiles: SMILES string of the linker; its last open atom carries the right group.
    """
    mol = Chem.AddHs(Chem.MolFromSmiles(end.left + smiles + end.right))
    heavy = sum(atom.GetAtomicNum() > 1 for atom in mol.GetAtoms())
    first = Chem.MolFromSmiles(end.left).GetNumAtoms()
    last = heavy - Chem.MolFromSmiles(end.right).GetNumAtoms()
    left, right = list(end.left_atoms), [last + k for k in end.right_atoms]
    positions = max(
        _conformers(mol), key=lambda x: np.linalg.norm(x[left].mean(0) - x[right].mean(0))
    )
    kept = [
        atom.GetIdx()
        for atom in mol.GetAtoms()
        if first <= (atom.GetIdx() if atom.GetIdx() < heavy else _parent(atom)) < last
    ]
    start, stop = positions[left].mean(0), positions[right].mean(0)
    if end.across is None:
        side = np.roll(stop - start, 1)
    else:
        side = positions[end.across[1]] - positions[end.across[0]]
    symbols = [mol.GetAtomWithIdx(k).GetSymbol() for k in kept]
    return Linker(Atoms(symbols, positions[kept]), start, stop, side)


def _conformers(mol: Chem.Mol) -> list[np.ndarray]:
    AllChem.EmbedMultipleConfs(mol, CONFORMERS, randomSeed=0)
    if AllChem.MMFFHasAllMoleculeParams(mol):
        AllChem.MMFFOptimizeMoleculeConfs(mol, maxIters=2000)
    else:
        AllChem.UFFOptimizeMoleculeConfs(mol, maxIters=2000)
    return [conformer.GetPositions() for conformer in mol.GetConformers()]


def _parent(hydrogen: Chem.Atom) -> int:
    return int(hydrogen.GetNeighbors()[0].GetIdx())


def _axes(axis: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Return three perpendicular unit vectors as rows: the axis, the side, and the third one."""
    x = axis / np.linalg.norm(axis)
    y = side - (side @ x) * x
    y /= np.linalg.norm(y)
    return np.array([x, y, np.cross(x, y)])
