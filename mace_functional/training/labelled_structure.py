"""Structures with labels: energies, forces, stresses and curvature that were computed for them.

The curvature of a structure is given by products of its Hessian with displacements v,

    (H v)_ia = sum_jb d2E/dx_ia dx_jb  v_jb,

of all unit displacements (the Hessian), of those of a few atoms (some of its columns), or of any
other directions (finite differences of forces along them).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from mace_functional.support.validation import finite

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

STIFFEST = 2000.0
"""Largest product |H v| / |v| that is accepted, eV/Å².

The largest of N2, the stiffest bond, is 290 eV/Å². The same number in N/m is 16 times as large.
"""

STRONGEST_FORCE = 1e4
"""Largest force that is accepted, eV/Å; two protons at 0.04 Å repel each other with it."""

LARGEST_STRESS = 60.0
"""Largest entry of a stress that is accepted, eV/Å³: 9600 GPa, 26 times the Earth's centre.

The same number in GPa is 160 times as large.
"""

ASYMMETRY = 0.02
"""Largest |H - H^T|, relative to the largest |H|, without a warning."""

LARGEST_ASYMMETRY = 0.2
"""Largest |H - H^T|, relative to the largest |H|, that is accepted."""

NET_FORCE = 0.2
"""Largest sum of H v over the atoms, relative to the largest |H v|, without a warning.

The sum is zero if the energy does not change with a translation. It is not for Hessians that are
divided by masses.
"""


@dataclass(frozen=True, eq=False)
class Curvature:
    """Products H v of the Hessian of a structure of N atoms with D displacements v.

    Attributes:
        directions: The displacements v, Å, (D, N, 3).
        products: The products H v, eV/Å, (D, N, 3): the change of the gradient for this
            displacement. Those of a unit displacement are a column of the Hessian in eV/Å².

    Raises:
        ValueError: If shapes differ, numbers are not finite, a direction is zero, or products are
            larger than those of any bond.

    Warns:
        UserWarning: If the products have a net force, as those of a mass-weighted Hessian have.
    """

    directions: np.ndarray
    products: np.ndarray

    def __post_init__(self) -> None:
        directions = _numbers("directions", self.directions)
        products = _numbers("products", self.products)
        shape = directions.shape
        if len(shape) != 3 or shape[2] != 3 or 0 in shape or products.shape != shape:
            raise ValueError(
                "directions and products must both have the shape (directions, atoms, 3), not "
                f"{shape} and {products.shape}"
            )
        lengths = np.linalg.norm(directions, axis=(1, 2))
        if not lengths.all():
            raise ValueError(
                f"direction {int(np.argmin(lengths))} is zero: leave it out, with its product"
            )
        stiffness = np.linalg.norm(products, axis=(1, 2)) / lengths
        if stiffness.max() > STIFFEST:
            raise ValueError(
                f"a product of the Hessian is {stiffness.max():.4g} eV/Å² for a unit displacement, "
                f"more than {STIFFEST:g} and than that of any bond: convert it to eV/Å² (16.02 "
                "N/m, 0.01029 Hartree/Bohr², 0.02058 Ry/Bohr²)"
            )
        net = np.linalg.norm(products.sum(1), axis=1) / lengths
        if net.max() > NET_FORCE * max(stiffness.max(), 1e-3):
            warnings.warn(
                f"the products of the Hessian sum to {net.max():.3g} eV/Å² over the atoms, not to "
                "zero as for a free structure: it must not be divided by masses, and no atoms may "
                "be missing",
                stacklevel=3,
            )
        object.__setattr__(self, "directions", directions)
        object.__setattr__(self, "products", products)

    @classmethod
    def of_hessian(cls, hessian: ArrayLike) -> Curvature:
        """Return the products of a Hessian with all 3N unit displacements.

        They are its columns, after `(H + H^T) / 2`.

        Args:
            hessian: Second derivatives, eV/Å², (N, 3, N, 3) or (3N, 3N), not divided by masses.

        Raises:
            ValueError: If the shape is another one, or the matrix is not symmetric; see also the
                class.

        Warns:
            UserWarning: If the matrix is not quite symmetric.
        """
        H = _numbers("the Hessian", hessian)
        square = H.ndim == 2 and H.shape[0] == H.shape[1] and H.shape[0] % 3 == 0
        of_atoms = H.ndim == 4 and H.shape[:2] == H.shape[2:] and H.shape[1] == 3
        if H.size == 0 or not (square or of_atoms):
            raise ValueError(f"a Hessian is (N, 3, N, 3) or (3N, 3N), not {H.shape}")
        size = 3 * H.shape[0] if of_atoms else H.shape[0]
        H = H.reshape(size, size)
        _check_symmetry(H)
        columns = ((H + H.T) / 2).reshape(size, -1, 3)
        return cls(np.eye(size).reshape(columns.shape), columns)

    @classmethod
    def of_columns(cls, indices: Sequence[int], columns: ArrayLike) -> Curvature:
        """Return the products of a Hessian with the unit displacements of k atoms.

        phonopy's compact force constants (k, N, 3, 3) are `columns.transpose(0, 2, 1, 3)`.

        Args:
            indices: The k atoms, counted from 0.
            columns: Columns of the Hessian, eV/Å², (k, 3, N, 3): those of displacements of atom
                `indices[i]` along direction a are `columns[i, a]`.

        Raises:
            ValueError: If shapes do not fit, an index is repeated or is not that of an atom, or the
                columns disagree on the Hessian between these atoms; see also the class.

        Warns:
            UserWarning: If the Hessian between these atoms is not quite symmetric.
        """
        H = _numbers("the columns", columns)
        atoms = np.asarray(indices)
        if H.ndim != 4 or H.shape[1] != 3 or H.shape[3] != 3 or atoms.shape != H.shape[:1]:
            raise ValueError(
                "columns of k atoms are (k, 3, N, 3) with k indices, not "
                f"{H.shape} with indices of the shape {atoms.shape}"
            )
        n_atoms = H.shape[2]
        whole = np.issubdtype(atoms.dtype, np.integer)
        if not whole or not atoms.size or atoms.min() < 0 or atoms.max() >= n_atoms:
            raise ValueError(f"the indices must be atoms from 0 to {n_atoms - 1}, not {indices}")
        if len(set(atoms.tolist())) < len(atoms):
            raise ValueError(f"the indices repeat an atom: {indices}; give each column once")
        size = 3 * len(atoms)
        _check_symmetry(H[:, :, atoms].reshape(size, size), largest=float(abs(H).max()))
        directions = np.zeros(H.shape)
        directions[np.arange(len(atoms))[:, None], np.arange(3), atoms[:, None], np.arange(3)] = 1
        return cls(directions.reshape(size, n_atoms, 3), H.reshape(size, n_atoms, 3))


@dataclass(frozen=True, eq=False)
class LabelledStructure:
    """A structure of N atoms, with what was computed for it; None for what was not.

    Attributes:
        atoms: The structure, without a calculator.
        energy: Energy of the structure, eV.
        forces: Forces on the atoms, eV/Å, (N, 3).
        stress: Stress tensor, eV/Å³, (3, 3), positive under tension, as in ASE.
        curvature: Products of the Hessian.
        weight: Weight of the structure in a loss.
        name: Name of the structure, for messages.

    Raises:
        ValueError: If there is no label, a shape does not fit the structure, numbers are not
            finite, or are so large that they must be in another unit.
        TypeError: If `atoms` or `curvature` are of another class.
    """

    atoms: Atoms
    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    curvature: Curvature | None = None
    weight: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.atoms, Atoms):
            raise TypeError(f"atoms must be ASE Atoms, not {type(self.atoms).__name__}")
        if self.curvature is not None and not isinstance(self.curvature, Curvature):
            raise TypeError(
                "curvature must be a Curvature, such as Curvature.of_hessian(hessian), not "
                f"{type(self.curvature).__name__}"
            )
        try:
            self._check()
        except ValueError as error:
            raise ValueError(f"{self.name or self.atoms.get_chemical_formula()}: {error}") from None

    def _check(self) -> None:
        atoms = self.atoms
        if len(atoms) == 0:
            raise ValueError("it has no atoms")
        if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
            raise ValueError("its positions or its cell are not finite numbers: correct them")
        if all(x is None for x in (self.energy, self.forces, self.stress, self.curvature)):
            raise ValueError("it has no label: give energy, forces, stress or curvature")
        if atoms.calc is not None:
            atoms = atoms.copy()  # without the calculator
        object.__setattr__(self, "atoms", atoms)
        object.__setattr__(self, "weight", _weight(self.weight))
        if self.energy is not None:
            object.__setattr__(self, "energy", finite("energy", self.energy, "eV"))
        if self.forces is not None:
            object.__setattr__(self, "forces", _forces(self.forces, len(atoms)))
        if self.stress is not None:
            object.__setattr__(self, "stress", _stress(self.stress, atoms))
        if self.curvature is not None and self.curvature.products.shape[1] != len(atoms):
            raise ValueError(
                f"its curvature is that of {self.curvature.products.shape[1]} atoms, but it has "
                f"{len(atoms)}"
            )


def _numbers(name: str, values: Any) -> np.ndarray:
    """Return values as an array of float64, or raise if they are not finite numbers."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers: {error}") from error
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, but {(~np.isfinite(array)).sum()} are not")
    return array


def _check_symmetry(H: np.ndarray, largest: float | None = None) -> None:
    """Raise if a matrix is not symmetric, and warn if it is not quite so."""
    largest = float(abs(H).max()) if largest is None else largest
    asymmetry = float(abs(H - H.T).max())
    if asymmetry <= ASYMMETRY * max(largest, 1e-3):
        return
    message = (
        f"the Hessian is not symmetric: entries differ by up to {asymmetry:.3g} eV/Å² from those "
        f"of its transpose, and the largest is {largest:.3g}"
    )
    if asymmetry > LARGEST_ASYMMETRY * largest:
        raise ValueError(f"{message}; check the order of its atoms and directions")
    warnings.warn(f"{message}; a potential can fit only its symmetric part", stacklevel=3)


def _weight(value: Any) -> float:
    weight = finite("weight", value)
    if weight < 0:
        raise ValueError(f"weight must not be negative, but is {weight:g}")
    return weight


def _forces(values: Any, n_atoms: int) -> np.ndarray:
    forces = _numbers("forces", values)
    if forces.shape != (n_atoms, 3):
        raise ValueError(f"forces must have the shape ({n_atoms}, 3), not {forces.shape}")
    largest = float(abs(forces).max())
    if largest > STRONGEST_FORCE:
        raise ValueError(
            f"its largest force is {largest:.3g} eV/Å, more than {STRONGEST_FORCE:g}: convert "
            "forces to eV/Å, or leave the structure out"
        )
    return forces


def _stress(values: Any, atoms: Atoms) -> np.ndarray:
    stress = _numbers("stress", values)
    if stress.shape != (3, 3):
        raise ValueError(
            f"stress must have the shape (3, 3), not {stress.shape}: six numbers in Voigt order "
            "(xx, yy, zz, yz, xz, xy) are converted by ase.stress.voigt_6_to_full_3x3_stress"
        )
    if atoms.cell.rank < 3 or not atoms.pbc.any():
        raise ValueError("it has a stress, but is not periodic in a cell: leave out the stress")
    largest = float(abs(stress).max())
    if largest > LARGEST_STRESS:
        raise ValueError(
            f"its largest stress is {largest:.3g} eV/Å³, more than {LARGEST_STRESS:g}: convert it "
            "from GPa (divide by 160.22) or kbar (by 1602.2), or from a virial (by the volume)"
        )
    if abs(stress - stress.T).max() > 1e-2 * largest + 1e-6:
        raise ValueError("its stress is not symmetric: check the order of its entries")
    return (stress + stress.T) / 2
