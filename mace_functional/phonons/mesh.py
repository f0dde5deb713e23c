"""Meshes of wave vectors, reduced by symmetry, and the modes on them.

A mesh has the wave vectors q_i = (a_i + s_i / 2) / n_i with integers a_i, and shifts s_i of 0 or 1.
One wave vector of each star is kept. Frequencies at q are equal to those at -q, and to those at
R q for each operation R of the space group that maps the mesh onto itself.

Source: Monkhorst, Pack, Phys. Rev. B 1976, 13, 5188, doi:10.1103/PhysRevB.13.5188; operations of
the space group from spglib, Togo et al., Sci. Technol. Adv. Mater. Methods 2024, 4, 2384822.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from mace_functional.autodiff.concrete import is_concrete, refuse_transforms
from mace_functional.autodiff.memory import check_fits
from mace_functional.phonons.modes import (
    WITH_DERIVATIVES,
    check_crystal,
    modes_at_q,
    signed_frequencies,
    warn_if_not_relaxed,
)
from mace_functional.phonons.solved_modes import Solved, solved_modes
from mace_functional.structure.symmetry import Operations
from mace_functional.support import validation
from mace_functional.support.callable_frequencies import callable_frequencies
from mace_functional.support.checkpoint_arrays import write_arrays
from mace_functional.support.defaults import MESH_SPACING, SYMPREC
from mace_functional.support.renamed import OldAttribute, warn_renamed
from mace_functional.support.validation import MOST_WAVE_VECTORS
from mace_functional.vibrations.imaginary import ImaginaryMode, imaginary_modes
from mace_functional.vibrations.result_text import frequencies_text, result_text
from mace_functional.vibrations.thermodynamics import WeightedFrequencies

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms

    from mace_functional.phonons.phonons import Phonons

SAVE_INTERVAL = 60.0
"""Time between two writes of a checkpoint, s."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """Wave vectors that sample the Brillouin zone, one of each star.

    Attributes:
        size: Number of points along each reciprocal lattice vector.
        shift: True for each reciprocal lattice vector along which the mesh is shifted by half a
            step.
        q: Inequivalent wave vectors in units of the reciprocal lattice vectors, (Q, 3).
        weights: Weights of the q, with sum 1, (Q,).
        mapping: Index of the equivalent q for each point of the full mesh, (n1, n2, n3).
        reciprocal: Reciprocal lattice vectors as rows, with the factor 2 pi, 1/Å, (3, 3).
        rotations: Cartesian rotations of the operations that map crystal and mesh onto themselves,
            (G, 3, 3).
        permutations: Number of the atom to which each operation maps each atom, (G, N).
    """

    size: tuple[int, int, int]
    shift: tuple[bool, bool, bool]
    q: Tensor
    weights: Tensor
    mapping: Tensor
    reciprocal: Tensor
    rotations: Tensor
    permutations: Tensor

    def __repr__(self) -> str:
        return result_text(self, self.description)

    @property
    def description(self) -> str:
        """Description of the mesh, such as "3 x 3 x 3, 27 wave vectors, 7 inequivalent"."""
        size = " x ".join(map(str, self.size)) + ", shifted" * any(self.shift)
        return f"{size}, {math.prod(self.size)} wave vectors, {len(self.q)} inequivalent"

    @classmethod
    def of(
        cls,
        atoms: Atoms,
        size: Sequence[int],
        *,
        shift: Sequence[bool] = (False, False, False),
        symmetry: bool = True,
        symprec: float = SYMPREC,
        proper: bool = False,
    ) -> Mesh:
        """Make a mesh for a crystal; it contains Gamma unless it is shifted.

        Args:
            atoms: The crystal. Atoms of one element with different masses are inequivalent.
            size: Points along each reciprocal lattice vector; 1 in directions that are not
                periodic.
            shift: True to shift the mesh by half a step, for each reciprocal lattice vector.
            symmetry: Reduce the mesh by the space group and q -> -q; False for q -> -q alone.
            symprec: Largest distance of an atom from the position that an operation gives, Å.
            proper: Leave out improper operations, which change the handedness, for the few models
                whose energy distinguishes mirror images.

        Raises:
            ValueError: If the structure is a molecule, the size is not three positive integers, the
                mesh has several points along a direction that is not periodic, or no symmetry is
                found.
        """
        size, shift = _checked_size(atoms, size, shift)
        operations = (
            Operations.of(atoms, _kinds(atoms), symprec, proper)
            if symmetry
            else Operations.identity(len(atoms))
        )
        half = np.array(shift) / 2
        points = (np.indices(size).reshape(3, -1).T + half) / size
        points -= np.round(points)
        valid, star = [], np.arange(len(points))
        for i_operation, rotation in enumerate(operations.lattice):
            for sign in 1, -1:
                new_indices = sign * points @ rotation * size - half
                rounded = np.rint(new_indices).astype(int)
                if abs(new_indices - rounded).max() > 1e-6:
                    break  # the operation does not map the mesh onto itself
                images = np.ravel_multi_index(tuple((rounded % size).T), size)
                star = np.minimum(star, images)
            else:
                valid.append(i_operation)
        representatives, mapping, counts = np.unique(star, return_inverse=True, return_counts=True)
        lattice = atoms.cell.complete()
        return cls(
            size=size,
            shift=shift,
            q=torch.as_tensor(points[representatives]),
            weights=torch.as_tensor(counts / len(points)),
            mapping=torch.as_tensor(mapping.reshape(size)),
            reciprocal=torch.as_tensor(2 * np.pi * lattice.reciprocal().array),
            rotations=torch.as_tensor(operations.cartesian[valid]),
            permutations=torch.as_tensor(operations.atom[valid]),
        )


@dataclass(frozen=True, eq=False)
class MeshModes:
    """Modes of a crystal on a mesh of wave vectors.

    Attributes:
        mesh: Mesh of wave vectors.
        eigenvalues: Eigenvalues of the dynamical matrices, ascending, eV/Å²/amu, (Q, 3N); exactly
            zero for rigid motions.
        eigenvectors: Complex eigenvectors, (Q, 3N, N, 3), or None if they were not kept.
        masses: Masses in amu, (N,).
        n_rigid: Number of rigid motions at each q, (Q,): the acoustic modes at Gamma, and at every
            q all rigid motions of molecules that are connected to nothing else.
    """

    mesh: Mesh
    eigenvalues: Tensor
    eigenvectors: Tensor | None
    masses: Tensor
    n_rigid: Tensor

    def __repr__(self) -> str:
        return result_text(
            self,
            self.mesh.description,
            f"{self.eigenvalues.shape[-1]} modes each",
            frequencies_text(signed_frequencies(self.eigenvalues, "cm-1"), "cm-1"),
        )

    def weighted_frequencies(self) -> WeightedFrequencies:
        """Return the frequencies, their weights and the numbers of rigid motions."""
        weights = self.mesh.weights.to(self.eigenvalues)
        frequencies = self.frequencies_in("cm-1")
        return WeightedFrequencies(frequencies, "cm-1", weights, self.n_rigid, self.masses.sum())

    @property
    def frequencies(self) -> Tensor:
        """Signed frequencies in cm-1, (Q, 3N); imaginary modes are negative."""
        values = self.frequencies_in("cm-1")
        return callable_frequencies(values, self.frequencies_in) if is_concrete(values) else values

    def frequencies_in(self, unit: str) -> Tensor:
        """Return the frequencies in "cm-1", "THz" or "meV"."""
        return signed_frequencies(self.eigenvalues, unit)

    @property
    def imaginary_modes(self) -> list[ImaginaryMode]:
        """Imaginary modes, frequencies in cm-1, the most unstable first."""
        return imaginary_modes(self.mesh.q, self.frequencies_in("cm-1"), self.eigenvectors)

    @property
    def n_imaginary(self) -> int:
        """Number of imaginary modes, over all wave vectors of the mesh."""
        return int((self.eigenvalues < 0).sum())

    def imaginary(self, unit: str = "cm-1") -> list[ImaginaryMode]:
        """Return the imaginary modes in a unit: an old name."""
        warn_renamed("MeshModes.imaginary()", "MeshModes.imaginary_modes")
        return imaginary_modes(self.mesh.q, self.frequencies_in(unit), self.eigenvectors)

    rigid = OldAttribute("n_rigid")


def mesh_modes(
    phonons: Phonons,
    mesh: Mesh,
    *,
    eigenvectors: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> MeshModes:
    """Compute the modes at every wave vector of a mesh, one after the other or by many workers.

    Args:
        phonons: Phonons of `phonons_of`.
        mesh: Mesh of `Mesh.of` for the same structure.
        eigenvectors: Keep eigenvectors: 16 (3N)^2 bytes for each q.
        checkpoint: File (npz) to which finished wave vectors are written every minute, and on
            interruption. If it exists, the calculation continues from it. The first wave vector is
            computed again, to check that the file belongs to the same model.
        executor: Executor whose workers share the wave vectors; see `WorkerProcesses`. None to
            compute in this process.
        progress: Show a progress bar.

    Returns:
        The modes.

    Raises:
        ValueError: If the structure is a molecule, mesh or checkpoint belong to something else, or
            the phonons cannot be sent to processes.
        ChildProcessError: If the executor is broken, or its workers die again and again.

    Warns:
        UserWarning: The structure is far from relaxed.
    """
    refuse_transforms("mesh_modes", WITH_DERIVATIVES, phonons.masses, mesh.q)
    check_crystal(phonons.atoms, "a mesh")
    warn_if_not_relaxed(phonons)
    _check_mesh(phonons, mesh)
    if eigenvectors:
        size = 2 * len(mesh.q) * (3 * len(phonons.masses)) ** 2 * phonons.masses.element_size()
        check_fits(
            "eigenvectors on the mesh",
            size,
            phonons.masses.device,
            "take a smaller mesh, or eigenvectors=False",
        )
    path = None if checkpoint is None else Path(checkpoint)
    done = [] if path is None else _load(path, phonons, mesh, eigenvectors)
    n_saved, saved_at = len(done), time.monotonic()
    remaining = mesh.q[len(done) :]
    solved = solved_modes(phonons, remaining, eigenvectors=eigenvectors, executor=executor)
    shown = track(solved, "Mesh", total=len(mesh.q), completed=len(done), disable=not progress)
    try:
        for modes in shown:
            done.append(modes)
            if path is not None and time.monotonic() - saved_at > SAVE_INTERVAL:
                _save(path, phonons, mesh, done)
                n_saved, saved_at = len(done), time.monotonic()
    finally:
        solved.close()
        if path is not None and len(done) > n_saved:
            _save(path, phonons, mesh, done)
    all_vectors = [vectors for _, vectors in done if vectors is not None]
    return MeshModes(
        mesh=mesh,
        eigenvalues=torch.stack([values for values, _ in done]),
        eigenvectors=torch.stack(all_vectors) if eigenvectors else None,
        masses=phonons.masses,
        n_rigid=torch.tensor([phonons.rigid.count_at(q) for q in mesh.q.numpy()]).to(
            phonons.masses.device
        ),
    )


def mesh_size(atoms: Atoms, spacing: float = MESH_SPACING) -> tuple[int, int, int]:
    """Return the coarsest mesh whose neighbouring points are at most a distance apart.

    Along reciprocal lattice vector b_i (with the factor 2 pi), n_i = |b_i| / spacing, rounded up.

    Args:
        atoms: The crystal. Directions that are not periodic have one point.
        spacing: Largest distance of neighbouring points, 1/Å.

    Returns:
        The size, as `Mesh.of` takes it.

    Raises:
        ValueError: If the spacing is not positive, or gives more than `MOST_WAVE_VECTORS` points.
    """
    spacing = validation.positive("the spacing of a mesh", spacing, "1/Å")
    lengths = 2 * np.pi * np.linalg.norm(atoms.cell.complete().reciprocal(), axis=1)
    # The factor 1 - 1e-9 allows for rounding of lengths that are multiples of the spacing.
    counts = np.where(atoms.pbc, np.ceil(lengths / spacing * (1 - 1e-9)), 1)
    if not np.prod(counts) <= MOST_WAVE_VECTORS:
        raise ValueError(
            f"a spacing of {spacing:g} 1/Å gives a mesh of {np.prod(counts):.0e} wave vectors: "
            "choose a larger spacing"
        )
    n1, n2, n3 = np.maximum(counts, 1).astype(int).tolist()
    return n1, n2, n3


def _checked_size(
    atoms: Atoms, size: Sequence[int], shift: Sequence[bool]
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Return size and shift as tuples; raise an error if they do not fit the crystal."""
    check_crystal(atoms, "a mesh")
    sizes = validation.mesh(size)
    shifts = [bool(s) for s in shift]
    if len(shifts) != 3 or any(s not in (0, 1) for s in shift):
        raise ValueError(
            f"the shift of a mesh is three booleans, for half a step or none, not {shift!r}"
        )
    for n, s, periodic in zip(sizes, shifts, atoms.pbc, strict=True):
        if not periodic and (n != 1 or s):
            raise ValueError(
                f"a mesh of size {tuple(sizes)} and shift {tuple(shifts)} extends along a "
                f"direction that is not periodic (pbc {atoms.pbc.tolist()}): give it one point "
                "and no shift in that direction"
            )
    return sizes, (shifts[0], shifts[1], shifts[2])


def _kinds(atoms: Atoms) -> NDArray[Any]:
    """Return a number for each atom; it is equal for atoms of equal element and mass."""
    element_and_mass = np.stack([atoms.numbers, atoms.get_masses()])
    return np.unique(element_and_mass, axis=1, return_inverse=True)[1].reshape(-1)


def _check_mesh(phonons: Phonons, mesh: Mesh) -> None:
    """Raise an error if the mesh was made for another structure."""
    reciprocal = 2 * np.pi * phonons.atoms.cell.complete().reciprocal().array
    if mesh.permutations.shape[1] != len(phonons.masses) or not np.allclose(
        mesh.reciprocal.numpy(), reciprocal
    ):
        raise ValueError("the mesh was made for another structure: make a new one with Mesh.of")


Done = list[Solved]
"""Modes at the finished wave vectors."""


def _identity(phonons: Phonons, mesh: Mesh) -> dict[str, Any]:
    """Return the arrays that identify the calculation of a checkpoint."""
    atoms = phonons.atoms
    return {
        "q": mesh.q.numpy(),
        "numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": atoms.cell.array,
        "masses": phonons.masses.cpu().numpy(),
    }


def _save(path: Path, phonons: Phonons, mesh: Mesh, done: Done) -> None:
    values = np.stack([values.cpu().numpy() for values, _ in done])
    vectors = [vectors.cpu().numpy() for _, vectors in done if vectors is not None]
    write_arrays(
        path,
        {
            "eigenvalues": values,
            "eigenvectors": np.array(vectors),
            **_identity(phonons, mesh),
        },
    )


def _load(path: Path, phonons: Phonons, mesh: Mesh, eigenvectors: bool) -> Done:
    """Read the finished wave vectors; compute the first again to check the model."""
    if not path.exists():
        return []
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (BadZipFile, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no checkpoint of a mesh: name another file") from error
    missing = {"eigenvalues", "eigenvectors", *_identity(phonons, mesh)} - set(arrays)
    if missing:
        raise ValueError(f"{path} is no checkpoint of a mesh: it lacks {sorted(missing)}")
    for name, expected in _identity(phonons, mesh).items():
        stored = arrays[name]
        if stored.shape != expected.shape or not np.allclose(stored, expected, rtol=0, atol=1e-10):
            raise ValueError(
                f"the checkpoint {path} has other {name}: name another file, or remove it"
            )
    if eigenvectors and len(arrays["eigenvectors"]) != len(arrays["eigenvalues"]):
        raise ValueError(
            f"the checkpoint {path} has no eigenvectors: name another file, or set "
            "eigenvectors=False"
        )
    values = torch.as_tensor(arrays["eigenvalues"]).to(phonons.masses)
    recomputed, _ = modes_at_q(phonons, mesh.q[0])
    noise = 1e4 * torch.finfo(recomputed.dtype).eps * recomputed.abs().max()
    if (values[0] - recomputed).abs().max() > noise:
        raise ValueError(
            f"the checkpoint {path} has other frequencies at q = {mesh.q[0].tolist()}: it belongs "
            "to another model; name another file, or remove it"
        )
    if not eigenvectors:
        return [(vector_values, None) for vector_values in values]
    vectors = torch.as_tensor(arrays["eigenvectors"]).to(phonons.masses.device)
    return list(zip(values, vectors.to(recomputed.dtype.to_complex()), strict=True))
