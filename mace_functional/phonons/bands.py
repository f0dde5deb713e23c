"""Phonon band structures: frequencies along a path through the Brillouin zone.

Standard paths of three-dimensional crystals are from seekpath: Hinuma, Pizzi, Kumagai, Oba, Tanaka,
Comput. Mater. Sci. 2017, 128, 140, doi:10.1016/j.commatsci.2016.10.015. Paths given by names of
special points, and all paths of slabs and rods, are from ASE.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.dft.kpoints import parse_path_string
from numpy.typing import NDArray
from rich.progress import track
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.autodiff.memory import check_fits
from mace_functional.phonons.modes import (
    WITH_DERIVATIVES,
    check_crystal,
    degenerate_blocks,
    signed_frequencies,
    warn_if_not_relaxed,
)
from mace_functional.phonons.solved_modes import solved_modes
from mace_functional.structure.symmetry import standard_path
from mace_functional.support import validation
from mace_functional.support.defaults import SYMPREC
from mace_functional.support.renamed import OldAttribute
from mace_functional.units import frequency_factor
from mace_functional.vibrations.imaginary import ImaginaryMode, imaginary_modes
from mace_functional.vibrations.result_text import frequencies_text, result_text

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms

    from mace_functional.phonons.phonons import Phonons

Path = str | Sequence[tuple[str, Sequence[float]]] | Tensor | NDArray[Any]
"""Names of special points, labelled points, or an array of all wave vectors."""

_Run = list[tuple[str, NDArray[np.float64]]]
"""Labelled corners of one continuous part of a path."""


MAX_PRINTED_PATH = 60
"""Largest number of characters of a printed path; longer ones print the number of corners."""


@dataclass(frozen=True, eq=False)
class BandStructure:
    """Phonon frequencies and eigenvectors along a path.

    Attributes:
        q: Wave vectors in units of the reciprocal lattice vectors, (P, 3).
        distance: Length of the path up to each q, 1/Å with the factor 2 pi, (P,); it does not grow
            where the path jumps.
        labels: Index of a q and its name, for each corner; at a jump both ends have one.
        starts: Indices of the first q of each continuous part of the path.
        frequencies: Signed frequencies in `unit`, (P, 3N); ascending at each q, or along bands if
            `connected`.
        eigenvectors: Complex, mass-weighted, orthonormal eigenvectors, (P, 3N, N, 3).
        unit: Unit of the frequencies.
        connected: True if each column is one band, followed through crossings.
    """

    q: Tensor
    distance: Tensor
    labels: tuple[tuple[int, str], ...]
    starts: tuple[int, ...]
    frequencies: Tensor
    eigenvectors: Tensor
    unit: str
    connected: bool

    def __repr__(self) -> str:
        joined = (("|" if start in self.starts else "-") + name for start, name in self.labels)
        path = "".join(joined)[1:]
        return result_text(
            self,
            path if len(path) <= MAX_PRINTED_PATH else f"{len(self.labels)} corners",
            f"{len(self.q)} wave vectors, {self.frequencies.shape[-1]} bands",
            frequencies_text(self.frequencies, self.unit),
        )

    def frequencies_in(self, unit: str) -> Tensor:
        """Return the frequencies in "cm-1", "THz" or "meV"."""
        return self.frequencies * (frequency_factor(unit) / frequency_factor(self.unit))

    @property
    def imaginary_modes(self) -> list[ImaginaryMode]:
        """Imaginary modes, frequencies in `unit`, the most unstable first."""
        return imaginary_modes(self.q, self.frequencies, self.eigenvectors)

    @property
    def n_imaginary(self) -> int:
        """Number of imaginary modes, over all wave vectors."""
        return int((self.frequencies < 0).sum())

    imaginary = OldAttribute("imaginary_modes")


def band_structure(
    phonons: Phonons,
    path: Path | None = None,
    *,
    points: int = 100,
    unit: str = "cm-1",
    connected: bool = False,
    symprec: float = SYMPREC,
    executor: Executor | None = None,
    progress: bool = False,
) -> BandStructure:
    """Compute frequencies and eigenvectors along a path.

    Args:
        phonons: Phonons of `phonons_of`.
        path: Names of special points as in ASE, with commas where the path jumps ("GXWKGL,UX"); or
            pairs of a label and a wave vector; or an array of all wave vectors, (P, 3). Wave
            vectors are in units of the reciprocal lattice vectors. None for the standard path of
            the crystal, in the basis of its cell.
        points: Approximate number of all q, distributed by length; every corner is one of them.
        unit: Unit of the frequencies: "cm-1", "THz" or "meV".
        connected: Follow bands through crossings by the overlap of eigenvectors, separately in each
            continuous part of the path. Eigenvectors of degenerate bands are rotated to continue
            the previous ones. The points must be close to each other.
        symprec: Tolerance of the symmetry that determines the standard path, Å.
        executor: Executor whose workers share the wave vectors; see `WorkerProcesses`. None to
            compute in this process.
        progress: Show a progress bar.

    Returns:
        The band structure. Imaginary frequencies are negative.

    Raises:
        ValueError: If the structure is a molecule, the path cannot be read, leaves the periodic
            directions or has fewer than two corners, the unit is unknown, a number is out of range,
            or the phonons cannot be sent to processes.
        ChildProcessError: If the executor is broken, or its workers die again and again.

    Warns:
        UserWarning: The structure is far from relaxed; or a slightly larger `symprec` gives a
            higher symmetry, with another standard path.
    """
    refuse_transforms("band_structure", WITH_DERIVATIVES, phonons.masses, path)
    check_crystal(phonons.atoms, "a band structure")
    points = validation.count("points", points, 1, validation.MOST_WAVE_VECTORS)
    warn_if_not_relaxed(phonons)
    frequency_factor(unit)
    reciprocal = 2 * np.pi * phonons.atoms.cell.complete().reciprocal().array
    if path is None or isinstance(path, str) or _is_labelled(path):
        runs = _runs(phonons.atoms, path, symprec)
        q, labels, starts = _sampled(runs, points, reciprocal)
    else:
        q, labels, starts = _as_wave_vectors(path), (), (0,)
    size = 2 * len(q) * (3 * len(phonons.masses)) ** 2 * phonons.masses.element_size()
    check_fits("eigenvectors on the path", size, phonons.masses.device, "take fewer points")
    steps = np.linalg.norm(np.diff(q, axis=0) @ reciprocal, axis=1)
    steps[[start - 1 for start in starts[1:]]] = 0.0

    unique_q, inverse = np.unique(q, axis=0, return_inverse=True)
    solved = solved_modes(phonons, torch.as_tensor(unique_q), eigenvectors=True, executor=executor)
    with closing(solved):
        modes = list(track(solved, "Bands", total=len(unique_q), disable=not progress))
    all_vectors = [vectors for _, vectors in modes if vectors is not None]
    eigenvalues = torch.stack([modes[i][0] for i in inverse.reshape(-1)])
    eigenvectors = torch.stack([all_vectors[i] for i in inverse.reshape(-1)])
    if connected:
        _connect(eigenvalues, eigenvectors, starts)
    return BandStructure(
        q=torch.as_tensor(q),
        distance=torch.as_tensor(np.concatenate([[0.0], np.cumsum(steps)])),
        labels=labels,
        starts=starts,
        frequencies=signed_frequencies(eigenvalues, unit),
        eigenvectors=eigenvectors,
        unit=unit,
        connected=connected,
    )


def _is_labelled(path: Any) -> bool:
    return isinstance(path, Sequence) and any(
        isinstance(corner, Sequence) and len(corner) == 2 and isinstance(corner[0], str)
        for corner in path
    )


def _as_wave_vectors(path: Any) -> NDArray[np.float64]:
    """Convert a path that is given as wave vectors to an array, (P, 3)."""
    values = path.detach().cpu().numpy() if isinstance(path, Tensor) else path
    try:
        q = np.array(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "a path is a string of special points, pairs of a label and a wave vector, or wave "
            f"vectors (P, 3), not {path!r}"
        ) from error
    if q.ndim != 2 or q.shape[1] != 3 or not len(q):
        raise ValueError(f"wave vectors of a path must be (P, 3), not {q.shape}")
    if not np.isfinite(q).all():
        raise ValueError("wave vectors of a path must be finite numbers")
    return q


def _runs(atoms: Atoms, path: Any, symprec: float) -> list[_Run]:
    """Return the corners of each continuous part of a path."""
    if path is None and atoms.pbc.all():
        return _standard(atoms, symprec)
    if path is None or isinstance(path, str):
        return _named(atoms, path)
    run = []
    for corner in path:
        if not (len(corner) == 2 and isinstance(corner[0], str) and np.shape(corner[1]) == (3,)):
            raise ValueError(
                f"a corner of a path is a label and a wave vector (3,), not {corner!r}"
            )
        run.append((_label(corner[0]), np.array(corner[1], dtype=float)))
    return _checked([run])


def _standard(atoms: Atoms, symprec: float) -> list[_Run]:
    """Return the corners of the standard path of a three-dimensional crystal."""
    standard = standard_path(atoms, symprec)
    runs: list[_Run] = []
    for ends in standard["path"]:
        first, last = ((_label(end), _snapped(standard["point_coords"][end])) for end in ends)
        if runs and runs[-1][-1][0] == first[0]:
            runs[-1].append(last)
        else:
            runs.append([first, last])
    return runs


def check_path(atoms: Atoms, path: str) -> None:
    """Raise an error for a path with special points that the lattice does not have.

    Args:
        atoms: The crystal.
        path: Names of special points, as `band_structure` takes them.

    Raises:
        ValueError: If a point is unknown, or a part of the path has fewer than two points.
    """
    _named(atoms, path)


def _named(atoms: Atoms, path: str | None) -> list[_Run]:
    """Return the corners of a path of special points; None for the path that ASE suggests."""
    special = atoms.cell.bandpath(npoints=0, pbc=atoms.pbc)
    known = special.special_points
    runs = []
    for names in _parts(path if path is not None else special.path):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(
                f"the path {path!r} has unknown special points {unknown}: this lattice has "
                f"{', '.join(sorted(known))}"
            )
        runs.append([(_label(name), _snapped(known[name])) for name in names])
    return _checked(runs)


def _parts(path: str) -> list[list[str]]:
    """Split a path into the names of special points of each continuous part."""
    try:
        parts: list[list[str]] = parse_path_string(path)
    except Exception as error:  # ASE raises errors of several classes
        raise ValueError(f"{path!r} is no path: give special points, as in GXWKGL,UX") from error
    return parts


def _checked(runs: list[_Run]) -> list[_Run]:
    """Raise an error if a continuous part has fewer than two corners; else return all parts."""
    for run in runs:
        if len(run) < 2:
            raise ValueError(
                f"a path needs at least two corners, and {[name for name, _ in run]} has fewer"
            )
    return runs


def _label(name: str) -> str:
    return "Γ" if name in ("G", "GAMMA") else name


def _snapped(q: Any) -> NDArray[np.float64]:
    """Round q to multiples of 1/24 within 1e-9, so that 1/2 and Gamma are exact."""
    q = np.array(q, dtype=float)
    rounded = np.round(24 * q) / 24
    return np.where(abs(q - rounded) < 1e-9, rounded, q)


def _sampled(
    runs: list[_Run], points: int, reciprocal: NDArray[Any]
) -> tuple[NDArray[np.float64], tuple[tuple[int, str], ...], tuple[int, ...]]:
    """Return the wave vectors on a path, its labels, and the starts of its continuous parts."""
    if not isinstance(points, int) or points < 2:
        raise ValueError(f"points must be an integer of at least 2, not {points!r}")
    segments = [list(pairwise(run)) for run in runs]
    total = sum(
        float(np.linalg.norm((b - a) @ reciprocal)) for run in segments for (_, a), (_, b) in run
    )
    if total == 0:
        raise ValueError("all corners of the path are the same point")
    q: list[NDArray[np.float64]] = []
    labels: list[tuple[int, str]] = []
    starts: list[int] = []
    for run in segments:
        starts.append(len(q))
        labels.append((len(q), run[0][0][0]))
        q.append(run[0][0][1])
        for (_, a), (name, b) in run:
            length = float(np.linalg.norm((b - a) @ reciprocal))
            steps = max(1, round(points * length / total))
            q.extend((1 - t) * a + t * b for t in np.arange(1, steps + 1) / steps)
            labels.append((len(q) - 1, name))
    return np.array(q), tuple(labels), tuple(starts)


def _connect(eigenvalues: Tensor, eigenvectors: Tensor, starts: tuple[int, ...]) -> None:
    """Reorder the modes at each q in place, so that each column continues the mode before."""
    for i in range(1, len(eigenvalues)):
        if i in starts:
            continue
        previous, current = eigenvectors[i - 1].flatten(1), eigenvectors[i].flatten(1)
        overlap = previous.conj() @ current.mT
        blocks = degenerate_blocks(eigenvalues[i])
        same_block = (blocks[:, None] == blocks).to(eigenvalues)
        # Eigenvectors of a degenerate block are arbitrary; only the overlap with the block counts.
        block_overlap = overlap.abs().square() @ same_block
        order = torch.as_tensor(linear_sum_assignment(-block_overlap.cpu().numpy())[1]).to(
            blocks.device
        )
        overlap, current, blocks = overlap[:, order], current[order], blocks[order]
        for block in blocks.unique():
            members = (blocks == block).nonzero()[:, 0]
            u, _, vh = torch.linalg.svd(overlap[members][:, members])
            current[members] = (u @ vh).conj() @ current[members]
        eigenvalues[i] = eigenvalues[i, order]
        eigenvectors[i] = current.unflatten(1, (-1, 3))
