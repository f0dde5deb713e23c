r"""Densities of states: how many modes there are at each frequency, of the crystal and each atom.

    g(f) = sum_q w_q sum_v delta(f - f_v(q)),        g_k(f) the same with |e_k|^2

Delta functions are smeared to Gaussians, or integrated exactly with frequencies linear in q inside
of tetrahedra: six for each parallelepiped of the mesh, around its shortest main diagonal.

Source: Blöchl, Jepsen, Andersen, Phys. Rev. B 1994, 49, 16223, doi:10.1103/PhysRevB.49.16223,
appendix B for the weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.phonons.mesh import Mesh, MeshModes
from mace_functional.vibrations.result_text import result_text, values_text

GRID = 301
"""Frequencies of a grid that is not given."""

MARGIN = 5
"""Widths of a Gaussian by which such a grid goes beyond the frequencies."""


@dataclass(frozen=True, eq=False)
class DensityOfStates:
    """Modes per frequency.

    Attributes:
        frequencies: Evenly spaced, in `unit`, (E,).
        total: Modes of one cell per `unit`, (E,); the integral over all frequencies is 3N.
        per_atom: Share of each atom, (N, E), or None if there were no eigenvectors; the sum is the
            total.
        unit: Of the frequencies.
    """

    frequencies: Tensor
    total: Tensor
    per_atom: Tensor | None
    unit: str

    def __repr__(self) -> str:
        atoms = None if self.per_atom is None else f"with those of {len(self.per_atom)} atoms"
        return result_text(self, values_text(self.frequencies, self.unit), atoms)


def density_of_states(
    modes: MeshModes,
    *,
    method: Literal["tetrahedron", "gaussian"] = "tetrahedron",
    grid: Sequence[float] | Tensor | None = None,
    width: float | None = None,
    unit: str = "cm-1",
) -> DensityOfStates:
    """Density of states from the modes on a mesh; imaginary ones are at negative frequencies.

    Args:
        modes: From `mesh_modes`.
        method: "tetrahedron" gives the mean over each step of the grid, centred: steps add up to 3N
            for any grid that covers the frequencies, and flat bands are not lost. "gaussian" gives
            the value at each frequency.
        grid: Evenly spaced, ascending frequencies, in `unit`; None for 301 that cover all.
        width: Standard deviation of the Gaussians, in `unit`; None for a hundredth of the range of
            frequencies.
        unit: "cm-1", "THz" or "meV".

    Returns:
        The density of states; a smeared one of given grid and width can be differentiated.

    Raises:
        ValueError: If the method or the unit is unknown, the width is not positive or belongs to
            tetrahedra, or the grid is not evenly spaced and ascending.
    """
    frequencies = modes.frequencies_in(unit)
    if method != "gaussian" or grid is None or width is None:
        instead = "method='gaussian' with a grid and a width"
        refuse_transforms("density_of_states as called", instead, frequencies)
    if method == "tetrahedron":
        if width is not None:
            raise ValueError("tetrahedra have no width: leave it out, or choose method='gaussian'")
        values = _grid(grid, frequencies, 0.0)
        per_mode = _tetrahedra(modes.mesh, frequencies, values)
    elif method == "gaussian":
        if width is None:
            width = float(frequencies.max() - frequencies.min()) / 100
        if not 0 < width < math.inf:
            raise ValueError(f"the width must be positive, in {unit}, not {width}")
        values = _grid(grid, frequencies, MARGIN * width)
        per_mode = _gaussians(modes.mesh, frequencies, values, width)
    else:
        raise ValueError(f"unknown method {method!r}: choose 'tetrahedron' or 'gaussian'")
    shares = None if modes.eigenvectors is None else modes.eigenvectors.abs().square().sum(-1)
    total, per_atom = [], []
    for weights in per_mode:
        total.append(weights.sum())
        if shares is not None:
            per_atom.append(torch.tensordot(weights, shares, 2))
    return DensityOfStates(
        frequencies=values,
        total=torch.stack(total),
        # Over a whole star, atoms that symmetry exchanges have equal shares.
        per_atom=torch.stack(per_atom, 1)[modes.mesh.permutations].mean(0) if per_atom else None,
        unit=unit,
    )


def _grid(grid: Sequence[float] | Tensor | None, frequencies: Tensor, margin: float) -> Tensor:
    if grid is None:
        low, high = float(frequencies.min()) - margin, float(frequencies.max()) + margin
        high = max(high, low + 1e-6)  # all frequencies may be the same
        return torch.linspace(low, high, GRID).to(frequencies)
    values = torch.as_tensor(grid, dtype=frequencies.dtype, device=frequencies.device)
    if values.ndim != 1 or len(values) < 2 or not values.isfinite().all():
        raise ValueError("the grid must be a list of at least two frequencies")
    steps = values.diff()
    if not (steps > 0).all() or (steps - steps.mean()).abs().max() > 1e-3 * steps.mean():
        raise ValueError("the grid must be evenly spaced and ascending")
    return values


def _gaussians(mesh: Mesh, frequencies: Tensor, grid: Tensor, width: float) -> Iterator[Tensor]:
    """Weights of the modes (Q, M) at each frequency of the grid."""
    norm = mesh.weights.to(frequencies)[:, None] / (width * math.sqrt(2 * math.pi))
    return (norm * torch.exp(-((f - frequencies) / width).square() / 2) for f in grid)


def _tetrahedra(mesh: Mesh, frequencies: Tensor, grid: Tensor) -> Iterator[Tensor]:
    """Weights of the modes (Q, M) in each step of the grid, per width of the step."""
    corners = tetrahedra(mesh).to(frequencies.device)
    energies, order = frequencies[corners].sort(dim=1)  # (tetrahedra, 4, M)
    points = corners[..., None].expand_as(order).gather(1, order)
    index = points * frequencies.shape[1] + torch.arange(frequencies.shape[1]).to(points)
    energies, index = (x.movedim(1, -1).reshape(-1, 4) for x in (energies, index))
    step = float(grid[-1] - grid[0]) / (len(grid) - 1)
    edges = torch.cat([grid - step / 2, grid[-1:] + step / 2])

    def modes_below(edge: Tensor) -> Tensor:
        below = torch.zeros_like(frequencies).flatten()
        full = energies[:, 3] <= edge
        crossed = (energies[:, 0] < edge) & ~full
        below.index_add_(0, index[full].flatten(), below.new_full((4 * int(full.sum()),), 0.25))
        weights = integration_weights(edge, energies[crossed])
        below.index_add_(0, index[crossed].flatten(), weights.flatten())
        return below.view_as(frequencies) / len(corners)

    counts = map(modes_below, edges)  # two at a time: each is as large as the mesh
    return ((after - before) / step for before, after in itertools.pairwise(counts))


def tetrahedra(mesh: Mesh) -> Tensor:
    """The q at the corners of the tetrahedra that fill the Brillouin zone, (6 n1 n2 n3, 4).

    Args:
        mesh: The mesh.
    """
    steps = mesh.reciprocal / torch.tensor(mesh.size)[:, None]
    signs = torch.tensor([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    shortest = (signs.to(steps) @ steps).norm(dim=1).argmin()
    # From corner to opposite corner along the edges, in any order: six ways, six tetrahedra.
    sign = signs[shortest]
    corners = torch.zeros(6, 4, 3, dtype=torch.int64)
    for way, axes in enumerate(itertools.permutations(range(3))):
        for i, axis in enumerate(axes):
            corners[way, i + 1] = corners[way, i]
            corners[way, i + 1, axis] += sign[axis]
    size = torch.tensor(mesh.size)
    origins = torch.cartesian_prod(*map(torch.arange, mesh.size))
    address = (origins[:, None, None] + corners) % size
    return mesh.mapping[address.unbind(-1)].flatten(0, 1)


def integration_weights(energy: Tensor, corners: Tensor) -> Tensor:
    """Weights of the corners of tetrahedra in the integral over what lies below an energy.

    Args:
        energy: A scalar.
        corners: Energies at the corners, ascending, with the first below and the last above
            `energy`, (t, 4).

    Returns:
        Weights for a tetrahedron of volume 1, (t, 4).
    """
    e1, e2, e3, e4 = corners.unbind(-1)
    a, b, c, d = ((energy - e) for e in (e1, e2, e3, e4))
    e21, e31, e41, e32, e42, e43 = e2 - e1, e3 - e1, e4 - e1, e3 - e2, e4 - e2, e4 - e3

    def low() -> Tensor:
        volume = a**3 / (e21 * e31 * e41) / 4
        others = [volume * a / e for e in (e21, e31, e41)]
        return torch.stack([4 * volume - sum(others), *others], -1)

    def middle() -> Tensor:
        c1 = a**2 / (e41 * e31) / 4
        c2 = -a * b * c / (e41 * e32 * e31) / 4
        c3 = -(b**2) * d / (e42 * e32 * e41) / 4
        w1 = c1 - (c1 + c2) * c / e31 - (c1 + c2 + c3) * d / e41
        w2 = c1 + c2 + c3 - (c2 + c3) * c / e32 - c3 * d / e42
        w3 = (c1 + c2) * a / e31 + (c2 + c3) * b / e32
        w4 = (c1 + c2 + c3) * a / e41 + c3 * b / e42
        return torch.stack([w1, w2, w3, w4], -1)

    def high() -> Tensor:
        volume = -(d**3) / (e41 * e42 * e43) / 4
        others = [-volume * d / e for e in (e41, e42, e43)]
        return torch.stack([*(0.25 - w for w in others), 0.25 - 4 * volume + sum(others)], -1)

    # Where corners have equal energies, formulas of the other cases divide by zero.
    result = torch.where((energy >= e3)[:, None], high(), middle())
    return torch.where((energy < e2)[:, None], low(), result)
