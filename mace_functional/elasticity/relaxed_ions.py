r"""The response of the ions to strain, `R = -H+ L`, in numbers and with checks.

H is the Hessian, L the internal strain, and H+ the inverse of H without translations and without
other motions that cost no energy. Two solvers give the same response:

- "dense" computes and diagonalises H: 3N Hessian columns, and memory for eight matrices (3N, 3N).
- "cg" is the block method of conjugate gradients, with one Hessian-vector product per iteration for
  each of the six strains, and no matrix. L has the symmetry of the crystal, also that of a repeated
  cell, so that a perfect crystal takes few iterations. H must have no negative curvature, and L
  does not show that: modes of lower symmetry are orthogonal to it. A Lanczos iteration from a
  random vector, in the same blocks of products, therefore estimates the smallest curvature from
  above.

Let r = H R + L be the residual. Then `C V = d2E/de de + L^T R + R^T r`, with an error of second
order in r.

Source: Ji, Li, BIT Numer. Math. 57, 379 (2017), doi:10.1007/s10543-016-0631-z, for conjugate
gradients in blocks; Lanczos, J. Res. Natl. Bur. Stand. 45, 255 (1950).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rich.console import Console
from torch import Tensor

from mace_functional.derivatives import HessianOperator
from mace_functional.support.defaults import ElasticSolver

DENSE_ATOMS = 200
"""Largest number of atoms for which "auto" takes the dense solver.

A dense Hessian of 200 atoms takes 600 columns. Conjugate gradients and Lanczos iterations together
take 100 to 700 products, the most for a cell without symmetry.
"""

LANCZOS_STEPS = 300
"""Largest number of Lanczos iterations.

The smallest curvature of MOF-5 (106 atoms, embedded model), 0.0087 eV/Å², is found as 0.028 after
50, 0.0136 after 100 and 0.0090 after 200 iterations.
"""

LANCZOS_ERROR = 0.1
"""Relative error of the smallest curvature at which Lanczos iterations stop."""

LANCZOS_INTERVAL = 10
"""Number of Lanczos iterations between two estimates of the error."""

MAX_ITERATIONS = 3000
"""Largest number of iterations of conjugate gradients."""

ZERO_CURVATURE = 1e-5
"""Curvature below which a motion counts as free, eV/Å²: 0.3 cm-1 for an atom of 30 amu.

A chain along a line has transverse motions whose curvatures are a residual tension.
"""

ROUNDING = 1e3
"""Rounding error of curvatures, in units of the machine precision times the largest curvature."""

ARM = 2.0
"""Ratio of the curvature of a free motion to the force that is left on the atoms, 1/Å.

Rigid rotations have a curvature of about the residual force over an arm of 1 Å.
"""

MOST_ZERO = 1e-2
"""Largest curvature that may count as zero, eV/Å²: about 10 cm-1 for an atom of 30 amu."""

NOISE = 1e-8
"""Internal strain that counts as zero, eV/Å."""

SMALLEST_DIRECTION = 1e-10
"""Smallest search direction that a block keeps, relative to the largest one."""


@dataclass(frozen=True, eq=False)
class IonRelaxation:
    """Response of the ions to the six Voigt strains.

    Attributes:
        response: Displacements of the ions per strain, Å, (N, 3, 6).
        energy: What the response changes in d2E/dv dv, eV, (6, 6).
        solver: "dense" or "cg".
        residual: Largest column norm of H R + L, relative to that of L.
        smallest_curvature: Smallest eigenvalue of the Hessian, eV/Å², without translations; from
            "cg" an estimate from above. None for one atom.
        zero_curvature: Curvature below which a motion counts as free, eV/Å².
        n_zero: Number of motions besides translations that cost no energy; None from "cg".
        free_coupling: Largest internal strain along one of them, relative to that of L.
        n_products: Number of Hessian-vector products, or of columns of the Hessian.
    """

    response: Tensor
    energy: Tensor
    solver: str
    residual: float
    smallest_curvature: float | None
    zero_curvature: float
    n_zero: int | None
    free_coupling: float
    n_products: int


def relax_ions(
    operator: HessianOperator,
    mixed: Tensor,
    *,
    solver: ElasticSolver,
    tolerance: float,
    largest_force: float,
    progress: bool = False,
) -> IonRelaxation:
    """Compute the response of the ions to the six Voigt strains.

    Args:
        operator: Hessian of the structure, without masses.
        mixed: Internal strain L, eV/Å, (N, 3, 6).
        solver: "auto", "dense" or "cg".
        tolerance: Largest residual of conjugate gradients, relative to L.
        largest_force: Largest force on an atom, eV/Å.
        progress: Show a bar or a line of progress.

    Returns:
        The response.

    Raises:
        ValueError: If the Hessian has a negative curvature, or conjugate gradients do not converge.
    """
    n = mixed.shape[0]
    strain = _centred(mixed.reshape(3 * n, 6))
    dense = n <= DENSE_ATOMS if solver == "auto" else solver == "dense"
    solve = _dense if dense or n == 1 else _conjugate_gradients
    return solve(operator, strain, tolerance, largest_force, progress)


def _dense(
    operator: HessianOperator,
    strain: Tensor,
    tolerance: float,
    largest_force: float,
    progress: bool,
) -> IonRelaxation:
    """Compute the response from all eigenvectors of the Hessian."""
    h = operator.dense(progress=progress)
    h = 0.5 * (h + h.mT)
    # Translations get eigenvalues above all others.
    centred = _centred(_centred(h).mT)
    translations = torch.eye(3, dtype=h.dtype, device=h.device).repeat(len(h) // 3, len(h) // 3)
    top = 2 * centred.norm() + 1
    values, vectors = torch.linalg.eigh(centred + top * translations * (3 / len(h)))
    values, vectors = values[:-3], vectors[:, :-3]
    largest = float(values.abs().max()) if len(values) else 0.0
    zero = _zero_curvature(largest, largest_force, h.dtype)
    smallest = float(values[0]) if len(values) else None
    if smallest is not None and smallest < -zero:
        raise ValueError(_saddle(smallest))
    free = values.abs() <= zero
    components = vectors.mT @ strain
    response = -vectors[:, ~free] @ (components[~free] / values[~free][:, None])
    coupling = components[free].norm(dim=1).max() if free.any() else strain.new_zeros(())
    return IonRelaxation(
        *_response_and_energy(response, strain, centred @ response + strain),
        solver="dense",
        residual=_relative(
            centred @ response + strain - vectors[:, free] @ components[free], strain
        ),
        smallest_curvature=smallest,
        zero_curvature=zero,
        n_zero=int(free.sum()),
        free_coupling=float(coupling) / max(_size(strain), NOISE),
        n_products=len(h),
    )


def _conjugate_gradients(
    operator: HessianOperator,
    strain: Tensor,
    tolerance: float,
    largest_force: float,
    progress: bool,
) -> IonRelaxation:
    """Compute the response by conjugate gradients in blocks, and the smallest curvature."""
    lanczos = _Lanczos(strain)
    response, r = torch.zeros_like(strain), -strain
    p = _orthonormal(r)
    goal, n_products, iteration = tolerance * max(_size(strain), NOISE), 0, 0

    def line() -> str:
        return (
            f"ions: {n_products} Hessian-vector products, residual "
            f"{_relative(r, strain):.1e} of {tolerance:.1e}"
        )

    with Console(stderr=True, quiet=not progress).status(line()) as status:
        while _size(r) > goal or not lanczos.ended:
            if _size(r) <= goal:
                p = p[:, :0]
            elif iteration == MAX_ITERATIONS:
                raise ValueError(
                    f"conjugate gradients have not converged in {iteration} iterations: the "
                    f"residual is {_relative(r, strain):.1e} of the internal strain, not "
                    f"{tolerance:.1e}. Use solver='dense' or a larger tolerance"
                )
            block = torch.cat([p, lanczos.vector], 1) if not lanczos.ended else p
            products = _centred(operator @ block)
            n_products += block.shape[1]
            q = products[:, : p.shape[1]]
            if not lanczos.ended:
                lanczos.add(products[:, -1:])
            if p.shape[1]:
                iteration += 1
                curvatures, axes = torch.linalg.eigh(p.mT @ q)
                if float(curvatures[0]) <= 0:
                    raise ValueError(_saddle(float(curvatures[0])))
                inverse = axes @ (axes.mT / curvatures[:, None])
                response = response + p @ (inverse @ (p.mT @ r))
                r = r - q @ (inverse @ (p.mT @ r))
                p = _orthonormal(_centred(r - p @ (inverse @ (q.mT @ r))))
            status.update(line())
    smallest, largest, _ = lanczos.ritz_values()
    zero = _zero_curvature(largest, largest_force, strain.dtype)
    if smallest < -zero:
        raise ValueError(_saddle(smallest))
    residual = _centred(operator @ response) + strain
    return IonRelaxation(
        *_response_and_energy(response, strain, residual),
        solver="cg",
        residual=_relative(residual, strain),
        smallest_curvature=smallest,
        zero_curvature=zero,
        n_zero=None,
        free_coupling=0.0,
        n_products=n_products + 6,
    )


class _Lanczos:
    """A Lanczos iteration on the Hessian from a random vector without translations.

    Args:
        like: Tensor (3N, k) with the size, the dtype and the device.

    Attributes:
        vector: Vector to multiply next, (3N, 1).
        ended: True if the smallest Ritz value has converged.
    """

    def __init__(self, like: Tensor) -> None:
        generator = torch.Generator().manual_seed(1)
        start = torch.randn(len(like), 1, generator=generator, dtype=torch.float64)
        start = _centred(start.to(like))
        self.vector, self._before = start / start.norm(), torch.zeros_like(start)
        self._diagonal: list[float] = []
        self._beside: list[float] = []
        self._most = min(LANCZOS_STEPS, len(like) - 3)
        self.ended = False

    def add(self, product: Tensor) -> None:
        """Make an iteration, given the product of the Hessian and `vector`."""
        before = self._beside[-1] if self._beside else 0.0
        diagonal = (self.vector * product).sum()
        rest = product - diagonal * self.vector - before * self._before
        self._diagonal.append(float(diagonal))
        self._beside.append(float(rest.norm()))
        steps = len(self._diagonal)
        if steps == self._most or steps % LANCZOS_INTERVAL == 0:
            smallest, _, error = self.ritz_values()
            self.ended = steps == self._most or error <= LANCZOS_ERROR * abs(smallest)
        if self._beside[-1] <= 1e-12 * max(map(abs, self._diagonal)):
            self.ended = True  # the vectors span an invariant space
        else:
            self._before, self.vector = self.vector, rest / rest.norm()

    def ritz_values(self) -> tuple[float, float, float]:
        """Return the smallest and largest Ritz value, and the error of the smallest, eV/Å²."""
        from scipy.linalg import eigh_tridiagonal

        values, vectors = eigh_tridiagonal(self._diagonal, self._beside[:-1])
        error = abs(self._beside[-1] * vectors[-1, 0])
        return float(values[0]), float(abs(values).max()), float(error)


def _response_and_energy(
    response: Tensor, strain: Tensor, residual: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the response (N, 3, 6), and `L^T R + R^T r`, symmetric."""
    energy = strain.mT @ response + response.mT @ residual
    return response.reshape(-1, 3, response.shape[1]), 0.5 * (energy + energy.mT)


def _centred(vectors: Tensor) -> Tensor:
    """Remove translations from vectors (3N, k)."""
    of_atoms = vectors.reshape(-1, 3, vectors.shape[1])
    return (of_atoms - of_atoms.mean(0)).reshape(vectors.shape)


def _orthonormal(vectors: Tensor) -> Tensor:
    """Return an orthonormal basis of the space that vectors (3N, k) span, without noise."""
    u, sizes, _ = torch.linalg.svd(vectors, full_matrices=False)
    return u[:, sizes > max(SMALLEST_DIRECTION * float(sizes[0]), 1e-30)]


def _size(vectors: Tensor) -> float:
    """Return the largest column norm of vectors (3N, k)."""
    return float(vectors.norm(dim=0).max())


def _relative(residual: Tensor, strain: Tensor) -> float:
    return _size(residual) / max(_size(strain), NOISE)


def _zero_curvature(largest: float, largest_force: float, dtype: torch.dtype) -> float:
    """Return the curvature below which a motion counts as free, eV/Å²."""
    rounding = ROUNDING * torch.finfo(dtype).eps * largest
    return max(ZERO_CURVATURE, rounding, min(ARM * largest_force, MOST_ZERO))


def _saddle(curvature: float) -> str:
    """Describe a structure with a negative curvature."""
    return (
        f"the structure is a saddle point: the Hessian has a curvature of {curvature:.2e} eV/Å², "
        "so that ions do not follow a strain but leave the structure. Relax it with mf.relax, "
        "which leaves saddle points, from a cell that is large enough and without symmetry; the "
        "constants with clamped ions are those of mf.elastic_tensor(E, ions='clamped')"
    )
