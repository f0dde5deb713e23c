"""Structures of the training, and structures of the test, which were chosen before any training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ase import Atoms
from frameworks import frameworks, held_out_frameworks
from molecules import held_out_molecules, molecules
from packings import packings
from published_crystals import HELD_OUT, crystals, read_crystals

import mace_functional as mf


def training_structures(folder: Path) -> Iterator[tuple[str, Atoms]]:
    """Yield the names and structures from which the training configurations are generated.

    Their coordinates need not be accurate, because the teacher relaxes them.

    Args:
        folder: Folder of the CIF files of Moosavi et al., Nat. Mater. 2022.
    """
    yield from frameworks(folder)
    yield from crystals()
    yield from molecules()
    yield from packings()


def held_out(folder: Path) -> Iterator[tuple[str, Atoms]]:
    """Yield the names and structures of the test; the training has none of them.

    Args:
        folder: Folder of the CIF files of Moosavi et al., Nat. Mater. 2022.
    """
    yield from held_out_molecules()
    yield "quartz", mf.example_structure("quartz")
    yield from read_crystals(HELD_OUT)
    yield from held_out_frameworks(folder)
