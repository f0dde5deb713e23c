"""Date, versions and a digest of the model, which tell results of one screening from another's."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

import mace_functional
from mace_functional.support.atomic_write import atomic_write

ABOUT = "about.json"
"""Name of the file in the folder of a screening."""

DIGEST_LENGTH = 12
"""Hexadecimal digits of a digest that are shown."""


@dataclass(frozen=True)
class Provenance:
    """Date, versions and model of the last run of a screening.

    Results may be of earlier runs: each record has its own date and versions.

    Attributes:
        date: End of the run, in ISO format, UTC.
        versions: Versions by the names of packages.
        model: Model as the settings name it, without the folder of a file.
        model_digest: First 12 characters of the sha256 of the weights and settings of the model;
            the whole is in `settings.json`.
    """

    date: str
    versions: Mapping[str, str]
    model: str
    model_digest: str

    @classmethod
    def of(cls, model: str, digest: str) -> Provenance:
        """Provenance of results that are computed now.

        Args:
            model: Name of the model, or path of its file.
            digest: Digest of its weights and settings.
        """
        return cls(now(), package_versions(), model_name(model), digest[:DIGEST_LENGTH])

    def save(self, folder: Path) -> None:
        """Write it to the folder of a screening."""
        with atomic_write(folder / ABOUT) as partial:
            partial.write_text(json.dumps(asdict(self), indent=1) + "\n")


def now() -> str:
    """Date and time in ISO format, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def package_versions() -> dict[str, str]:
    """Versions of this package and torch, and of mace-torch if it has been imported."""
    versions = {"mace_functional": mace_functional.__version__, "torch": torch.__version__}
    if "mace" in sys.modules:
        versions["mace-torch"] = version("mace-torch")
    return versions


def model_name(model: str) -> str:
    """Name of a model; of a file, its name without the folder."""
    return Path(model).name if Path(model).is_absolute() else model
