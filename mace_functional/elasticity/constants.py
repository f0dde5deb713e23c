"""Elastic constants of a structure, with checks, and what follows from them.

`elastic_constants` computes the tensors of `tensor` in numbers. `ElasticConstants` has moduli,
speeds of sound and stability. All are per volume of a crystal, per area of a slab, and per length
of a rod, in axes along its periodic directions.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

import torch
from ase.units import GPa, J, m
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.derivatives import HessianOperator, forces
from mace_functional.elasticity import moduli
from mace_functional.elasticity.coefficients import Coefficients, under_stress
from mace_functional.elasticity.relaxed_ions import IonRelaxation, relax_ions
from mace_functional.elasticity.sound import debye_temperature, sound_velocities
from mace_functional.elasticity.tensor import Ions, strain_derivatives
from mace_functional.elasticity.voigt import PAIRS, expand, from_voigt, to_voigt
from mace_functional.structure.selection import refuse_constraints
from mace_functional.support import validation
from mace_functional.support.defaults import ElasticSolver
from mace_functional.support.validation import in_order
from mace_functional.vibrations.result_text import html_table, result_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from ase import Atoms

    from mace_functional.autodiff.columns import ChunkSize
    from mace_functional.potential.protocol import Potential

UNITS = {1: "nN", 2: "N/m", 3: "GPa"}
"""Unit of elastic constants, by the number d of periodic directions."""

EV_PER_A: dict[int, float] = {1: 1e-9 * J / m, 2: J / m**2, 3: GPa}
"""Each unit in eV/Å^d."""

LARGEST_FORCE = 2e-3
"""Largest force on an ion of a relaxed structure, eV/Å. Above, `elastic_constants` warns.

`QUICK_FMAX` is half of it. Ions with the force f and the stiffness k are f / k off, in bonds 1e-4 Å
and along soft motions 1e-2 Å, where elastic constants change by some percent.
"""

LARGEST_STRESS = {1: 0.02, 2: 0.05, 3: 0.1}
"""Largest stress of a relaxed cell, in the unit of `UNITS`. Above, `elastic_constants` warns.

The values for slabs and rods are 0.1 GPa times a thickness of 5 Å and a section of 20 Å².
"""

LARGEST_COUPLING = 1e-3
"""Largest relative internal strain along motions that cost no energy, without a warning."""

SINGULAR = 1e-6
"""Smallest eigenvalue of a stable elastic tensor, relative to the largest one."""

TOLERANCE = 1e-6
"""Default residual of conjugate gradients, relative to the internal strain."""


@dataclass(frozen=True, eq=False)
class ElasticConstants:
    """Elastic constants of a crystal, a slab or a rod.

    Tensors have d dimensions, the number of periodic directions, in the axes `axes`; a crystal has
    the Cartesian axes. Directions are Cartesian.

    Attributes:
        atoms: The structure.
        unit: Unit of elastic constants, stress and moduli: "GPa" for a crystal, "N/m" for a slab,
            "nN" for a rod.
        axes: Orthonormal axes along the periodic directions as rows, (d, 3). A slab in a plane of
            two Cartesian axes has these; any other has the direction of its first lattice vector
            first.
        stress: Stress, positive under tension, (d, d).
        second_derivative: Second derivative of the energy by the strain, with relaxed ions,
            (d, d, d, d).
        clamped_second_derivative: Second derivative with clamped ions, (d, d, d, d).
        internal_strain: Internal strain d2E/du de, eV/Å, (N, 3, 3, 3), in Cartesian axes.
        response: Response du/de of the ions, Å, (N, 3, 3, 3), in Cartesian axes.
        largest_force: Largest force on an ion, eV/Å.
        solver: Method that found the response, "dense" or "cg".
        residual: Largest change of the forces that a strain leaves, relative to that with clamped
            ions. The error of the constants is of second order in it.
        smallest_curvature: Smallest curvature of the energy by the ions, eV/Å²; from "cg" an
            estimate from above. None for one ion.
        n_products: Number of Hessian-vector products, or of columns of the Hessian.
        warnings: Sentences about what makes the constants doubtful.
    """

    atoms: Atoms
    unit: str
    axes: Tensor
    stress: Tensor
    second_derivative: Tensor
    clamped_second_derivative: Tensor
    internal_strain: Tensor
    response: Tensor
    largest_force: float
    solver: str
    residual: float
    smallest_curvature: float | None
    n_products: int
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        kind = {1: "rod", 2: "slab", 3: "crystal"}[self.dimensions]
        if not self.is_stable:
            shown = "not stable"
        elif self.dimensions == 1:
            shown = f"stiffness {float(self.stiffness):.2f} nN"
        else:
            bulk, shear = float(self.hill.bulk), float(self.hill.shear)
            shown = f"bulk modulus {bulk:.2f}, shear modulus {shear:.2f} {self.unit} (Hill)"
        return result_text(
            self,
            f"{self.atoms.get_chemical_formula()}, a {kind}",
            shown,
            f"largest force {self.largest_force:.1e} eV/Å",
            f"largest stress {float(self.stress.abs().max()):.1e} {self.unit}",
            f"residual {self.residual:.1e} ({self.solver})",
            f"{len(self.warnings)} warnings" if self.warnings else None,
        )

    def _repr_html_(self) -> str:
        """Return the matrix of elastic constants as a table, for a notebook."""
        names = [f"{i + 1}{j + 1}" for i, j in PAIRS[self.dimensions]]
        columns = {"": names} | {
            name: [f"{float(c):.2f}" for c in column]
            for name, column in zip(names, self.stiffness.mT, strict=True)
        }
        return html_table(f"{self!r}. Elastic constants, {self.unit}", columns)

    @property
    def dimensions(self) -> int:
        """Number d of periodic directions."""
        return self.axes.shape[0]

    def tensor(self, *, ions: Ions = "relaxed", coefficients: Coefficients = "birch") -> Tensor:
        """Return the elastic tensor, (d, d, d, d).

        Args:
            ions: "relaxed" or "clamped"; see `elastic_tensor`.
            coefficients: "birch", "lagrangian" or "second-derivative", which differ under stress;
                see `elastic_tensor`.

        Raises:
            ValueError: If an option is unknown.
        """
        if ions not in get_args(Ions):
            raise ValueError(f"ions must be 'relaxed' or 'clamped', not {ions!r}")
        second = self.second_derivative if ions == "relaxed" else self.clamped_second_derivative
        return under_stress(coefficients, second, self.stress)

    @property
    def stiffness(self) -> Tensor:
        """Birch coefficients with relaxed ions as a Voigt matrix, (6, 6); a slab has (3, 3)."""
        return to_voigt(self.tensor())

    @property
    def clamped_stiffness(self) -> Tensor:
        """Birch coefficients with clamped ions as a Voigt matrix, (6, 6); a slab has (3, 3)."""
        return to_voigt(self.tensor(ions="clamped"))

    @property
    def compliance(self) -> Tensor:
        """Compliance, the inverse of the matrix `stiffness`, in the inverse unit.

        Raises:
            ValueError: If the structure is not stable.
        """
        factors = torch.tensor([1 if i == j else 2 for i, j in PAIRS[self.dimensions]])
        factors = factors.to(self.stress)
        return factors[:, None] * factors * to_voigt(moduli.compliance(self._stable()))

    @cached_property
    def stability(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of the symmetric part of the Birch coefficients, ascending, and strains.

        The energy or enthalpy has a minimum if all are positive (Born's criterion). They do not
        depend on the axes. The strains are of norm 1, in Cartesian axes, (M, 3, 3).
        """
        basis = moduli.symmetric_basis(self.stress)
        matrix = torch.einsum("aij,ijkl,bkl->ab", basis, self.tensor(), basis)
        values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.mT))
        strains = torch.einsum("ak,aij->kij", vectors, basis)
        return values, self.axes.mT @ strains @ self.axes

    @property
    def is_stable(self) -> bool:
        """True if every strain raises the energy, or the enthalpy under pressure."""
        values, _ = self.stability
        return float(values[0]) > SINGULAR * float(values[-1].abs())

    @property
    def softest_strain(self) -> Tensor:
        """The strain, of norm 1, with the lowest eigenvalue of `stability`, (3, 3)."""
        return self.stability[1][0]

    @property
    def voigt(self) -> moduli.IsotropicModuli:
        """Moduli of a polycrystal by Voigt, with uniform strain.

        Raises:
            ValueError: If the structure is not stable, or a rod.
        """
        return moduli.voigt_moduli(self._stable("moduli of a polycrystal"))

    @property
    def reuss(self) -> moduli.IsotropicModuli:
        """Moduli of a polycrystal by Reuss, with uniform stress.

        Raises:
            ValueError: If the structure is not stable, or a rod.
        """
        return moduli.reuss_moduli(self._stable("moduli of a polycrystal"))

    @property
    def hill(self) -> moduli.IsotropicModuli:
        """Moduli of a polycrystal by Hill, means of `voigt` and `reuss`.

        Raises:
            ValueError: If the structure is not stable, or a rod.
        """
        return moduli.hill_moduli(self._stable("moduli of a polycrystal"))

    @property
    def anisotropy(self) -> float:
        """Universal anisotropy, zero for isotropic elasticity; see `universal_anisotropy`.

        Raises:
            ValueError: If the structure is not stable, or a rod.
        """
        return float(moduli.universal_anisotropy(self._stable("an anisotropy")))

    def young_modulus(self, directions: Sequence[Any] | Tensor) -> Tensor:
        """Compute Young's modulus under tension along directions.

        Args:
            directions: Cartesian directions of any length, (..., 3).

        Returns:
            Moduli in `unit`, (...).

        Raises:
            ValueError: If the structure is not stable, or is not periodic along a direction.
        """
        return moduli.young_modulus(self._stable(), self._in_axes(directions))

    def poisson_ratio(
        self, directions: Sequence[Any] | Tensor, across: Sequence[Any] | Tensor
    ) -> Tensor:
        """Compute Poisson's ratio: the contraction across a tension.

        Args:
            directions: Cartesian directions of the tension, (..., 3).
            across: Cartesian directions of the contraction, (..., 3). Components along the tension
                are removed.

        Returns:
            The ratios, (...).

        Raises:
            ValueError: If the structure is not stable or a rod, or is not periodic along a
                direction.
        """
        c = self._stable("Poisson's ratio")
        return moduli.poisson_ratio(c, self._in_axes(directions), self._in_axes(across))

    def shear_modulus(
        self, directions: Sequence[Any] | Tensor, normals: Sequence[Any] | Tensor
    ) -> Tensor:
        """Compute the shear modulus of planes that slide along directions.

        Args:
            directions: Cartesian directions of any length, (..., 3).
            normals: Cartesian normals of the planes, (..., 3). Components along the directions are
                removed.

        Returns:
            Moduli in `unit`, (...).

        Raises:
            ValueError: If the structure is not stable or a rod, or is not periodic along a
                direction.
        """
        c = self._stable("a shear modulus")
        return moduli.shear_modulus(c, self._in_axes(directions), self._in_axes(normals))

    def sound_velocities(self, directions: Sequence[Any] | Tensor) -> Tensor:
        """Compute speeds of sound, the slopes of the acoustic branches at the zone centre.

        Waves of a slab are polarised in its plane, waves of a rod along it: bending waves have no
        slope without a tension.

        Args:
            directions: Cartesian directions of the wave vector, of any length, (..., 3).

        Returns:
            Speeds in km/s, ascending, (..., d); negative where a wave grows.

        Raises:
            ValueError: If the structure is not periodic along a direction.
        """
        return sound_velocities(*self._waves(), self._in_axes(directions))

    @property
    def debye_temperature(self) -> float:
        """Debye temperature of a crystal, K, from its speeds of sound in all directions.

        Raises:
            ValueError: If the structure is not stable, or is not a crystal.
        """
        self._stable()
        if self.dimensions != 3:
            raise ValueError("a Debye temperature is for crystals, not for slabs and rods")
        n_per_volume = len(self.atoms) / self.atoms.get_volume()
        return float(debye_temperature(*self._waves(), n_per_volume))

    def _waves(self) -> tuple[Tensor, Tensor, float]:
        """Return Lagrangian coefficients and stress in eV/Å^d, and the density in amu/Å^d."""
        unit = EV_PER_A[self.dimensions]
        density = float(self.atoms.get_masses().sum()) / _measure(self.atoms)
        return unit * self.tensor(coefficients="lagrangian"), unit * self.stress, density

    def _stable(self, of_planes: str | None = None) -> Tensor:
        """Return the Birch coefficients of a stable structure.

        Args:
            of_planes: Name of a property that a rod does not have, for the error.

        Raises:
            ValueError: If the structure is not stable, or is a rod without the property.
        """
        if of_planes is not None and self.dimensions == 1:
            raise ValueError(f"a rod has no {of_planes}: take stiffness or young_modulus")
        if not self.is_stable:
            raise ValueError(_unstable(self))
        return self.tensor()

    def _in_axes(self, directions: Sequence[Any] | Tensor) -> Tensor:
        """Return Cartesian directions (..., 3) in the axes, (..., d).

        Raises:
            ValueError: If they are not three numbers, are zero, or are not along the axes.
        """
        n = torch.as_tensor(directions).to(self.axes)
        if n.ndim == 0 or n.shape[-1] != 3 or not n.isfinite().all():
            raise ValueError(f"directions must be (..., 3), three numbers each, not {directions!r}")
        length = n.norm(dim=-1, keepdim=True)
        if not (length > 0).all():
            raise ValueError("a direction is zero: give vectors of any other length")
        inside = n / length @ self.axes.mT
        if not (inside.norm(dim=-1) > 1 - 1e-6).all():
            raise ValueError(
                "a direction leaves the periodic directions of the structure: take directions "
                f"along the axes {self.axes.tolist()}"
            )
        return inside


def elastic_constants(
    potential: Potential,
    atoms: Atoms,
    *,
    pressure: float = 0.0,
    solver: ElasticSolver = "auto",
    tolerance: float = TOLERANCE,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> ElasticConstants:
    """Compute elastic constants with relaxed and with clamped ions.

    `C = (1/V) (d2E/de de - L^T H+ L)`, with the internal strain L and the inverse H+ of the Hessian
    without translations; see `elastic_tensor`, the same as a transform. A slab has constants along
    its plane, per area; a rod along itself, per length.

    Memory: the linearised gradient, as for every Hessian, and beyond it 8 (3N)^2 numbers with the
    dense solver, or 60 (3N) numbers with conjugate gradients.

    Args:
        potential: A potential, such as a model of `load_model`.
        atoms: The structure: ions and cell relaxed, under the pressure if there is one.
        pressure: Pressure that the cell of a crystal was relaxed under, GPa. The constants are
            those of the stress that the cell has; another one than this gives a warning.
        solver: "dense" diagonalises the Hessian; "cg" uses conjugate gradients, without a matrix.
            "auto" is "dense" up to 200 atoms.
        tolerance: Largest residual of conjugate gradients, relative to L. The error of the
            constants is of second order in it.
        chunk_size: Columns of the Hessian at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.
        executor: Executor whose workers share the columns of the Hessian; see `WorkerProcesses`.
            None to compute in this process.
        progress: Show the progress.

    Returns:
        The constants, with moduli, speeds of sound and stability.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure is a molecule or a saddle point, does not fit the potential
            (see `from_ase`), or constraints fix ions; an option is invalid; conjugate gradients do
            not converge; parameters require grad or are inside of a transform; or the potential
            cannot be sent to processes.
        ChildProcessError: If the executor is broken, or its workers die again and again.

    Warns:
        UserWarning: Ions or cell are not relaxed, strains drive motions that cost no energy, or the
            structure is not stable.

    Source: Born, Huang, Dynamical Theory of Crystal Lattices; Wu, Vanderbilt, Hamann, Phys. Rev. B
    72, 035105 (2005).
    """
    in_order("elastic_constants(potential, atoms)", (potential, "Potential"), (atoms, "Atoms"))
    if solver not in get_args(ElasticSolver):
        raise ValueError(f"solver must be 'auto', 'dense' or 'cg', not {solver!r}")
    tolerance = validation.positive("tolerance", tolerance)
    pressure = validation.pressure("pressure", pressure)
    options: dict[str, Any] = {
        "chunk_size": validation.chunk_size(chunk_size),
        "memory_budget": validation.memory_budget(memory_budget),
    }
    refuse_transforms("elastic_constants", "elastic_tensor(E)", potential.params)
    refuse_constraints(atoms, "elastic_constants", "free all atoms with atoms.set_constraint()")
    if not atoms.pbc.any():
        raise ValueError(
            f"{atoms.get_chemical_formula()} is a molecule, periodic in no direction: it has no "
            "strain and no elastic constants. Set atoms.pbc if it is a crystal or a slab"
        )
    if pressure and not atoms.pbc.all():
        raise ValueError("a pressure is for crystals, periodic in three directions")
    s = potential.structure(atoms)
    energy = potential.energy_fn(s.topology)
    e_args = (s.positions, s.cell, potential.params)
    e = strain_derivatives(energy, pbc=atoms.pbc.tolist(), **options)(*e_args)
    largest_force = float(forces(energy)(*e_args).norm(dim=1).max())
    ions = relax_ions(
        HessianOperator.from_potential(
            potential, atoms, mass_weighted=False, executor=executor, **options
        ),
        e.mixed,
        solver=solver,
        tolerance=tolerance,
        largest_force=largest_force,
        progress=progress,
    )
    axes = _axes(s.cell, atoms.pbc.tolist())
    unit = EV_PER_A[len(axes)] * _measure(atoms)

    def in_axes(second: Tensor) -> Tensor:
        a, b, c, d = (axes,) * 4
        return torch.einsum("ai,bj,ck,dl,ijkl->abcd", a, b, c, d, from_voigt(second)) / unit

    result = ElasticConstants(
        atoms=atoms.copy(),
        unit=UNITS[len(axes)],
        axes=axes,
        stress=axes @ e.virial @ axes.mT / unit,
        second_derivative=in_axes(e.second + ions.energy),
        clamped_second_derivative=in_axes(e.second),
        internal_strain=expand(e.mixed),
        response=expand(ions.response),
        largest_force=largest_force,
        solver=ions.solver,
        residual=ions.residual,
        smallest_curvature=ions.smallest_curvature,
        n_products=ions.n_products,
    )
    return _with_warnings(result, ions, pressure)


def _with_warnings(
    result: ElasticConstants, ions: IonRelaxation, pressure: float
) -> ElasticConstants:
    """Return the constants with sentences about what makes them doubtful, and warn of these."""
    sentences = []
    if result.largest_force > LARGEST_FORCE:
        sentences.append(
            f"the ions are not relaxed: the largest force is {result.largest_force:.1e} eV/Å, so "
            "that the constants are not those of a minimum. Relax the structure with mf.relax"
        )
    identity = torch.eye(result.dimensions, dtype=result.stress.dtype, device=result.stress.device)
    excess = float((result.stress + pressure * identity).abs().max())
    if excess > LARGEST_STRESS[result.dimensions]:
        beyond = f", beyond the pressure of {pressure:g} GPa" if pressure else ""
        sentences.append(
            f"the cell carries a stress of {excess:.2g} {result.unit}{beyond}: the constants are "
            "those under this stress. Relax the cell with mf.relax, or name the pressure that it "
            "was relaxed under"
        )
    if ions.free_coupling > LARGEST_COUPLING:
        sentences.append(
            f"strains drive motions that cost no energy (curvature below "
            f"{ions.zero_curvature:.1e} eV/Å²): the response along these is not determined and is "
            "left out. Relax the structure to smaller forces, in double precision"
        )
    if not result.is_stable:
        sentences.append(_unstable(result))
    for sentence in sentences:
        warnings.warn(sentence, stacklevel=3)
    return replace(result, warnings=tuple(sentences))


def _unstable(constants: ElasticConstants) -> str:
    """Describe a structure that a strain does not raise in energy."""
    value = float(constants.stability[0][0])
    strain = [[round(x, 3) for x in row] for row in constants.softest_strain.tolist()]
    return (
        f"the structure is not stable: the strain {strain} has the stiffness {value:.3g} "
        f"{constants.unit}, so that there are no moduli. Relax the cell from this strain, or look "
        "for parts that do not interact"
    )


def _measure(atoms: Atoms) -> float:
    """Return the volume of a crystal, the area of a slab or the length of a rod, Å^d."""
    vectors = torch.as_tensor(atoms.cell.array[atoms.pbc])
    return float(torch.linalg.det(vectors @ vectors.mT).sqrt())


def _axes(cell: Tensor, pbc: Sequence[bool]) -> Tensor:
    """Return orthonormal axes along the periodic directions as rows, (d, 3)."""
    vectors = cell[[k for k in range(3) if pbc[k]]]
    identity = torch.eye(3, dtype=cell.dtype, device=cell.device)
    if len(vectors) == 3:
        return identity
    q = torch.linalg.qr(vectors.mT).Q.mT
    outside = (identity - identity @ q.mT @ q).norm(dim=1)
    inside = identity[outside < 1e-8]
    if len(inside) == len(q):
        return inside
    first = vectors[0] / vectors[0].norm()
    if len(vectors) == 1:
        return first[None]
    second = vectors[1] - (vectors[1] @ first) * first
    return torch.stack([first, second / second.norm()])
