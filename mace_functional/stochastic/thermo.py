r"""Heat capacities of large cells from Hessian-vector products, with error bars.

All harmonic thermodynamic functions are traces of functions of the mass-weighted Hessian D,

    C = tr c(D),        c(l) = k (y / sinh y)^2,        y = hbar sqrt(l) / 2 kT,

and the trace of a smooth function needs no matrix: probing vectors give it with a statistical error
(`probes`, `passes`), and a few Lanczos steps give the quadratic form of each (`lanczos`). The
nearest pole of c lies at hbar omega = 2 pi i kT, 1310 cm-1 at 300 K, so that five or six steps are
enough there; at 10 K the pole is at 44 cm-1, and many more are needed. The entropy diverges
logarithmically at l = 0 and converges slowly at any temperature. Few long iterations therefore
correct many short ones (`sampling`).

Costs grow with N as one product does, and the number of products for a given relative error falls
as 1 / N.

Source: Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl. 38, 1075 (2017), doi:10.1137/16M1104974, for
stochastic Lanczos quadrature.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mace_functional.stochastic.hessian import VibrationalHessian
from mace_functional.stochastic.passes import Estimate
from mace_functional.stochastic.sampling import Sampling
from mace_functional.stochastic.spectral_functions import SpectralFunctions
from mace_functional.support import validation
from mace_functional.support.defaults import ENTROPY_ERROR, REL_ERROR
from mace_functional.units import EV_PER_MOLECULE, FREQUENCY_UNITS
from mace_functional.vibrations.harmonic_modes import LARGEST_FORCE
from mace_functional.vibrations.result_text import result_text, values_text

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms
    from scipy.sparse.linalg import LinearOperator

    from mace_functional.autodiff.columns import ChunkSize
    from mace_functional.potential.protocol import Potential


@dataclass(frozen=True, eq=False)
class StochasticThermo:
    """Harmonic thermodynamics per cell or molecule, each with its standard error.

    Errors combine the statistical error of the probing vectors and the error of the quadratures.
    The true value lies within two standard errors with a probability of about 95 %.

    Attributes:
        temperatures: Temperatures in K, (T,).
        heat_capacity: Heat capacity at constant volume, eV/K, (T,).
        entropy: Entropy, eV/K, (T,).
        free_energy: Helmholtz free energy with the zero-point energy, eV, (T,).
        internal_energy: Internal energy with the zero-point energy, eV, (T,).
        zero_point_energy: Zero-point energy, eV, a scalar.
        heat_capacity_error: Standard error of the heat capacity, eV/K, (T,).
        entropy_error: Standard error of the entropy, eV/K, (T,).
        free_energy_error: Standard error of the free energy, eV, (T,).
        internal_energy_error: Standard error of the internal energy, eV, (T,).
        zero_point_energy_error: Standard error of the zero-point energy, eV, a scalar.
        converged: True if heat capacities and entropies have the errors that were asked for.
        n_modes: Number of modes, without rigid motions.
        n_rigid: Number of rigid motions that were removed.
        n_imaginary: Estimated number of imaginary modes, which are left out of the sums; a float.
        n_imaginary_error: Its standard error.
        n_imaginary_bound: Number of imaginary modes that the quadratures allow at most.
        lowest_frequency: Lowest Ritz value as a signed frequency, cm-1. The lowest frequency is not
            above it; far more steps would find it (`check_stability`).
        highest_frequency: Highest Ritz value as a frequency, cm-1.
        largest_force: Largest force on an atom, eV/Å.
        mass: Mass of the atoms of the cell or molecule, amu.
        n_products: Number of Hessian-vector products.
        n_vectors: Number of probing vectors of a short pass; 0 for a Hessian.
        n_steps: Number of Lanczos steps of short passes.
        n_passes: Number of short passes.
        n_long_steps: Number of Lanczos steps of long passes; 0 without them.
        n_long_passes: Number of long passes, of one vector each.
    """

    temperatures: Tensor
    heat_capacity: Tensor
    entropy: Tensor
    free_energy: Tensor
    internal_energy: Tensor
    zero_point_energy: Tensor
    heat_capacity_error: Tensor
    entropy_error: Tensor
    free_energy_error: Tensor
    internal_energy_error: Tensor
    zero_point_energy_error: Tensor
    converged: bool
    n_modes: int
    n_rigid: int
    n_imaginary: float
    n_imaginary_error: float
    n_imaginary_bound: float
    lowest_frequency: float
    highest_frequency: float
    largest_force: float
    mass: float
    n_products: int
    n_vectors: int
    n_steps: int
    n_passes: int
    n_long_steps: int
    n_long_passes: int

    def __repr__(self) -> str:
        relative = 100 * self.heat_capacity_error / self.heat_capacity.clamp(min=1e-300)
        return result_text(
            self,
            f"{values_text(self.temperatures, 'K', 'g')}: heat capacity "
            f"{values_text(self.molar_heat_capacity, 'J/(mol K)', '.2f')}",
            f"standard error {values_text(relative, '%', '.2f')}",
            f"{self.n_modes} modes",
            f"{self.n_products} Hessian-vector products",
            None if self.converged else "not as accurate as asked for",
            None if self.lowest_frequency > 0 else f"imaginary, {self.lowest_frequency:.1f} cm-1",
        )

    @property
    def molar_heat_capacity(self) -> Tensor:
        """Heat capacity per mole of cells or molecules, J/(mol K)."""
        return EV_PER_MOLECULE * self.heat_capacity

    @property
    def molar_entropy(self) -> Tensor:
        """Entropy per mole of cells or molecules, J/(mol K)."""
        return EV_PER_MOLECULE * self.entropy

    @property
    def specific_heat_capacity(self) -> Tensor:
        """Heat capacity per mass, J/(g K)."""
        return self.molar_heat_capacity / self.mass

    def interval(self, name: str, *, errors: float = 2.0) -> tuple[Tensor, Tensor]:
        """Return the interval of a quantity about its estimate.

        Args:
            name: Name of an attribute, such as "heat_capacity" or "entropy".
            errors: Half its width in standard errors; two for a confidence of 95 %.
        """
        value, error = getattr(self, name), getattr(self, f"{name}_error")
        return value - errors * error, value + errors * error


def stochastic_thermo(
    potential: Potential,
    atoms: Atoms,
    temperatures: Tensor | Sequence[float] | float,
    *,
    rel_error: float = REL_ERROR,
    entropy_error: float | None = ENTROPY_ERROR,
    max_products: int | None = None,
    seed: int = 0,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    executor: Executor | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    operator: LinearOperator | None = None,
    progress: bool = False,
) -> StochasticThermo:
    """Compute heat capacity, entropy and energies of a large cell without its Hessian.

    The modes are those of the given cell at the Gamma point, without rigid motions. Passes of
    probing vectors with fresh random signs are added until the standard errors of the heat capacity
    and of the entropy are small enough. The first pass chooses the number of Lanczos steps. If all
    columns of the Hessian take fewer products, and it has at most 6 000 rows, it is computed and
    diagonalised; the errors are then zero.

    Imaginary modes are left out of the sums, as by `harmonic_thermo`. Few Lanczos steps see them
    only if they are many or strong: `check_stability` searches for the lowest mode.

    Args:
        potential: A potential, such as a model of `load_model`.
        atoms: The structure, relaxed; periodic in any directions.
        temperatures: Temperatures in K, (T,) or a scalar. Low ones take more Lanczos steps and more
            vectors, because few modes are excited.
        rel_error: Largest standard error of the heat capacity at each temperature, relative to it,
            or to 1e-4 k_B per mode if this is larger.
        entropy_error: The same for the entropy; None for none. Entropy, free energy and zero-point
            energy then have the error that the heat capacity leaves them.
        max_products: Largest number of Hessian-vector products; None for 6N, twice the columns of
            the Hessian.
        seed: Seed of the random signs. Equal seeds give equal results.
        chunk_size: Vectors that are multiplied at once; see `hessian`.
        memory_budget: Bytes that chunks may fill; see `hessian`.
        executor: Executor whose workers share products with several vectors; see `WorkerProcesses`.
            A small `chunk_size` shares few vectors better. None to compute in this process.
        checkpoint: File (npz) to which finished passes are written, and from which an interrupted
            calculation continues.
        operator: Mass-weighted Hessian as a linear operator, such as `SparseHessian.to_scipy()`,
            (3N, 3N), in eV/Å²/amu; None to multiply by the Hessian of the potential.
        progress: Show a line of progress.

    Returns:
        The results with their standard errors.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure does not fit the potential, constraints hold atoms, an option
            is out of range, the checkpoint belongs to another calculation, or the operator does not
            fit the structure or is given with a checkpoint; also under a transform.
        ArithmeticError: If a product is not finite.

    Warns:
        UserWarning: The errors are larger than asked for, a Ritz value is negative (a proof of an
            imaginary mode), or the structure is not relaxed.

    Source: Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl. 38, 1075 (2017).
    """
    t = torch.as_tensor(validation.temperatures(temperatures), dtype=torch.float64)
    rel_error = validation.positive("rel_error", rel_error)
    if entropy_error is not None:
        entropy_error = validation.positive("entropy_error", entropy_error)
    seed = validation.count("seed", seed, least=0)
    if operator is not None and checkpoint is not None:
        raise ValueError(
            "a checkpoint is for Hessian-vector products, which take time: leave it out where an "
            "operator is given"
        )
    hessian = VibrationalHessian(
        potential,
        atoms,
        what="stochastic_thermo",
        chunk_size=chunk_size,
        memory_budget=memory_budget,
        operator=operator,
        executor=executor,
    )
    if max_products is None:
        max_products = max(6 * hessian.n_atoms, 200)
    max_products = validation.count("max_products", max_products)
    sampling = Sampling(
        hessian,
        t,
        rel_error=rel_error,
        entropy_error=entropy_error,
        max_products=max_products,
        seed=seed,
        path=None if checkpoint is None else Path(checkpoint),
        progress=progress,
    )
    totals = sampling.run()
    if totals is None:
        result = _exact(hessian, t, sampling, progress)
    else:
        result = _sampled(hessian, t, sampling, totals)
    _warn(result, rel_error, entropy_error)
    return result


def _sampled(
    hessian: VibrationalHessian, t: Tensor, sampling: Sampling, totals: Estimate
) -> StochasticThermo:
    """Return the results of all passes."""
    stages = sampling.stages
    short, long = stages[0], stages[-1] if len(stages) > 1 else None
    bounds = [stage.below_zero_bound() for stage in stages]
    return StochasticThermo(
        **_by_name(t, totals.value, totals.error()),
        converged=sampling.converged,
        n_imaginary_bound=bounds[-1],
        lowest_frequency=_frequency(min(stage.lowest[0] for stage in stages)),
        highest_frequency=_frequency(max(stage.highest[0] for stage in stages)),
        n_products=sampling.n_products,
        n_vectors=short.n_vectors,
        n_steps=short.steps,
        n_passes=short.n_passes,
        n_long_steps=0 if long is None else long.steps,
        n_long_passes=0 if long is None else long.n_passes,
        **_of_structure(hessian),
    )


def _exact(
    hessian: VibrationalHessian, t: Tensor, sampling: Sampling, progress: bool
) -> StochasticThermo:
    """Return the results of all eigenvalues of the Hessian."""
    eigenvalues = hessian.eigenvalues(progress=progress)
    values = SpectralFunctions(t)(eigenvalues).sum(-1).cpu()
    n_imaginary = float((eigenvalues < 0).sum())
    extremes = (eigenvalues.min(), eigenvalues.max()) if len(eigenvalues) else (0.0, 0.0)
    return StochasticThermo(
        **_by_name(t, values, torch.zeros_like(values)),
        converged=True,
        n_imaginary_bound=n_imaginary,
        lowest_frequency=_frequency(float(extremes[0])),
        highest_frequency=_frequency(float(extremes[1])),
        n_products=sampling.n_products + 3 * hessian.n_atoms,
        n_vectors=0,
        n_steps=0,
        n_passes=0,
        n_long_steps=0,
        n_long_passes=0,
        **_of_structure(hessian),
    )


def _by_name(t: Tensor, values: Tensor, errors: Tensor) -> dict[str, Any]:
    """Return values and errors of all functions of `SpectralFunctions` by their attributes."""
    found: dict[str, Any] = {"temperatures": t}
    for suffix, numbers in ("", values), ("_error", errors):
        c, s, f, u, (zero_point, below_zero) = numbers.split([len(t)] * 4 + [2])
        found |= {
            f"heat_capacity{suffix}": c,
            f"entropy{suffix}": s,
            f"free_energy{suffix}": f,
            f"internal_energy{suffix}": u,
            f"zero_point_energy{suffix}": zero_point,
            f"n_imaginary{suffix}": float(below_zero),
        }
    return found


def _of_structure(hessian: VibrationalHessian) -> dict[str, Any]:
    return {
        "n_modes": hessian.n_modes,
        "n_rigid": hessian.n_rigid,
        "largest_force": hessian.largest_force,
        "mass": float(hessian.masses.sum()),
    }


def _frequency(eigenvalue: float) -> float:
    """Return the signed frequency of an eigenvalue, cm-1."""
    return float(np.sign(eigenvalue) * np.sqrt(abs(eigenvalue)) * FREQUENCY_UNITS["cm-1"])


def _warn(result: StochasticThermo, rel_error: float, entropy_error: float | None) -> None:
    """Warn of errors above those asked for, of imaginary modes and of forces."""
    if not result.converged:
        t = result.temperatures
        cv = float((result.heat_capacity_error / result.heat_capacity)[t > 0].max())
        entropy = float((result.entropy_error / result.entropy)[t > 0].max())
        warnings.warn(
            f"after {result.n_products} Hessian-vector products, the largest relative standard "
            f"error is {cv:.1e} of the heat capacity and {entropy:.1e} of the entropy, not "
            f"{rel_error:.1e} and {'any' if entropy_error is None else f'{entropy_error:.1e}'}: "
            "raise max_products, ask for less, or leave out low temperatures",
            stacklevel=3,
        )
    if result.lowest_frequency < 0:
        warnings.warn(
            f"the structure is no minimum: the lowest Ritz value is {result.lowest_frequency:.1f} "
            f"cm-1. About {result.n_imaginary:.1f} modes are imaginary (standard error "
            f"{result.n_imaginary_error:.1f}, at most {result.n_imaginary_bound:.1f}); they are "
            "left out of the sums",
            stacklevel=3,
        )
    if result.largest_force > LARGEST_FORCE:
        warnings.warn(
            f"the largest force is {result.largest_force:.2g} eV/Å: relax the structure first",
            stacklevel=3,
        )
