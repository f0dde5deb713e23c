"""The student: a small MACE with random weights, made for the structures it is to be trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mace import modules
from e3nn import o3

from mace_functional.structure import neighbours
from mace_functional.training import LabelledStructure

ELEMENTS = (1, 6, 7, 8, 11, 13, 14, 17, 30)
"""Atomic numbers of the elements: H, C, N, O, Na, Al, Si, Cl, Zn."""

CUTOFF = 5.0
"""Cutoff radius of the student, Å; that of the teacher is 6."""


def new_student(
    data: Sequence[LabelledStructure], *, channels: int, max_ell: int, seed: int
) -> torch.nn.Module:
    """Return a mace-torch module with random weights, in torch's default dtype.

    Reference energies of the elements are fitted to the energies of the structures by least
    squares.

    Args:
        data: Source of reference energies, mean number of neighbours, and scale of the energies.
        channels: Number of channels.
        max_ell: Highest degree of the spherical harmonics.
        seed: Seed of the weights.
    """
    data = [k for k in data if k.energy is not None]
    composition = np.array([[(k.atoms.numbers == z).sum() for z in ELEMENTS] for k in data])
    atoms = composition.sum(1, keepdims=True)
    energies = np.array([[k.energy] for k in data])
    references, *_ = np.linalg.lstsq(composition / atoms, energies / atoms, rcond=None)
    forces = np.concatenate([k.forces for k in data if k.forces is not None])
    torch.manual_seed(seed)
    return modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=max_ell,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=2,
        num_elements=len(ELEMENTS),
        hidden_irreps=o3.Irreps(f"{channels}x0e"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=references[:, 0],
        avg_num_neighbors=sum(map(_edges, data)) / atoms.sum(),
        atomic_numbers=list(ELEMENTS),
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64],
        atomic_inter_scale=float(np.sqrt((forces**2).mean())),
        atomic_inter_shift=0.0,
    )


def _edges(labelled: LabelledStructure) -> int:
    """Return the number of pairs within the cutoff, each counted in both directions."""
    atoms = labelled.atoms
    return len(neighbours.search(atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)[0])
