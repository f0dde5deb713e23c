"""Meshes of wave vectors, reduced by symmetry, and the modes on them.

A mesh has the wave vectors q_i = (a_i + s_i / 2) / n_i with integers a_i, and shifts s_i of 0 or 1.
One of each star is kept: frequencies at R q, for an operation R of the space group that maps the
mesh onto itself, and at -q are those at q.

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
from mace_functional.structure.symmetry import Operations
from mace_functional.support import validation
from mace_functional.support.atomic_write import atomic_write
from mace_functional.support.callable_frequencies import callable_frequencies
from mace_functional.support.defaults import MESH_SPACING, SYMPREC
from mace_functional.support.renamed import OldAttribute, warn_renamed
from mace_functional.support.validation import MOST_WAVE_VECTORS
from mace_functional.vibrations.imaginary import ImaginaryMode, imaginary_modes
from mace_functional.vibrations.result_text import frequencies_text, result_text
from mace_functional.vibrations.thermodynamics import WeightedFrequencies

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.phonons.phonons import Phonons

SAVE_EVERY = 60.0
"""Seconds between two versions of a checkpoint."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """Wave vectors that sample the Brillouin zone, one of each star.

    Attributes:
        size: Points along each reciprocal lattice vector.
        shift: Whether the mesh is moved by half a step along each of them.
        q: In units of the reciprocal lattice vectors, (Q, 3).
        weights: Of the q, with sum 1, (Q,).
        mapping: Which q stands for each point of the whole mesh, (n1, n2, n3).
        reciprocal: Reciprocal lattice vectors, as rows, with the factor 2 pi, 1/Å, (3, 3).
        rotations: Of the operations that map crystal and mesh onto themselves, Cartesian,
            (G, 3, 3).
        permutations: The atom on which each operation puts each atom, (G, N).
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
        """The mesh in words, as "3 x 3 x 3, 27 wave vectors, 7 inequivalent"."""
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
        """A mesh for a crystal; it holds Gamma unless it is shifted.

        Args:
            atoms: The crystal. Atoms of one element but different masses are different.
            size: Points along each reciprocal lattice vector; 1 where the crystal is not periodic.
            shift: Move the mesh by half a step along each of them.
            symmetry: Reduce by the space group. Without, by q -> -q alone.
            symprec: How far atoms may be from where an operation takes them, Å.
            proper: Leave out operations that make left hands of right ones, for the few models
                whose energy tells them apart.

        Raises:
            ValueError: If the structure is a molecule, the size is not three positive integers, the
                mesh goes along a direction that is not periodic, or no symmetry is found.
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
        kept, star = [], np.arange(len(points))
        for number, rotation in enumerate(operations.lattice):
            for sign in 1, -1:
                address = sign * points @ rotation * size - half
                whole = np.rint(address).astype(int)
                if abs(address - whole).max() > 1e-6:
                    break  # it maps the crystal onto itself, but not the mesh
                images = np.ravel_multi_index(tuple((whole % size).T), size)
                star = np.minimum(star, images)
            else:
                kept.append(number)
        first, mapping, counts = np.unique(star, return_inverse=True, return_counts=True)
        lattice = atoms.cell.complete()
        return cls(
            size=size,
            shift=shift,
            q=torch.as_tensor(points[first]),
            weights=torch.as_tensor(counts / len(points)),
            mapping=torch.as_tensor(mapping.reshape(size)),
            reciprocal=torch.as_tensor(2 * np.pi * lattice.reciprocal().array),
            rotations=torch.as_tensor(operations.cartesian[kept]),
            permutations=torch.as_tensor(operations.atom[kept]),
        )


@dataclass(frozen=True, eq=False)
class MeshModes:
    """The modes of a crystal on a mesh.

    Attributes:
        mesh: The mesh.
        eigenvalues: Of the dynamical matrices, ascending, eV/Å²/amu, (Q, 3N); exactly zero for the
            rigid motions.
        eigenvectors: Complex, (Q, 3N, N, 3), or None if they were not asked for.
        masses: amu, (N,).
        n_rigid: How many rigid motions there are at each q, (Q,): the acoustic modes at Gamma, and
            all rigid motions of molecules that are connected to nothing else, at every q.
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
        """What `harmonic_thermo` sums over: all modes but rigid motions, weighted by q."""
        weights = self.mesh.weights.to(self.eigenvalues)
        frequencies = self.frequencies_in("cm-1")
        return WeightedFrequencies(frequencies, "cm-1", weights, self.n_rigid, self.masses.sum())

    @property
    def frequencies(self) -> Tensor:
        """Signed frequencies in cm-1, (Q, 3N); imaginary modes are negative."""
        values = self.frequencies_in("cm-1")
        return callable_frequencies(values, self.frequencies_in) if is_concrete(values) else values

    def frequencies_in(self, unit: str) -> Tensor:
        """The frequencies in "cm-1", "THz" or "meV"."""
        return signed_frequencies(self.eigenvalues, unit)

    @property
    def imaginary_modes(self) -> list[ImaginaryMode]:
        """The imaginary modes, in cm-1, the most unstable first."""
        return imaginary_modes(self.mesh.q, self.frequencies_in("cm-1"), self.eigenvectors)

    @property
    def n_imaginary(self) -> int:
        """Number of imaginary modes, over all wave vectors of the mesh."""
        return int((self.eigenvalues < 0).sum())

    def imaginary(self, unit: str = "cm-1") -> list[ImaginaryMode]:
        """The imaginary modes in a unit: an old name."""
        warn_renamed("MeshModes.imaginary()", "MeshModes.imaginary_modes")
        return imaginary_modes(self.mesh.q, self.frequencies_in(unit), self.eigenvectors)

    rigid = OldAttribute("n_rigid")


def mesh_modes(
    phonons: Phonons,
    mesh: Mesh,
    *,
    eigenvectors: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> MeshModes:
    """The modes at every wave vector of a mesh, one after the other.

    Args:
        phonons: From `phonons_of`.
        mesh: From `Mesh.of`, of the same structure.
        eigenvectors: Keep them: 16 (3N)^2 bytes for each q.
        checkpoint: A file (npz) that keeps what is done, when the calculation is interrupted and
            every minute. If it is there, the calculation goes on from it. To see that it is of the
            same model, its first matrix alone is computed again.
        progress: Show a progress bar.

    Returns:
        The modes.

    Raises:
        ValueError: If the structure is a molecule, or mesh or checkpoint are of something else.

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
    saved, saved_at = len(done), time.monotonic()
    left = track(
        mesh.q[len(done) :],
        "Mesh",
        total=len(mesh.q),
        completed=len(done),
        disable=not progress,
    )
    try:
        for q in left:
            values, vectors = modes_at_q(phonons, q)
            done.append((values, vectors if eigenvectors else None))
            if path is not None and time.monotonic() - saved_at > SAVE_EVERY:
                _save(path, phonons, mesh, done)
                saved, saved_at = len(done), time.monotonic()
    finally:
        if path is not None and len(done) > saved:
            _save(path, phonons, mesh, done)
    kept = [vectors for _, vectors in done if vectors is not None]
    return MeshModes(
        mesh=mesh,
        eigenvalues=torch.stack([values for values, _ in done]),
        eigenvectors=torch.stack(kept) if eigenvectors else None,
        masses=phonons.masses,
        n_rigid=torch.tensor([phonons.rigid.count_at(q) for q in mesh.q.numpy()]).to(
            phonons.masses.device
        ),
    )


def mesh_size(atoms: Atoms, spacing: float = MESH_SPACING) -> tuple[int, int, int]:
    """The coarsest mesh whose neighbours are at most a distance apart.

    Along reciprocal lattice vector b_i (with the factor 2 pi), n_i = |b_i| / spacing, rounded up.

    Args:
        atoms: The crystal; one point along directions that are not periodic.
        spacing: The distance, 1/Å.

    Returns:
        The size, as `Mesh.of` takes it.

    Raises:
        ValueError: If the spacing is not positive, or makes more than `MOST_WAVE_VECTORS` points.
    """
    spacing = validation.positive("the spacing of a mesh", spacing, "1/Å")
    lengths = 2 * np.pi * np.linalg.norm(atoms.cell.complete().reciprocal(), axis=1)
    # A length that is a multiple of the spacing but for rounding takes that many points.
    counts = np.where(atoms.pbc, np.ceil(lengths / spacing * (1 - 1e-9)), 1)
    if not np.prod(counts) <= MOST_WAVE_VECTORS:
        raise ValueError(
            f"a spacing of {spacing:g} 1/Å makes a mesh of {np.prod(counts):.0e} wave vectors: "
            "take a larger one"
        )
    n1, n2, n3 = np.maximum(counts, 1).astype(int).tolist()
    return n1, n2, n3


def _checked_size(
    atoms: Atoms, size: Sequence[int], shift: Sequence[bool]
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    check_crystal(atoms, "a mesh")
    whole = validation.mesh(size)
    moved = [bool(s) for s in shift]
    if len(moved) != 3 or any(s not in (0, 1) for s in shift):
        raise ValueError(
            f"the shift of a mesh is three booleans, for half a step or none, not {shift!r}"
        )
    for n, s, periodic in zip(whole, moved, atoms.pbc, strict=True):
        if not periodic and (n != 1 or s):
            raise ValueError(
                f"a mesh of size {tuple(whole)} and shift {tuple(moved)} goes along a direction "
                f"that is not periodic (pbc {atoms.pbc.tolist()}): give it one point there, and "
                "no shift"
            )
    return whole, (moved[0], moved[1], moved[2])


def _kinds(atoms: Atoms) -> NDArray[Any]:
    """What tells atoms apart in their vibrations: element and mass."""
    both = np.stack([atoms.numbers, atoms.get_masses()])
    return np.unique(both, axis=1, return_inverse=True)[1].reshape(-1)


def _check_mesh(phonons: Phonons, mesh: Mesh) -> None:
    reciprocal = 2 * np.pi * phonons.atoms.cell.complete().reciprocal().array
    if mesh.permutations.shape[1] != len(phonons.masses) or not np.allclose(
        mesh.reciprocal.numpy(), reciprocal
    ):
        raise ValueError("the mesh was made for another structure: make it with Mesh.of anew")


Done = list[tuple[Tensor, Tensor | None]]
"""Eigenvalues and eigenvectors of the wave vectors that are done."""


def _identity(phonons: Phonons, mesh: Mesh) -> dict[str, Any]:
    """What a checkpoint belongs to."""
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
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez(
            file,
            eigenvalues=values,
            eigenvectors=np.array(vectors),
            **_identity(phonons, mesh),
        )


def _load(path: Path, phonons: Phonons, mesh: Mesh, eigenvectors: bool) -> Done:
    """What is done already; the first q again, as a check of the model."""
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
        found = arrays[name]
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=1e-10):
            raise ValueError(
                f"the checkpoint {path} has other {name}: name another file, or remove it"
            )
    if eigenvectors and len(arrays["eigenvectors"]) != len(arrays["eigenvalues"]):
        raise ValueError(
            f"the checkpoint {path} has no eigenvectors: name another file, or ask for none"
        )
    values = torch.as_tensor(arrays["eigenvalues"]).to(phonons.masses)
    again, _ = modes_at_q(phonons, mesh.q[0])
    noise = 1e4 * torch.finfo(again.dtype).eps * again.abs().max()
    if (values[0] - again).abs().max() > noise:
        raise ValueError(
            f"the checkpoint {path} has other frequencies at q = {mesh.q[0].tolist()}: it is of "
            "another model; name another file, or remove it"
        )
    if not eigenvectors:
        return [(one, None) for one in values]
    vectors = torch.as_tensor(arrays["eigenvectors"]).to(phonons.masses.device)
    return list(zip(values, vectors.to(again.dtype.to_complex()), strict=True))
