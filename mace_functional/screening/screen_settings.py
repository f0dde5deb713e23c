"""Settings of a screening, which are the same for every structure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from mace_functional.support.defaults import (
    ENTROPY_ERROR,
    MAX_STEPS,
    MESH_TOLERANCE,
    QUICK_FMAX,
    REL_ERROR,
    SYMPREC,
)
from mace_functional.support.renamed import renamed_field
from mace_functional.support.validation import functional_name

if TYPE_CHECKING:
    import torch

MeshChoice = tuple[int, int, int] | float | Literal["auto"] | None
"""Mesh of wave vectors: a size, a spacing in 1/Å, a size found for each crystal, or Gamma alone."""

COLDEST = 200.0
"""Temperature at which a mesh is converged if no colder one is asked for, K. Relative errors are
smaller at higher temperatures."""


SAMPLING = ("rel_error", "entropy_error", "max_products", "seed")
"""Settings of structures that are sampled by random vectors."""

NEEDING_MODES = (
    *("mesh", "mesh_tolerance", "mesh_temperature", "symprec"),
    *("eigenvectors", "cp"),
)
"""Settings without effect on structures that are sampled by random vectors."""


@renamed_field("cell", "relax_cell")
@dataclass(frozen=True)
class ScreenSettings:
    """Settings of a screening; results are kept under a key of structure, model and settings.

    Attributes:
        model: "embedded", the name of a foundation model, or the path of a file; see `load_model`.
            If `screen` is given a potential, its name in the report.
        head: Head of a multi-head model.
        dtype: "float64" or "float32", or torch's own.
        dispersion: Functional of a D3 correction, such as "pbe"; none if None, False or "none".
        relax: True to relax the structure first.
        relax_cell: True to relax the cell too, along periodic directions.
        fmax: Largest force to relax to, eV/Å.
        max_steps: Most gradients of a relaxation.
        mesh: Mesh of wave vectors for crystals: its size; or the largest distance of neighbours in
            it, 1/Å; or "auto", for a mesh that is refined until the heat capacity has converged;
            or None, for the Gamma point alone.
        mesh_tolerance: Relative error of the heat capacity that "auto" reaches.
        mesh_temperature: Temperature of that error, K; it is smaller at higher temperatures.
        symprec: Tolerance of the symmetry by which the mesh is reduced, Å.
        eigenvectors: True to write the eigenvectors of each structure beside its frequencies, as
            `eigenvectors.npz` with keys `eigenvectors`, `masses` and `q`.
        cp: True to compute the heat capacities of crystals at constant pressure too, to first order
            in their thermal expansion, with symmetry-allowed strains; see `thermal_expansion`.
        stochastic_above: Number of atoms above which a structure is computed without its Hessian,
            by `stochastic_thermo`: at the Gamma point of the given cell, whatever `mesh` says, with
            standard errors, and without eigenvectors and `cp`, which need all modes. None for no
            structure.
        rel_error: Relative standard error of these heat capacities; see `stochastic_thermo`.
        entropy_error: Relative standard error of these entropies; None for any.
        max_products: Largest number of Hessian-vector products of such a structure; None for six
            for each atom.
        seed: Seed of their random vectors.

    Raises:
        ValueError: If dispersion is True, which names no functional.
        TypeError: If dispersion is no name.
    """

    model: str
    head: str | None = None
    dtype: str | torch.dtype = "float64"
    dispersion: str | None = None
    relax: bool = True
    relax_cell: bool = True
    fmax: float = QUICK_FMAX
    max_steps: int = MAX_STEPS
    mesh: MeshChoice = None
    mesh_tolerance: float = MESH_TOLERANCE
    mesh_temperature: float = COLDEST
    symprec: float = SYMPREC
    eigenvectors: bool = False
    cp: bool = False
    stochastic_above: int | None = None
    rel_error: float = REL_ERROR
    entropy_error: float | None = ENTROPY_ERROR
    max_products: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "dispersion", functional_name(self.dispersion))
        if not isinstance(self.dtype, str):
            object.__setattr__(self, "dtype", str(self.dtype).removeprefix("torch."))

    def as_dict(self) -> dict[str, Any]:
        """The settings by the names in their file, which are part of the keys of results."""
        values = asdict(self)
        return {("cell" if name == "relax_cell" else name): x for name, x in values.items()}

    def is_sampled(self, n_atoms: int) -> bool:
        """True if structures of this size are computed by random vectors, without a Hessian."""
        return self.stochastic_above is not None and n_atoms > self.stochastic_above

    def sampling(self) -> dict[str, Any]:
        """Options of `stochastic_thermo`, which records of sampled structures keep."""
        return {name: getattr(self, name) for name in SAMPLING}

    def identity(self, n_atoms: int = 0) -> dict[str, Any]:
        """Settings that results depend on, without the model and settings without effect.

        Args:
            n_atoms: Size of the structure. Of a sampled one, the relaxation alone depends on the
                settings here: its record has the options and temperatures of the sampling.
        """
        values = self.as_dict()
        for name in "model", "stochastic_above", *SAMPLING:
            del values[name]
        if self.is_sampled(n_atoms):
            for name in NEEDING_MODES:
                del values[name]
            return {**values, "stochastic": True}
        if not self.eigenvectors:
            del values["eigenvectors"]
        if not self.cp:
            del values["cp"]
        if self.mesh is None and not self.cp:
            del values["symprec"]
        if self.mesh != "auto":
            del values["mesh_tolerance"], values["mesh_temperature"]
        return values
