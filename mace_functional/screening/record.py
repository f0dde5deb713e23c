"""Records and spectra: the results of one structure, and their files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from torch import Tensor

from mace_functional.screening.tensor_files import load_tensors, save_tensors
from mace_functional.support.atomic_write import atomic_write
from mace_functional.support.renamed import OldAttribute
from mace_functional.vibrations.thermo_pieces import thermo_in_pieces
from mace_functional.vibrations.thermodynamics import HarmonicThermo

RECORD, SPECTRUM, STRUCTURE = "record.json", "frequencies.npz", "structure.xyz"
"""Names of the files of one structure. The record is written last, when all others are complete."""


KEYS = {
    "n_atoms": "atoms",
    "n_bonds_broken": "bonds_broken",
    "n_bonds_formed": "bonds_formed",
    "n_gradients": "gradients",
    "n_hvps": "products",
    "n_rigid": "rigid_motions",
    "n_acoustic_branches": "acoustic_branches",
    "n_imaginary": "imaginary_modes",
}
"""Keys in the file of a record that differ from the names of attributes."""

NAMES = {key: name for name, key in KEYS.items()}


@dataclass(frozen=True)
class Record:
    """Results of one structure; all numbers are None if it failed.

    Attributes:
        key: Key of structure, model and settings together.
        name: Name of the structure, unique in its screening.
        file: File that the structure was read from.
        failure: Reason why there is no result; None if there is one.
        findings: Remarks on the file, from reading it.
        formula: Formula of the cell or molecule.
        n_atoms: Number of atoms.
        mass: Mass of the cell or molecule, amu.
        volume: Volume of the cell, Å³; None if not periodic in all directions.
        volume_read: Volume of the cell before relaxation, Å³.
        thinnest: Smallest ratio of a height of the cell after and before relaxation.
        n_bonds_broken: Number of bonds that broke in relaxation.
        n_bonds_formed: Number of bonds that formed in relaxation.
        shortest_contact: Smallest distance relative to the sum of the covalent radii.
        energy: Potential energy, eV.
        binding: Energy relative to free atoms of the same model, eV an atom.
        converged: True if the relaxation converged; None if there was none.
        relaxation: Reason why the relaxation ended, in words.
        n_gradients: Number of energies with gradients in the relaxation.
        n_hvps: Number of Hessian-vector products in the relaxation.
        largest_force: Largest force on an atom, eV/Å.
        largest_stress: Largest component of the stress, GPa.
        n_rigid: Number of rigid motions that are removed at the Gamma point.
        n_acoustic_branches: Number of acoustic branches that are missing at Gamma alone.
        acoustic_edges: Estimate of the highest frequency of each acoustic branch, cm-1.
        no_acoustic_estimate: Reason why there is no estimate, in words.
        mesh: Size of the mesh of wave vectors; None for Gamma alone.
        mesh_error: Relative error of the heat capacity on a mesh "auto".
        n_imaginary: Number of imaginary modes, over all wave vectors of a mesh; None if the modes
            are not known, and `stochastic` has an estimate.
        lowest_frequency: Lowest frequency, signed, cm-1; None if the modes are not known.
        stochastic: Thermodynamics of a structure that was sampled by random vectors, at the Gamma
            point of the cell: `options` of the sampling, and values by the attributes of
            `StochasticThermo`. None for a structure with all modes.
        no_cp: Reason why there is no heat capacity at constant pressure, in words; None if there is
            one, or none was asked for.
        strain_to_minimum: Largest entry of the strain from the cell to the minimum of the energy,
            if there is a heat capacity at constant pressure.
        stiffness: Largest force constant of an atom with itself, eV/Å².
        acoustic_sum_residual: Largest error of the acoustic sum rule, eV/Å².
        asymmetry: Largest asymmetry of the Hessian, eV/Å².
        seconds_relaxation: Time of the relaxation, s.
        seconds_modes: Time of the Hessian or the mesh, s.
        seconds_cp: Time of the heat capacity at constant pressure, s.
        computed: Date and time of the end, in ISO format, UTC; None in records of earlier versions.
        versions: Versions by the names of packages; None in records of earlier versions.
    """

    key: str
    name: str
    file: str
    failure: str | None = None
    findings: list[str] = field(default_factory=list)
    formula: str | None = None
    n_atoms: int | None = None
    mass: float | None = None
    volume: float | None = None
    volume_read: float | None = None
    thinnest: float | None = None
    n_bonds_broken: int | None = None
    n_bonds_formed: int | None = None
    shortest_contact: float | None = None
    energy: float | None = None
    binding: float | None = None
    converged: bool | None = None
    relaxation: str | None = None
    n_gradients: int | None = None
    n_hvps: int | None = None
    largest_force: float | None = None
    largest_stress: float | None = None
    n_rigid: int | None = None
    n_acoustic_branches: int | None = None
    acoustic_edges: Sequence[float] | None = None
    no_acoustic_estimate: str | None = None
    mesh: Sequence[int] | None = None
    mesh_error: float | None = None
    n_imaginary: int | None = None
    lowest_frequency: float | None = None
    stochastic: dict[str, Any] | None = None
    no_cp: str | None = None
    strain_to_minimum: float | None = None
    stiffness: float | None = None
    acoustic_sum_residual: float | None = None
    asymmetry: float | None = None
    seconds_relaxation: float | None = None
    seconds_modes: float | None = None
    seconds_cp: float | None = None
    computed: str | None = None
    versions: dict[str, str] | None = None

    atoms = OldAttribute("n_atoms")
    bonds_broken = OldAttribute("n_bonds_broken")
    bonds_formed = OldAttribute("n_bonds_formed")
    gradients = OldAttribute("n_gradients")
    products = OldAttribute("n_hvps")
    rigid_motions = OldAttribute("n_rigid")
    acoustic_branches = OldAttribute("n_acoustic_branches")
    imaginary_modes = OldAttribute("n_imaginary")

    def save(self, folder: Path) -> None:
        """Write it to a folder."""
        values = {KEYS.get(name, name): value for name, value in asdict(self).items()}
        with atomic_write(folder / RECORD) as partial:
            partial.write_text(json.dumps(values, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Record:
        """Read what `save` wrote.

        Raises:
            ValueError: If the file holds something else.
        """
        path = folder / RECORD
        try:
            data: dict[str, Any] = json.loads(path.read_text())
            record = cls(**{NAMES.get(key, key): value for key, value in data.items()})
            record._check_types()
            return record
        except (ValueError, TypeError) as error:
            names = ", ".join(KEYS.get(f.name, f.name) for f in fields(cls))
            raise ValueError(
                f"{path} is no record of a screening, with {names}: {error}"
            ) from error

    def _check_types(self) -> None:
        """Refuse values of wrong types, which a file may hold."""
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(kind) is list:
                if not isinstance(value, list):
                    raise TypeError(f"{name} is {value!r}")
                continue
            kinds = tuple(k for k in (get_args(kind) or (kind,)) if isinstance(k, type))
            if len(kinds) != len(get_args(kind) or (kind,)):
                continue  # a type with arguments, such as tuple[int, ...]
            if float in kinds:
                kinds += (int,)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise TypeError(f"{name} is {value!r}")


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Frequencies of one structure.

    Attributes:
        frequencies: Frequencies, cm-1, imaginary ones negative, (Q, M). Rigid motions are left out
            or exactly zero.
        weights: Weights of the wave vectors, (Q,), with sum 1.
        q: Wave vectors, in units of the reciprocal lattice vectors, (Q, 3).
    """

    frequencies: Tensor
    weights: Tensor
    q: Tensor

    def thermo(self, temperatures: Sequence[float] | float) -> HarmonicThermo:
        """Harmonic thermodynamics of one cell; imaginary modes are left out.

        Args:
            temperatures: K.
        """
        return thermo_in_pieces(self.frequencies, temperatures, self.weights)

    def save(self, folder: Path) -> None:
        """Write them to a folder."""
        save_tensors(folder / SPECTRUM, self)

    @classmethod
    def load(cls, folder: Path) -> Spectrum:
        """Read what `save` wrote."""
        return load_tensors(cls, folder / SPECTRUM)
