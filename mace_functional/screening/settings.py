"""What a screening computes for every structure."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mace_functional.dispersion.graph import functional_name

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class ScreenSettings:
    """What is computed, the same for all structures; results are kept under it.

    Attributes:
        model: "embedded", the name of a foundation model, or the path of a file; see `load_model`.
        head: Head of a multi-head model.
        dtype: "float64" or "float32".
        dispersion: Functional of a D3 correction, such as "pbe"; none if None, False or "none".
        relax: Relax the structure first.
        cell: Relax the cell too, along periodic directions.
        fmax: Largest force to relax to, eV/Å.
        max_steps: Most gradients of a relaxation.
        mesh: Size of a mesh of wave vectors, for crystals; the Gamma point alone if None.

    Raises:
        ValueError: If dispersion is True, which names no functional.
        TypeError: If dispersion is no name.
    """

    model: str
    head: str | None = None
    dtype: str = "float64"
    dispersion: str | None = None
    relax: bool = True
    cell: bool = True
    fmax: float = 1e-3
    max_steps: int = 1000
    mesh: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dispersion", functional_name(self.dispersion))
