"""Mode Grüneisen tensors on a mesh and along a path, and their thermal average."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from mace_functional.elasticity.tensor import Ions
from mace_functional.elasticity.voigt import unit_strains
from mace_functional.expansion.deformable import DeformableCrystal, confined
from mace_functional.expansion.mode_gruneisen import gruneisen_of, parameters_of
from mace_functional.expansion.symmetric_strains import invariant_strains
from mace_functional.parallel.shared_parts import computed
from mace_functional.phonons.bands import BandStructure
from mace_functional.phonons.mesh import Mesh
from mace_functional.phonons.modes import (
    degenerate_blocks,
    signed_frequencies,
    warn_if_not_relaxed,
)
from mace_functional.phonons.wave_vector import wave_vector
from mace_functional.potential.protocol import is_mirror_symmetric
from mace_functional.structure.lattice import periodic_projector
from mace_functional.support import validation
from mace_functional.support.defaults import SYMPREC
from mace_functional.vibrations.imaginary import ImaginaryMode, imaginary_modes
from mace_functional.vibrations.mode_functions import mode_functions
from mace_functional.vibrations.result_text import frequencies_text, result_text, values_text

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms

    from mace_functional.autodiff.columns import ChunkSize
    from mace_functional.potential.protocol import Potential

Strains = Literal["all", "symmetric"]
"""Strains of Grüneisen tensors: all six, or those that keep the symmetry of the crystal."""


ModesAt = Callable[[DeformableCrystal, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Function of a crystal, a wave vector (3,) and strains (S, 3, 3) that returns eigenvalues (M,) and
Grüneisen parameters (S, M) of all modes but rigid motions; it can be pickled."""


@dataclass(frozen=True, eq=False)
class Gruneisen:
    """Mode Grüneisen tensors of a crystal at several wave vectors.

    Attributes:
        q: Wave vectors in units of the reciprocal lattice vectors, (Q, 3).
        eigenvalues: Squared frequencies, ascending at each q, eV/Å²/amu, (Q, 3N); exactly zero for
            rigid motions.
        tensors: Mode Grüneisen tensors `-d ln omega / d e`, symmetric, (Q, 3N, 3, 3). NaN for rigid
            motions, such as the acoustic modes at Gamma, whose limits depend on the direction of
            q, and for imaginary modes.
        strains: "all", or "symmetric" for tensors without the parts that break the symmetry.
        mesh: Mesh of the wave vectors; None for a path.
        projector: Projector onto the periodic directions, (3, 3).
    """

    q: Tensor
    eigenvalues: Tensor
    tensors: Tensor
    strains: Strains
    mesh: Mesh | None
    projector: Tensor

    def __repr__(self) -> str:
        known = self.parameters[~self.parameters.isnan()]
        return result_text(
            self,
            f"{len(self.q)} wave vectors" if self.mesh is None else self.mesh.description,
            f"{self.eigenvalues.shape[1]} modes each",
            frequencies_text(self.frequencies, "cm-1"),
            f"parameters {values_text(known, '', '.2f')}",
        )

    @property
    def parameters(self) -> Tensor:
        """Grüneisen parameters `-d ln omega / d ln V` of uniform strains, (Q, 3N).

        For a slab or a rod, V is the area or the length.
        """
        return (self.tensors * self.projector).sum((-1, -2)) / self.projector.trace()

    @property
    def frequencies(self) -> Tensor:
        """Signed frequencies in cm-1, (Q, 3N); imaginary modes are negative."""
        return self.frequencies_in("cm-1")

    def frequencies_in(self, unit: str) -> Tensor:
        """Return the frequencies in "cm-1", "THz" or "meV"."""
        return signed_frequencies(self.eigenvalues, unit)

    @property
    def imaginary_modes(self) -> list[ImaginaryMode]:
        """Imaginary modes, frequencies in cm-1, the most unstable first."""
        return imaginary_modes(self.q, self.frequencies, None)

    @property
    def n_imaginary(self) -> int:
        """Number of imaginary modes, over all wave vectors."""
        return int((self.eigenvalues < 0).sum())

    def macroscopic(self, temperatures: Sequence[float] | Tensor | float) -> Tensor:
        """Compute the macroscopic Grüneisen tensor `sum gamma c / sum c` over all modes of a mesh.

        c is the heat capacity of a mode. Rigid motions and imaginary modes are left out. A third of
        the trace is the Grüneisen parameter of the crystal.

        Args:
            temperatures: Temperatures in K, (T,) or a scalar.

        Returns:
            Tensors, (T, 3, 3), or (3, 3) for a scalar; NaN at 0 K.

        Raises:
            ValueError: If the wave vectors are not those of a mesh, or temperatures are out of
                range.

        Source: Barron, Collins, White, Adv. Phys. 29, 609 (1980).
        """
        if self.mesh is None:
            raise ValueError(
                "an average over modes needs a mesh: give gruneisen a mesh, not a path"
            )
        weights = self.mesh.weights.to(self.eigenvalues)
        gamma = torch.where(self.tensors.isnan(), 0.0, self.tensors)
        rotations = self.mesh.rotations.to(gamma)
        results = []
        for t in validation.temperatures(temperatures):
            c = mode_functions(self.eigenvalues, t).heat_capacity
            total = torch.einsum("q,qm,qmij->ij", weights, c, gamma) / (weights @ c).sum()
            results.append((rotations @ total @ rotations.mT).mean(0))
        scalar = not isinstance(temperatures, Sequence) and torch.as_tensor(temperatures).ndim == 0
        return results[0] if scalar else torch.stack(results)


def gruneisen(
    potential: Potential,
    atoms: Atoms,
    at: Mesh | BandStructure | Tensor | Sequence[Sequence[float]],
    *,
    ions: Ions = "relaxed",
    strains: Strains = "all",
    symprec: float = SYMPREC,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> Gruneisen:
    """Compute mode Grüneisen tensors of a crystal, exactly, without strained cells.

        gamma_ij = -d ln omega / d e_ij
                 = -(1 / (2 omega^2)) <e| dD/de_ij + (dD/dx)(dx/de_ij) |e>

    See `mode_gruneisen` for degenerate modes. Their tensors are NaN for imaginary modes, and for
    acoustic modes at Gamma.

    Args:
        potential: A potential with a dynamical matrix; see `dynamical_matrix_fn`.
        atoms: The crystal, relaxed; periodic in any directions.
        at: Mesh of `Mesh.of`, or `BandStructure` of the same crystal, or wave vectors in units of
            the reciprocal lattice vectors, (Q, 3).
        ions: "relaxed" for ions that follow the strain; "clamped" for ions that keep their
            fractional coordinates.
        strains: "all" for complete tensors. "symmetric" for the strains that keep the symmetry, one
            in a cubic crystal: the tensors lack the parts that break it. Parameters and macroscopic
            tensors are complete with both. The price is the same where no modes are degenerate, and
            one derivative of D(q) for each strain where some are.
        symprec: Tolerance of the symmetry, Å; used by "symmetric".
        chunk_size: Columns at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.
        executor: Executor whose workers share the columns of the Hessian and the wave vectors; see
            `WorkerProcesses`. None to compute in this process.
        progress: Show a progress bar.

    Returns:
        The tensors.

    Raises:
        TypeError: If the arguments are of other classes, swapped, or the potential has no dynamical
            matrix.
        ValueError: If the structure is a molecule or does not fit the potential, the mesh belongs
            to another structure, wave vectors are not (Q, 3), an option is unknown, or the
            potential cannot be sent to processes.
        ChildProcessError: If the executor is broken, or its workers die again and again.

    Warns:
        UserWarning: The structure is far from relaxed; there are imaginary modes, which are NaN.

    Source: Barron, Collins, White, Adv. Phys. 29, 609 (1980).
    """
    if strains not in ("all", "symmetric"):
        raise ValueError(f"strains must be 'all' or 'symmetric', not {strains!r}")
    crystal = DeformableCrystal.of(
        potential,
        atoms,
        ions=ions,
        what="gruneisen",
        executor=executor,
        chunk_size=chunk_size,
        memory_budget=memory_budget,
    )
    warn_if_not_relaxed(crystal.phonons)
    mesh = at if isinstance(at, Mesh) else None
    q = _wave_vectors(atoms, at)
    if strains == "symmetric":
        basis = invariant_strains(atoms, symprec=symprec, proper=not is_mirror_symmetric(potential))
    else:
        basis = unit_strains(torch.eye(3, dtype=torch.float64))
    eigenvalues, parameters = modes_and_parameters(
        crystal, q, basis, _separate_modes, executor=executor, progress=progress
    )
    found = Gruneisen(
        q=q,
        eigenvalues=eigenvalues,
        tensors=_tensors(parameters, basis.to(parameters)),
        strains=strains,
        mesh=mesh,
        projector=periodic_projector(torch.as_tensor(atoms.cell.array), atoms.pbc.tolist()).to(
            parameters
        ),
    )
    warn_of_imaginary(eigenvalues, "their Grüneisen tensors are NaN")
    return found


def modes_and_parameters(
    crystal: DeformableCrystal,
    q: Tensor,
    strains: Tensor,
    modes_at: ModesAt,
    *,
    executor: Executor | None = None,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute modes and Grüneisen parameters along strains at several wave vectors.

    Args:
        crystal: The crystal.
        q: Wave vectors in units of the reciprocal lattice vectors, (Q, 3).
        strains: Strains, (S, 3, 3).
        modes_at: Function of crystal, wave vector and strains.
        executor: Executor whose workers share the wave vectors; None to compute in this process.
        progress: Show a progress bar.

    Returns:
        Eigenvalues in eV/Å²/amu, (Q, 3N), and parameters, (Q, S, 3N). Rigid motions have zero and
        NaN.
    """
    unique, inverse = np.unique(q.numpy(), axis=0, return_inverse=True)
    unique_q = torch.as_tensor(unique).unbind()
    job = _WaveVectors(crystal, strains, modes_at)
    _ = crystal.phonons.rigid  # kept by the phonons, so that workers need not compute them
    coming = computed(job, (q_i.clone() for q_i in unique_q), executor, job.device)
    shown = track(coming, "Grüneisen parameters", total=len(unique_q), disable=not progress)
    with closing(coming):
        found = [(values.to(job.device), found.to(job.device)) for values, found in shown]
    rows = inverse.reshape(-1)
    return torch.stack([found[i][0] for i in rows]), torch.stack([found[i][1] for i in rows])


def parameters_of_sums(
    crystal: DeformableCrystal, q: Tensor, strains: Tensor
) -> tuple[Tensor, Tensor]:
    """Return modes and parameters, of which only sums over degenerate modes have a meaning."""
    eigenvalues, e = crystal.modes(q)
    return eigenvalues, _parameters(crystal, q, strains, eigenvalues, e)


def _separate_modes(
    crystal: DeformableCrystal, q: Tensor, strains: Tensor
) -> tuple[Tensor, Tensor]:
    """Return modes and parameters, with degenerate modes told apart; see `mode_gruneisen`."""
    eigenvalues, e = crystal.modes(q)
    if bool(degenerate_blocks(eigenvalues).diff().all()):
        return eigenvalues, _parameters(crystal, q, strains, eigenvalues, e)
    d = confined(crystal.strained_matrix(q, strains), crystal.internal(q))
    return gruneisen_of(d, strains.to(crystal.phonons.masses))[:2]


def _parameters(
    crystal: DeformableCrystal, q: Tensor, strains: Tensor, eigenvalues: Tensor, e: Tensor
) -> Tensor:
    """Return parameters (S, M) of modes that need not be told apart; NaN if not stable."""
    return parameters_of(eigenvalues, crystal.strained_matrix.mode_slopes(q, e, strains))


@dataclass(frozen=True, eq=False)
class _WaveVectors:
    """The job: eigenvalues (3N,) and Grüneisen parameters (S, 3N) at a wave vector."""

    crystal: DeformableCrystal
    strains: Tensor
    modes_at: ModesAt
    memory_budget: int | None = None

    @property
    def device(self) -> torch.device:
        """Device of the crystal."""
        return self.crystal.phonons.masses.device

    def begun(self, device: str | None) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Return the function of a wave vector (3,); its results are on the CPU."""
        crystal = self.crystal.on(device, self.memory_budget)
        like = crystal.phonons.masses
        strains = self.strains.to(like.device)

        def compute(q: Tensor) -> tuple[Tensor, Tensor]:
            q = wave_vector(q, crystal.atoms.pbc.tolist(), like)
            values, parameters = self.modes_at(crystal, q, strains)
            n_rigid = 3 * len(like) - len(values)
            values = torch.cat([values.new_zeros(n_rigid), values])
            parameters = torch.cat(
                [parameters.new_full((len(strains), n_rigid), torch.nan), parameters], 1
            )
            values, order = values.sort(stable=True)
            return values.cpu(), parameters[:, order].cpu()

        return compute


def warn_of_imaginary(eigenvalues: Tensor, consequence: str) -> None:
    """Warn if there are imaginary modes.

    Args:
        eigenvalues: Squared frequencies in eV/Å²/amu.
        consequence: What happens to them, for the message.

    Warns:
        UserWarning: There are imaginary modes.
    """
    n_imaginary = int((eigenvalues < 0).sum())
    if n_imaginary:
        lowest = float(signed_frequencies(eigenvalues.min(), "cm-1"))
        warnings.warn(
            f"{n_imaginary} imaginary modes, down to {lowest:.4g} cm-1: {consequence}; the "
            "structure is no minimum of the energy",
            stacklevel=3,
        )


def _wave_vectors(atoms: Atoms, at: Any) -> Tensor:
    """Return the wave vectors of a mesh, a path or an array, in double precision, (Q, 3)."""
    if isinstance(at, Mesh):
        reciprocal = 2 * np.pi * atoms.cell.complete().reciprocal().array
        same_atoms = at.permutations.shape[1] == len(atoms)
        if not same_atoms or not np.allclose(at.reciprocal.numpy(), reciprocal):
            raise ValueError("the mesh was made for another structure: make a new one with Mesh.of")
        return at.q
    q = torch.as_tensor(at.q if isinstance(at, BandStructure) else at, dtype=torch.float64)
    if q.ndim != 2 or q.shape[1] != 3 or not len(q):
        raise ValueError(f"wave vectors must be (Q, 3), not {tuple(q.shape)}")
    return q.detach().cpu()


def _tensors(parameters: Tensor, strains: Tensor) -> Tensor:
    """Return tensors (Q, M, 3, 3) from parameters along strains (Q, S, M).

    The tensors lie in the space of the strains: gamma : e_s is the parameter along e_s.
    """
    gram = torch.einsum("sij,tij->st", strains, strains)
    dual = torch.linalg.solve(gram, strains.flatten(1)).view_as(strains)
    return torch.einsum("qsm,sij->qmij", parameters, dual)
