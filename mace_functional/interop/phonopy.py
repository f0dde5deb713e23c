"""Conversion of phonons to phonopy and back.

phonopy needs the force constants of a supercell. They are an inverse Fourier sum of D(q),

    Phi(0j, Rk) = sqrt(m_j m_k) / M  sum_q D_jk(q) exp(-2 pi i q.R),

over the M wave vectors that are commensurate with the supercell. At these wave vectors, phonopy's
frequencies are equal to the frequencies of D(q). Between them phonopy interpolates; the error
decreases with the size of the supercell.

phonopy takes the phase of an atom at the position of the atom, this package at the origin of its
cell:

    D_phonopy,jk(q) = exp(2 pi i q.(x_k - x_j)) D_jk(q).

The frequencies are the same, the phases of the eigenvectors differ.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from scipy import constants as codata

from mace_functional.phonons import Diagnostics, Phonons
from mace_functional.phonons.force_constants import ForceConstants
from mace_functional.phonons.phonons import matrix_diagnostics
from mace_functional.support.atomic_write import atomic_write
from mace_functional.support.renamed import positional_for_a_release

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

Supercell = Sequence[int] | Sequence[Sequence[int]] | np.ndarray
"""Repetitions along the lattice vectors, (3,), or phonopy's supercell matrix, (3, 3)."""

COULOMB = codata.e / (4 * math.pi * codata.epsilon_0) / codata.angstrom
"""Coulomb constant e^2 / 4 pi epsilon_0, eV Å."""

CALCULATORS_IN_EV_AND_ANGSTROM = (None, "vasp", "aims", "lammps", "pwmat", "crystal", "castep")
"""Names of calculators for which phonopy has lengths in Å and force constants in eV/Å²."""

MAX_ATOMS = 20_000
"""Largest accepted number of atoms in a supercell.

For this number, phonopy's symmetry search takes minutes.
"""


def to_phonopy(
    phonons: Phonons,
    supercell: Supercell,
    *,
    born: ArrayLike | None = None,
    dielectric: ArrayLike | None = None,
) -> Phonopy:
    """Convert phonons to a `Phonopy` object with force constants.

    phonopy then computes band structures, meshes and thermal properties. Its primitive cell is the
    cell of `phonons`, even if a smaller one exists.

    Args:
        phonons: Phonons of `phonons_of`.
        supercell: Repetitions along the lattice vectors, (3,), or phonopy's supercell matrix.
        born: Born effective charges in e, (N, 3, 3), together with `dielectric`. With them, phonopy
            splits longitudinal and transverse optical modes, by the correction of Gonze and Lee,
            Phys. Rev. B 1997, 55, 10355.
        dielectric: Electronic dielectric tensor, (3, 3).

    Returns:
        The `Phonopy` object. phonopy uses other values of the physical constants, so its
        frequencies in THz differ by a relative 1e-7.

    Raises:
        ValueError: If the cell has fewer than three vectors, the supercell is not valid or repeats
            a direction that is not periodic, or the charges do not fit the structure.
        ImportError: If phonopy is not installed.
    """
    nac = _nac_params(born, dielectric, len(phonons.atoms))
    phonopy = phonopy_of(phonons.atoms, supercell, masses=phonons.masses.cpu().numpy())
    phonopy.force_constants = _supercell_force_constants(phonons, phonopy)
    if nac is not None:
        phonopy.nac_params = nac
    return phonopy


def write_phonopy(
    path: str | os.PathLike[str],
    phonons: Phonons,
    supercell: Supercell,
    *,
    born: ArrayLike | None = None,
    dielectric: ArrayLike | None = None,
) -> None:
    """Write phonons to a phonopy_params.yaml, for `phonopy.load` and phonopy's programs.

    Args:
        path: Name of the file.
        phonons: Phonons of `phonons_of`.
        supercell: See `to_phonopy`.
        born: See `to_phonopy`.
        dielectric: See `to_phonopy`.

    Raises:
        ValueError: See `to_phonopy`.
        ImportError: If phonopy is not installed.
    """
    phonopy = to_phonopy(phonons, supercell, born=born, dielectric=dielectric)
    with atomic_write(Path(path)) as partial:
        phonopy.save(partial)


def from_phonopy(source: Phonopy | str | os.PathLike[str]) -> Phonons:
    """Convert phonopy's force constants to `Phonons`, whatever they were computed with.

    As in phonopy, a force constant between two atoms is divided equally among their nearest images
    in the supercell. D(q) is then the same as phonopy's at every q, except for the phase
    convention. It is a torch function, for `jvp`, `grad` and `vmap` in q.

    Args:
        source: A `Phonopy` object, or the name of a file phonopy.yaml or phonopy_params.yaml.

    Returns:
        The phonons of phonopy's primitive cell, with the atoms inside the cell, in float64 on the
        CPU. phonopy does not know how well the structure is relaxed: the largest force is NaN, the
        largest stress None.

    Raises:
        ValueError: If there are no force constants, or they are not in eV/Å².
        ImportError: If phonopy is not installed.

    Warns:
        UserWarning: If there are Born charges. They are ignored, because with them D(q) has no
            limit at Gamma.
    """
    if isinstance(source, str | os.PathLike):
        require_phonopy()
        from phonopy import load

        phonopy: Phonopy = load(source)
    else:
        phonopy = source
    if phonopy.force_constants is None:
        raise ValueError(
            "phonopy has no force constants: give it forces and call produce_force_constants, or "
            "load a phonopy_params.yaml that holds them"
        )
    if phonopy.calculator not in CALCULATORS_IN_EV_AND_ANGSTROM:
        raise ValueError(
            f"the force constants are in the units of {phonopy.calculator!r}: convert cell and "
            "force constants to Å and eV/Å², and set them in a Phonopy without a calculator"
        )
    if phonopy.nac_params is not None:
        warnings.warn(
            "the Born charges are ignored: optical modes will not split at Gamma",
            stacklevel=2,
        )
    constants = _lattice_force_constants(phonopy)
    primitive = phonopy.primitive
    return Phonons(
        dynamical_matrix=constants.dynamical_matrix,
        atoms=ase_atoms(primitive),
        masses=constants.masses,
        diagnostics=Diagnostics(
            largest_force=math.nan,
            largest_stress=None,
            **matrix_diagnostics(constants.dynamical_matrix, constants.masses, constants.pbc),
        ),
        force_constants=constants,
    )


@positional_for_a_release("masses")
def phonopy_of(atoms: Atoms, supercell: Supercell, *, masses: np.ndarray | None = None) -> Phonopy:
    """Return a `Phonopy` object without force constants for a structure.

    Args:
        atoms: The structure. Its cell becomes phonopy's primitive cell.
        supercell: See `to_phonopy`.
        masses: Masses of the atoms, amu, (N,); None for `atoms.get_masses()`.

    Raises:
        ValueError: If the cell has fewer than three vectors, or the supercell is not valid, is too
            large, or repeats a direction that is not periodic.
        ImportError: If phonopy is not installed.
    """
    require_phonopy()
    from phonopy import Phonopy

    matrix = supercell_matrix(atoms, supercell)
    unit = phonopy_atoms(atoms, masses=masses)
    return Phonopy(unit, supercell_matrix=matrix, primitive_matrix=np.eye(3))


def phonopy_atoms(atoms: Atoms, *, masses: np.ndarray | None = None) -> PhonopyAtoms:
    """Return a structure as phonopy's `PhonopyAtoms`.

    Args:
        atoms: The structure.
        masses: Masses of the atoms, amu, (N,); None for `atoms.get_masses()`.
    """
    from phonopy.structure.atoms import PhonopyAtoms

    return PhonopyAtoms(
        numbers=atoms.numbers,
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(wrap=False),
        masses=atoms.get_masses() if masses is None else masses,
    )


def ase_atoms(cell: PhonopyAtoms) -> Atoms:
    """Return a crystal of phonopy, with its masses, as ASE Atoms."""
    return Atoms(
        cell.numbers,
        scaled_positions=cell.scaled_positions,
        cell=cell.cell,
        masses=cell.masses,
        pbc=True,
    )


def supercell_matrix(atoms: Atoms, supercell: Supercell) -> np.ndarray:
    """Check a supercell of a structure, and return its matrix of integers, (3, 3).

    Args:
        atoms: The structure.
        supercell: See `to_phonopy`.

    Raises:
        ValueError: If the cell has fewer than three vectors, or the supercell is not valid, is too
            large, or repeats a direction that is not periodic.
    """
    if atoms.cell.rank < 3:
        raise ValueError(
            "phonopy needs a cell with three vectors: add vacuum along the missing ones"
        )
    matrix = np.asarray(supercell)
    matrix = np.diag(matrix) if matrix.shape == (3,) else matrix
    integers = np.issubdtype(matrix.dtype, np.integer)
    if not integers or matrix.shape != (3, 3) or np.linalg.det(matrix) < 0.5:
        raise ValueError(
            "a supercell is three integers, or a (3, 3) matrix of integers with a positive "
            f"determinant, not {np.asarray(supercell).tolist()}"
        )
    open_directions = ~np.asarray(atoms.pbc)
    repeated = matrix != np.eye(3)
    if np.any(repeated[open_directions]) or np.any(repeated[:, open_directions]):
        raise ValueError(
            f"the supercell {np.asarray(supercell).tolist()} repeats a direction that is not "
            f"periodic (pbc {atoms.pbc.tolist()}): use 1 for that direction"
        )
    n_atoms = round(np.linalg.det(matrix)) * len(atoms)
    if n_atoms > MAX_ATOMS:
        raise ValueError(
            f"the supercell {np.asarray(supercell).tolist()} has {n_atoms} atoms, more than "
            f"{MAX_ATOMS}: use a smaller one"
        )
    return matrix


def commensurate_points(phonopy: Phonopy) -> np.ndarray:
    """Return the wave vectors commensurate with the supercell, (M, 3), without equivalent ones.

    Args:
        phonopy: Result of `phonopy_of` or `to_phonopy`.
    """
    from phonopy.harmonic.dynmat_to_fc import get_commensurate_points

    return get_commensurate_points(phonopy.supercell_matrix)


def require_phonopy() -> None:
    """Raise an ImportError that says how to install phonopy if it is missing."""
    try:
        import phonopy  # noqa: F401
    except ImportError as error:
        raise ImportError("this needs phonopy: pip install 'mace_functional[phonons]'") from error


def _supercell_force_constants(phonons: Phonons, phonopy: Phonopy) -> np.ndarray:
    """Return the force constants of the atoms of the primitive cell with those of the supercell.

    Returns:
        Force constants in eV/Å², (N, supercell atoms, 3, 3).
    """
    atoms, masses = phonons.atoms, phonons.masses.cpu().numpy()
    first, index = np.asarray(phonopy.primitive.p2s_map), _primitive_indices(phonopy)
    # phonopy wraps atoms into the supercell, so their cells R follow from their positions.
    fractional = phonopy.supercell.positions @ np.linalg.inv(atoms.cell.array)
    cells = np.rint(fractional - atoms.get_scaled_positions(wrap=False)[index])
    R = cells - cells[first][:, None]

    points = commensurate_points(phonopy)
    Phi = np.zeros((len(atoms), len(index), 3, 3))
    for q, weight in _up_to_sign(points):
        matrix = phonons.dynamical_matrix(torch.as_tensor(q).to(phonons.masses))
        blocks = matrix.detach().cpu().numpy().reshape(len(atoms), 3, len(atoms), 3)
        phases = np.exp(-2j * np.pi * (R @ q))[:, :, None, None]
        Phi += weight * (blocks.transpose(0, 2, 1, 3)[:, index] * phases).real
    return Phi * np.sqrt(masses[:, None] * masses[index])[:, :, None, None] / len(points)


def _up_to_sign(points: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Keep one of each pair q and -q, and count the points that it stands for, one or two.

    One is enough, because D(-q) is the complex conjugate of D(q).

    Args:
        points: Wave vectors, (M, 3); with each q, the set contains -q or an equivalent vector.
    """
    differences = points[:, None] + points
    opposite = np.abs(differences - np.rint(differences)).max(2).argmin(1)
    return [(points[i], 1 + (i < j)) for i, j in enumerate(opposite) if i <= j]


def _primitive_indices(phonopy: Phonopy) -> np.ndarray:
    """Return the index in the primitive cell of each atom of the supercell."""
    primitive = phonopy.primitive
    return np.array([primitive.p2p_map[i] for i in primitive.s2p_map])


def _lattice_force_constants(phonopy: Phonopy) -> ForceConstants:
    """Convert the force constants of a supercell to force constants by lattice vectors."""
    primitive = phonopy.primitive
    Phi = np.asarray(phonopy.force_constants)
    if len(Phi) != len(primitive):
        Phi = Phi[primitive.p2s_map]
    shortest, multiplicities = primitive.get_smallest_vectors()
    scaled, index = primitive.scaled_positions, _primitive_indices(phonopy)

    size = len(primitive)
    by_cell: dict[tuple[int, ...], np.ndarray] = {}
    for k, j in np.ndindex(len(index), size):
        count, first = multiplicities[k, j]
        cells = shortest[first : first + count] - scaled[index[k]] + scaled[j]
        for cell in np.rint(cells).astype(int):
            values = by_cell.setdefault(tuple(cell.tolist()), np.zeros((size, 3, size, 3)))
            values[j, :, index[k]] += Phi[j, k] / count
    return ForceConstants(
        cells=torch.tensor(list(by_cell)),
        values=torch.as_tensor(np.array(list(by_cell.values()))),
        positions=torch.as_tensor(scaled @ primitive.cell),
        cell=torch.as_tensor(primitive.cell.copy()),
        pbc=torch.ones(3, dtype=torch.bool),
        masses=torch.as_tensor(np.array(primitive.masses)),
    )


def _nac_params(born: ArrayLike | None, dielectric: ArrayLike | None, atoms: int) -> Any:
    """Return phonopy's parameters of the non-analytical term; None without charges."""
    if born is None and dielectric is None:
        return None
    if born is None or dielectric is None:
        raise ValueError(
            "Born charges need a dielectric tensor, and the other way round: give both"
        )
    charges, tensor = np.asarray(born, dtype=float), np.asarray(dielectric, dtype=float)
    if charges.shape != (atoms, 3, 3) or tensor.shape != (3, 3):
        raise ValueError(
            f"born must be ({atoms}, 3, 3) and dielectric (3, 3), not {charges.shape} and "
            f"{tensor.shape}"
        )
    return {"born": charges, "dielectric": tensor, "factor": COULOMB, "method": "gonze"}
