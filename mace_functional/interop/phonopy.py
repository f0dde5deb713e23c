"""Phonons to phonopy and back.

The force constants that phonopy keeps for a supercell are here the inverse Fourier sum of D(q),

    Phi(0j, Rk) = sqrt(m_j m_k) / M  sum_q D_jk(q) exp(-2 pi i q.R),

over the M wave vectors that are commensurate with the supercell. At these phonopy's frequencies are
those of D(q); between them it interpolates, the better the larger the supercell.

phonopy puts the phase of an atom at its position, and here it is at the cell's,

    D_phonopy,jk(q) = exp(2 pi i q.(x_k - x_j)) D_jk(q),

which changes the phases of eigenvectors and no frequency.
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

Supercell = Sequence[int] | Sequence[Sequence[int]] | np.ndarray
"""Repetitions along the lattice vectors, (3,), or phonopy's supercell matrix, (3, 3)."""

COULOMB = codata.e / (4 * math.pi * codata.epsilon_0) / codata.angstrom
"""e^2 / 4 pi epsilon_0, eV Å."""

IN_EV_AND_ANGSTROM = (None, "vasp", "aims", "lammps", "pwmat", "crystal", "castep")
"""Calculators for which phonopy has lengths in Å and force constants in eV/Å²."""


MOST_ATOMS = 20_000
"""Of a supercell; phonopy takes minutes to look for the symmetry of as many."""


def to_phonopy(
    phonons: Phonons,
    supercell: Supercell,
    *,
    born: ArrayLike | None = None,
    dielectric: ArrayLike | None = None,
) -> Phonopy:
    """A `Phonopy` object, with force constants for band structures, meshes, thermal properties.

    Its primitive cell is the cell of `phonons`, whether a smaller one exists or not.

    Args:
        phonons: From `phonons_of`.
        supercell: Repetitions along the lattice vectors, (3,), or phonopy's supercell matrix.
        born: Born effective charges in e, (N, 3, 3), where phonopy is to split longitudinal and
            transverse optical modes, by the correction of Gonze and Lee, Phys. Rev. B 1997, 55,
            10355; with `dielectric`.
        dielectric: Electronic dielectric tensor, (3, 3).

    Returns:
        The object. phonopy has constants of nature of its own: its THz differ by 1e-7 of them.

    Raises:
        ValueError: If the cell lacks a vector, the supercell is none or repeats a direction that is
            not periodic, or the charges do not fit the structure.
        ImportError: If phonopy is not installed.
    """
    nac = _nac_params(born, dielectric, len(phonons.atoms))
    phonopy = phonopy_of(phonons.atoms, supercell, masses=phonons.masses.cpu().numpy())
    phonopy.force_constants = _folded(phonons, phonopy)
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
    """Write what `to_phonopy` makes as a phonopy_params.yaml, for `phonopy.load` and its programs.

    Args:
        path: The file.
        phonons: From `phonons_of`.
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
    """Phonons from phonopy's force constants, whatever they were computed with.

    Each force constant is shared out, as phonopy does it, among the equally near images of the two
    atoms in the supercell, so that D(q) is phonopy's at every q but for the phase convention. It is
    a function of torch for `jvp`, `grad` and `vmap` in q.

    Args:
        source: An object, or a file phonopy.yaml or phonopy_params.yaml.

    Returns:
        The phonons of phonopy's primitive cell, with the atoms inside of it, in float64 on the CPU.
        Phonopy does not know how well the structure is relaxed: the largest force is NaN, the
        largest stress None.

    Raises:
        ValueError: If there are no force constants, or they are not in eV/Å².
        ImportError: If phonopy is not installed.

    Warns:
        UserWarning: If there are Born charges: they are left out, as D(q) would have no limit at
            Gamma.
    """
    if isinstance(source, str | os.PathLike):
        _require()
        from phonopy import load

        phonopy: Phonopy = load(source)
    else:
        phonopy = source
    if phonopy.force_constants is None:
        raise ValueError(
            "phonopy has no force constants: give it forces and call produce_force_constants, or "
            "load a phonopy_params.yaml that holds them"
        )
    if phonopy.calculator not in IN_EV_AND_ANGSTROM:
        raise ValueError(
            f"the force constants are in the units of {phonopy.calculator!r}: convert cell and "
            "force constants to Å and eV/Å², and set them in a Phonopy without a calculator"
        )
    if phonopy.nac_params is not None:
        warnings.warn(
            "the Born charges are left out: optical modes will not split at Gamma",
            stacklevel=2,
        )
    constants = _shared_out(phonopy)
    primitive = phonopy.primitive
    return Phonons(
        dynamical_matrix=constants.dynamical_matrix,
        atoms=Atoms(
            primitive.numbers,
            scaled_positions=primitive.scaled_positions,
            cell=primitive.cell,
            masses=primitive.masses,
            pbc=True,
        ),
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
    """A `Phonopy` object without force constants, whose primitive cell is that of the atoms.

    Args:
        atoms: The structure.
        supercell: See `to_phonopy`.
        masses: amu, (N,); those of the atoms if None.

    Raises:
        ValueError: If the cell lacks a vector, the supercell is none or repeats a direction that is
            not periodic.
        ImportError: If phonopy is not installed.
    """
    _require()
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    if atoms.cell.rank < 3:
        raise ValueError("phonopy needs a cell with three vectors: give the others with vacuum")
    matrix = np.asarray(supercell)
    matrix = np.diag(matrix) if matrix.shape == (3,) else matrix
    whole = np.issubdtype(matrix.dtype, np.integer)
    if not whole or matrix.shape != (3, 3) or np.linalg.det(matrix) < 0.5:
        raise ValueError(
            "a supercell is three whole numbers, or a (3, 3) matrix of them with a positive "
            f"determinant, not {np.asarray(supercell).tolist()}"
        )
    still = ~np.asarray(atoms.pbc)
    if np.any((matrix != np.eye(3))[still]) or np.any((matrix != np.eye(3))[:, still]):
        raise ValueError(
            f"the supercell {np.asarray(supercell).tolist()} repeats a direction that is not "
            f"periodic (pbc {atoms.pbc.tolist()}): leave it at 1 there"
        )
    atoms_there = round(np.linalg.det(matrix)) * len(atoms)
    if atoms_there > MOST_ATOMS:
        raise ValueError(
            f"the supercell {np.asarray(supercell).tolist()} has {atoms_there} atoms, more than "
            f"{MOST_ATOMS}: take a smaller one"
        )
    unit = PhonopyAtoms(
        numbers=atoms.numbers,
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(wrap=False),
        masses=atoms.get_masses() if masses is None else masses,
    )
    return Phonopy(unit, supercell_matrix=matrix, primitive_matrix=np.eye(3))


def commensurate_points(phonopy: Phonopy) -> np.ndarray:
    """Wave vectors with a whole number of waves in the supercell, (M, 3), one of each q and q + G.

    Args:
        phonopy: From `phonopy_of` or `to_phonopy`.
    """
    from phonopy.harmonic.dynmat_to_fc import get_commensurate_points

    return get_commensurate_points(phonopy.supercell_matrix)


def _require() -> None:
    """Say how to install phonopy where it is missing."""
    try:
        import phonopy  # noqa: F401
    except ImportError as error:
        raise ImportError("this needs phonopy: pip install 'mace_functional[phonons]'") from error


def _folded(phonons: Phonons, phonopy: Phonopy) -> np.ndarray:
    """Force constants between each atom of the primitive cell and each of the supercell, eV/Å².

    Returns:
        (N, supercell atoms, 3, 3).
    """
    atoms, masses = phonons.atoms, phonons.masses.cpu().numpy()
    home, number = np.asarray(phonopy.primitive.p2s_map), _primitive_indices(phonopy)
    # phonopy moves atoms into its cells: these are the cells where it has put them.
    fractional = phonopy.supercell.positions @ np.linalg.inv(atoms.cell.array)
    cells = np.rint(fractional - atoms.get_scaled_positions(wrap=False)[number])
    vectors = cells - cells[home][:, None]

    points = commensurate_points(phonopy)
    folded = np.zeros((len(atoms), len(number), 3, 3))
    for q, weight in _up_to_sign(points):
        matrix = phonons.dynamical_matrix(torch.as_tensor(q).to(phonons.masses))
        blocks = matrix.detach().cpu().numpy().reshape(len(atoms), 3, len(atoms), 3)
        phases = np.exp(-2j * np.pi * (vectors @ q))[:, :, None, None]
        folded += weight * (blocks.transpose(0, 2, 1, 3)[:, number] * phases).real
    return folded * np.sqrt(masses[:, None] * masses[number])[:, :, None, None] / len(points)


def _up_to_sign(points: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """One of q and -q, as D(-q) is the conjugate of D(q), and how many of the points it stands for.

    Args:
        points: Closed under inversion, up to whole numbers, (M, 3).
    """
    differences = points[:, None] + points
    opposite = np.abs(differences - np.rint(differences)).max(2).argmin(1)
    return [(points[i], 1 + (i < j)) for i, j in enumerate(opposite) if i <= j]


def _primitive_indices(phonopy: Phonopy) -> np.ndarray:
    """Atom of the primitive cell that each atom of the supercell is an image of."""
    primitive = phonopy.primitive
    return np.array([primitive.p2p_map[i] for i in primitive.s2p_map])


def _shared_out(phonopy: Phonopy) -> ForceConstants:
    """Force constants by lattice vectors, from those of a supercell."""
    primitive = phonopy.primitive
    folded = np.asarray(phonopy.force_constants)
    if len(folded) != len(primitive):
        folded = folded[primitive.p2s_map]
    shortest, multiplicities = primitive.get_smallest_vectors()
    scaled, number = primitive.scaled_positions, _primitive_indices(phonopy)

    size = len(primitive)
    found: dict[tuple[int, ...], np.ndarray] = {}
    for k, j in np.ndindex(len(number), size):
        count, first = multiplicities[k, j]
        cells = shortest[first : first + count] - scaled[number[k]] + scaled[j]
        for cell in np.rint(cells).astype(int):
            values = found.setdefault(tuple(cell.tolist()), np.zeros((size, 3, size, 3)))
            values[j, :, number[k]] += folded[j, k] / count
    return ForceConstants(
        cells=torch.tensor(list(found)),
        values=torch.as_tensor(np.array(list(found.values()))),
        positions=torch.as_tensor(scaled @ primitive.cell),
        cell=torch.as_tensor(primitive.cell.copy()),
        pbc=torch.ones(3, dtype=torch.bool),
        masses=torch.as_tensor(np.array(primitive.masses)),
    )


def _nac_params(born: ArrayLike | None, dielectric: ArrayLike | None, atoms: int) -> Any:
    """What phonopy needs for its non-analytical term, if anything."""
    if born is None and dielectric is None:
        return None
    if born is None or dielectric is None:
        raise ValueError("Born charges and dielectric tensor are needed together: give both")
    charges, tensor = np.asarray(born, dtype=float), np.asarray(dielectric, dtype=float)
    if charges.shape != (atoms, 3, 3) or tensor.shape != (3, 3):
        raise ValueError(
            f"born must be ({atoms}, 3, 3) and dielectric (3, 3), not {charges.shape} and "
            f"{tensor.shape}"
        )
    return {"born": charges, "dielectric": tensor, "factor": COULOMB, "method": "gonze"}
