r"""Densities of states: number of modes per frequency, of the crystal and of each atom.

    g(f) = sum_q w_q sum_v delta(f - f_v(q)),        g_k(f) = sum_q w_q sum_v |e_k|^2 delta(...)

Delta functions are broadened to Gaussians, or integrated exactly with frequencies that are linear
in q inside tetrahedra: six for each parallelepiped of the mesh, around its shortest main diagonal.

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

N_FREQUENCIES = 301
"""Number of frequencies of the default grid."""

MARGIN_WIDTHS = 5
"""Margin of the default grid beyond the frequencies, in widths of the Gaussians."""


@dataclass(frozen=True, eq=False)
class DensityOfStates:
    """Density of states on a grid of frequencies: modes per frequency.

    Attributes:
        frequencies: Evenly spaced frequencies in `unit`, (E,).
        total: Modes of one cell per `unit`, (E,); the integral over all frequencies is 3N.
        per_atom: Contribution of each atom, (N, E), which add up to the total; None if there were
            no eigenvectors.
        unit: Unit of the frequencies.
    """

    frequencies: Tensor
    total: Tensor
    per_atom: Tensor | None
    unit: str

    def __repr__(self) -> str:
        atoms = None if self.per_atom is None else f"resolved by {len(self.per_atom)} atoms"
        return result_text(self, values_text(self.frequencies, self.unit), atoms)


def density_of_states(
    modes: MeshModes,
    *,
    method: Literal["tetrahedron", "gaussian"] = "tetrahedron",
    grid: Sequence[float] | Tensor | None = None,
    width: float | None = None,
    unit: str = "cm-1",
) -> DensityOfStates:
    """Compute the density of states on a mesh; imaginary modes are at negative frequencies.

    Args:
        modes: Modes of `mesh_modes`.
        method: "tetrahedron" returns the mean over each step of the grid, centred. The steps add up
            to 3N for any grid that covers the frequencies, and flat bands are not lost. "gaussian"
            returns the value at each frequency.
        grid: Evenly spaced, ascending frequencies in `unit`; None for 301 that cover all.
        width: Standard deviation of the Gaussians in `unit`; None for a hundredth of the range of
            frequencies.
        unit: Unit of the frequencies: "cm-1", "THz" or "meV".

    Returns:
        The density of states. It is differentiable for method "gaussian" with a given grid and
        width.

    Raises:
        ValueError: If the method or the unit is unknown, the width is not positive or given for
            tetrahedra, or the grid is not evenly spaced and ascending.
    """
    frequencies = modes.frequencies_in(unit)
    if method != "gaussian" or grid is None or width is None:
        instead = "method='gaussian' with a grid and a width"
        refuse_transforms("density_of_states as called", instead, frequencies)
    if method == "tetrahedron":
        if width is not None:
            raise ValueError("tetrahedra have no width: leave it out, or choose method='gaussian'")
        f = _grid(grid, frequencies, 0.0)
        mode_weights = _tetrahedra(modes.mesh, frequencies.cpu(), f.cpu())
    elif method == "gaussian":
        if width is None:
            width = float(frequencies.max() - frequencies.min()) / 100
        if not 0 < width < math.inf:
            raise ValueError(f"the width must be positive, in {unit}, not {width}")
        f = _grid(grid, frequencies, MARGIN_WIDTHS * width)
        mode_weights = _gaussians(modes.mesh, frequencies, f, width)
    else:
        raise ValueError(f"unknown method {method!r}: choose 'tetrahedron' or 'gaussian'")
    e_k_squared = None if modes.eigenvectors is None else modes.eigenvectors.abs().square().sum(-1)
    total, per_atom = [], []
    for weights in mode_weights:
        total.append(weights.sum())
        if e_k_squared is not None:
            weights = weights.to(e_k_squared.device, non_blocking=True)
            per_atom.append(torch.tensordot(weights, e_k_squared, 2))
    return DensityOfStates(
        frequencies=f,
        total=torch.stack(total).to(f.device),
        # Averaged over the star of q, symmetry-equivalent atoms have equal contributions.
        per_atom=torch.stack(per_atom, 1)[modes.mesh.permutations].mean(0) if per_atom else None,
        unit=unit,
    )


def _grid(grid: Sequence[float] | Tensor | None, frequencies: Tensor, margin: float) -> Tensor:
    """Return the frequencies of the grid; by default, they cover all modes and a margin."""
    if grid is None:
        low, high = float(frequencies.min()) - margin, float(frequencies.max()) + margin
        high = max(high, low + 1e-6)  # all frequencies may be the same
        return torch.linspace(low, high, N_FREQUENCIES).to(frequencies)
    values = torch.as_tensor(grid, dtype=frequencies.dtype, device=frequencies.device)
    if values.ndim != 1 or len(values) < 2 or not values.isfinite().all():
        raise ValueError("the grid must be a list of at least two frequencies")
    steps = values.diff()
    if not (steps > 0).all() or (steps - steps.mean()).abs().max() > 1e-3 * steps.mean():
        raise ValueError("the grid must be evenly spaced and ascending")
    return values


def _gaussians(mesh: Mesh, frequencies: Tensor, grid: Tensor, width: float) -> Iterator[Tensor]:
    """Yield the weights of the modes (Q, M) at each frequency of the grid."""
    norm = mesh.weights.to(frequencies)[:, None] / (width * math.sqrt(2 * math.pi))
    return (norm * torch.exp(-((f - frequencies) / width).square() / 2) for f in grid)


def _tetrahedra(mesh: Mesh, frequencies: Tensor, grid: Tensor) -> Iterator[Tensor]:
    """Yield the weights of the modes (Q, M) in each step of the grid, divided by its width.

    It reads values at each step, so all its tensors are on the CPU.
    """
    corners = tetrahedra(mesh)
    energies, order = frequencies[corners].sort(dim=1)  # (tetrahedra, 4, M)
    points = corners[..., None].expand_as(order).gather(1, order)
    index = points * frequencies.shape[1] + torch.arange(frequencies.shape[1]).to(points)
    energies, index = (x.movedim(1, -1).reshape(-1, 4) for x in (energies, index))
    step = float(grid[-1] - grid[0]) / (len(grid) - 1)
    edges = torch.cat([grid - step / 2, grid[-1:] + step / 2])

    def modes_below(edge: Tensor) -> Tensor:
        count = torch.zeros_like(frequencies).flatten()
        below_edge = energies[:, 3] <= edge
        crossed = (energies[:, 0] < edge) & ~below_edge
        count.index_add_(
            0, index[below_edge].flatten(), count.new_full((4 * int(below_edge.sum()),), 0.25)
        )
        weights = integration_weights(edge, energies[crossed])
        count.index_add_(0, index[crossed].flatten(), weights.flatten())
        return count.view_as(frequencies) / len(corners)

    counts = map(modes_below, edges)  # only two exist at a time: each is as large as the mesh
    return ((upper - lower) / step for lower, upper in itertools.pairwise(counts))


def tetrahedra(mesh: Mesh) -> Tensor:
    """Return the indices of the q at the corners of all tetrahedra, (6 n1 n2 n3, 4).

    Args:
        mesh: Mesh of wave vectors.
    """
    steps = mesh.reciprocal / torch.tensor(mesh.size)[:, None]
    signs = torch.tensor([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    shortest_diagonal = (signs.to(steps) @ steps).norm(dim=1).argmin()
    # Each tetrahedron is a path along edges from a corner to the opposite one: six permutations.
    sign = signs[shortest_diagonal]
    corners = torch.zeros(6, 4, 3, dtype=torch.int64)
    for i_path, axes in enumerate(itertools.permutations(range(3))):
        for i_step, axis in enumerate(axes):
            corners[i_path, i_step + 1] = corners[i_path, i_step]
            corners[i_path, i_step + 1, axis] += sign[axis]
    size = torch.tensor(mesh.size)
    origins = torch.cartesian_prod(*map(torch.arange, mesh.size))
    addresses = (origins[:, None, None] + corners) % size
    return mesh.mapping[addresses.unbind(-1)].flatten(0, 1)


def integration_weights(energy: Tensor, corners: Tensor) -> Tensor:
    """Return weights of the corners of tetrahedra in the integral over the volume below an energy.

    Args:
        energy: Energy e, a scalar.
        corners: Energies e1 to e4 at the corners, ascending, with e1 below and e4 above e, (t, 4).

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

    # If corners have equal energies, the formulas of the unused cases divide by zero.
    result = torch.where((energy >= e3)[:, None], high(), middle())
    return torch.where((energy < e2)[:, None], low(), result)
