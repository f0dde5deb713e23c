r"""The Hessian of a crystal at a wave vector, as products on replicas of its cell.

With the phases phi_m of the replicas (see `structure/phase_replicas.py`), a complex displacement u
of the cell is the real displacement of the replicas

    d_m(u) = Re[exp(i phi_m) u],

and the change of their gradient is `g_m = d_m(H(q) u)`. So `H(q) u = (1/s) sum_m exp(-i phi_m) g_m`
for a real u, with `s = sum_m cos^2(phi_m)`. The linearised gradient K of the replicas is symmetric,
and

    Re <a, H(q) b> = (1/s) sum_m d_m(a) . (K d(b))_m.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vjp, vmap

from mace_functional.potential.protocol import EdgePotential
from mace_functional.structure.phase_replicas import PhaseReplicas


class ReplicaHessian:
    """The Hessian H(q) of a crystal at a wave vector, in eV/Å².

    Where exp(2 pi i q.R) is real for all cells, there are one or two replicas, and H(q) is real.

    Args:
        potential: The potential.
        wave: Replicas of the cell at the wave vector.
        positions: Positions in Å, (N, 3).
        cell: Lattice vectors in Å as rows, (3, 3).
        params: Parameters of the potential.
    """

    def __init__(
        self,
        potential: EdgePotential,
        wave: PhaseReplicas,
        positions: Tensor,
        cell: Tensor,
        params: Any,
    ) -> None:
        def energy(x: Tensor) -> Tensor:
            return potential.atom_energies(wave, x, cell, params).sum()

        replicas = positions[:, None].expand(-1, wave.replicas, -1)
        self._pull_back = vjp(grad(energy), replicas)[1]
        self._cosines = torch.cos(wave.phases)
        is_real = wave.replicas < 3  # the sines are zero, but sin(pi) has a rounding error
        self._sines = torch.zeros_like(self._cosines) if is_real else torch.sin(wave.phases)
        self._norm = self._cosines.square().sum()

    def products(self, u: Tensor) -> Tensor:
        """Compute `H(q) u` for real displacements (n, N, 3), complex."""
        return vmap(self._product)(u)

    def form(self, a: Tensor, b: Tensor) -> Tensor:
        """Compute the sum of `Re <a, H(q) b>` over pairs of complex displacements (n, N, 3).

        Displacements are real where H(q) is.
        """
        return vmap(self._term)(a, b).sum() / self._norm

    def _product(self, u: Tensor) -> Tensor:
        (g,) = self._pull_back(u[:, None] * self._cosines[:, None])
        parts = torch.stack([self._cosines, -self._sines]) @ g / self._norm
        real, imaginary = parts.unbind(1)
        return torch.complex(real, imaginary)

    def _term(self, a: Tensor, b: Tensor) -> Tensor:
        return (self._displacement(a) * self._pull_back(self._displacement(b))[0]).sum()

    def _displacement(self, u: Tensor) -> Tensor:
        """Return the displacements of the replicas, (N, replicas, 3)."""
        if not u.is_complex():
            return u[:, None] * self._cosines[:, None]
        return u.real[:, None] * self._cosines[:, None] - u.imag[:, None] * self._sines[:, None]
