"""Labels of structures by a potential, such as a larger one that another is to imitate."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from ase import Atoms
from torch.func import vmap

from mace_functional.derivatives.second import hessian
from mace_functional.potential.protocol import Potential
from mace_functional.support.validation import count
from mace_functional.training.labelled_structure import Curvature, LabelledStructure
from mace_functional.training.predictions import predictions_fn


def labelled_by(
    potential: Potential,
    structures: Iterable[Atoms],
    *,
    directions: int | None = 2,
    seed: int = 0,
) -> list[LabelledStructure]:
    """Label structures with the energies, forces, stresses and Hessian products of a potential.

    Use it to let one potential imitate another, and for a replay set: structures with the results
    of the model before it is fine-tuned.

    Args:
        potential: The potential.
        structures: ASE Atoms. Crystals, periodic in three directions, get a stress.
        directions: Number of random directions of Hessian products; None for the whole Hessian,
            0 for no curvature.
        seed: Seed of the directions.

    Returns:
        A labelled structure for each, with the name `atoms.info["name"]` if there is one.

    Raises:
        ValueError: If the potential cannot compute a structure.
    """
    n = None if directions is None else count("directions", directions, 0)
    rng = np.random.default_rng(seed)
    return [_labelled(potential, atoms, n, rng) for atoms in structures]


def _labelled(
    potential: Potential, atoms: Atoms, directions: int | None, rng: np.random.Generator
) -> LabelledStructure:
    s = potential.structure(atoms)
    args = s.positions, s.cell, potential.params
    energy = potential.energy_fn(s.topology)
    crystal = bool(atoms.pbc.all())
    found = predictions_fn(energy, stress=crystal)(*args)
    curvature = None
    if directions is None:
        curvature = Curvature.of_hessian(hessian(energy)(*args).double().cpu().numpy())
    elif directions:
        v = rng.normal(size=(directions, len(atoms), 3))
        predict = predictions_fn(energy, product=True)
        vectors = torch.as_tensor(v).to(s.positions)
        products = vmap(predict, (None, None, None, 0))(*args, vectors)["product"]
        curvature = Curvature(v, products.double().cpu().numpy())
    labels = {name: value.double().cpu().numpy() for name, value in found.items()}
    return LabelledStructure(
        atoms=atoms,
        energy=float(labels["energy"]),
        forces=labels["forces"],
        stress=labels.get("stress"),
        curvature=curvature,
        name=str(atoms.info.get("name", "")),
    )
