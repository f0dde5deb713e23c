"""A potential that is not a MACE: pairs of atoms with powers of the distance.

`Pairs` has what `Potential` asks for and nothing else. `PairsWithMore` has the dynamical matrix in
closed form, and is the sum of a repulsion and an attraction. Both take a fault: a function that
turns their energy into a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from torch import Tensor
from torch.func import hessian, vmap

import mace_functional as mf
from mace_functional.structure.neighbours import search

Energies = Callable[[Tensor, Tensor, Any], Tensor]
"""`(positions, cell, params)` to the energies of the atoms, (N,)."""


class Neighbours(NamedTuple):
    """Edges of a structure, and where its atoms were when they were found."""

    first: Tensor
    second: Tensor
    shifts: Tensor
    positions: Tensor

    def vectors(self, positions: Tensor, cell: Tensor) -> Tensor:
        return positions[self.first] - positions[self.second] + self.shifts @ cell


class PairStructure(NamedTuple):
    positions: Tensor
    cell: Tensor
    masses: Tensor
    topology: Neighbours


def sound(energies: Energies, topology: Neighbours) -> Energies:
    return energies


@dataclass(frozen=True, eq=False)
class Pairs:
    """`E = 1/2 sum_edges sum_p c_p r^-p (1 - (r / r_c)^2)^4`, a Lennard-Jones potential."""

    coefficients: tuple[tuple[int, float], ...] = ((12, 60000.0), (6, -300.0))
    cutoff: float = 5.0
    dtype: torch.dtype = torch.float64
    fault: Callable[[Energies, Neighbours], Energies] = sound
    device: torch.device = torch.device("cpu")  # noqa: RUF009

    @property
    def params(self) -> dict[str, Tensor]:
        return {f"c{p}": torch.tensor(c, dtype=self.dtype) for p, c in self.coefficients}

    def to(self, *, dtype: Any = None, device: Any = None) -> Pairs:
        return replace(self, dtype=self.dtype if dtype is None else dtype)

    def structure(self, atoms: Atoms, *, skin: float = 0.0) -> PairStructure:
        x, cell = atoms.positions.copy(), atoms.cell.array.copy()
        first, second, shifts = search(x, cell, atoms.pbc, self.cutoff + skin)
        x, cell, shifts, masses = (
            torch.as_tensor(np.asarray(a)).to(self.dtype)
            for a in (x, cell, shifts, atoms.get_masses())
        )
        edges = torch.as_tensor(first), torch.as_tensor(second), shifts
        return PairStructure(x, cell, masses, Neighbours(*edges, x.clone()))

    def of_edge(self, vector: Tensor, params: dict[str, Tensor]) -> Tensor:
        r2 = (vector * vector).sum(-1)
        inside = (1 - r2 / self.cutoff**2).clamp(min=0) ** 4
        terms = [params[f"c{p}"] * r2 ** (-p // 2) for p, _ in self.coefficients]
        return 0.5 * inside * torch.stack(terms).sum(0)

    def energy_fn(self, topology: Neighbours, *, per_atom: bool = False) -> Callable[..., Tensor]:
        def energies(x: Tensor, cell: Tensor, params: dict[str, Tensor]) -> Tensor:
            of_edges = self.of_edge(topology.vectors(x, cell), params)
            return x.new_zeros(len(x)).index_add(0, topology.first, of_edges)

        function = self.fault(energies, topology)
        return function if per_atom else lambda *args: function(*args).sum()


@dataclass(frozen=True, eq=False)
class PairsWithMore(Pairs):
    """The same with phonons and with parts, each with a factor that should be one."""

    phonons: float = 1.0
    attraction: Pairs | None = None

    @property
    def potentials(self) -> tuple[Pairs, Pairs]:
        parts = [Pairs((term,), self.cutoff, self.dtype) for term in self.coefficients]
        return parts[0], self.attraction or parts[1]

    def parts_of(self, params: dict[str, Tensor]) -> tuple[dict[str, Tensor], ...]:
        return tuple({name: value} for name, value in params.items())

    def dynamical_matrix_fn(self, topology: Neighbours) -> Callable[..., Tensor]:
        i, j, shifts, _ = topology

        def matrix(q: Tensor, x: Tensor, cell: Tensor, params: Any, masses: Tensor) -> Tensor:
            curvature = vmap(hessian(self.of_edge), (0, None))
            blocks = 2 * curvature(topology.vectors(x, cell), params)
            waves = torch.exp(-2j * math.pi * (shifts @ q))[:, None, None]
            d = torch.zeros(len(x), len(x), 3, 3, dtype=waves.dtype)
            d = d.index_put((i, i), blocks.to(d.dtype), accumulate=True)
            d = d.index_put((i, j), -blocks * waves, accumulate=True)
            root = masses.rsqrt()
            d = d * (root[:, None] * root)[..., None, None]
            return self.phonons * d.transpose(1, 2).reshape(x.numel(), x.numel())

        return matrix


def lennard_jones() -> mf.FunctionPotential:
    """Lennard-Jones crystals for all elements, smooth at 5 Å."""

    def energies(near: mf.Neighbourhood, params: dict[str, Tensor]) -> Tensor:
        s6 = (params["sigma"] / near.distances) ** 6
        fading = (1 - (near.distances / 5.0) ** 2) ** 4
        return near.sum(2 * params["epsilon"] * (s6 * s6 - s6) * fading)

    return mf.FunctionPotential(energies, cutoff=5.0, params={"epsilon": 0.2, "sigma": 2.6})


def smooth_pairs(**options: Any) -> mf.FunctionPotential:
    """A pair potential as a function: the same energy for all elements, smooth at 5 Å."""

    def energies(near: mf.Neighbourhood, params: dict[str, Tensor]) -> Tensor:
        fading = (1 - (near.distances / 5.0) ** 2) ** 4
        repulsion = params["strength"] * torch.exp(-near.distances / params["length"])
        return near.sum(repulsion * fading)

    params = {"strength": 3.0, "length": 0.9}
    return mf.FunctionPotential(energies, cutoff=5.0, params=params, **options)
