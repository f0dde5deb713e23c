"""Foundation models by name, from mace-torch's cache or downloaded by mace-torch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mace.calculators import foundations_models, mace_anicc, mace_off, mace_omol
from mace.tools.utils import get_cache_dir

from mace_functional.mace.mace_torch.checkpoint import read_checkpoint
from mace_functional.mace.mace_torch.module import REFUSED
from mace_functional.support.unsupported import UnsupportedModelError

OMOL = (
    "https://github.com/ACEsuit/mace-foundations/releases/download/mace_omol_0/"
    "MACE-omol-0-extra-large-1024.model"
)
"""Address of "omol-extra_large", which is in no table of mace-torch."""

ANICC = (
    "https://github.com/ACEsuit/mace/raw/main/mace/calculators/foundations_models/"
    "ani500k_large_CC.model"
)
"""Address of "anicc", which is in no table of mace-torch."""


@dataclass(frozen=True)
class FoundationModel:
    """The address and the cached file of a foundation model.

    Attributes:
        url: Address of the model.
        file: Path at which mace-torch stores it.
        fetch: Function of mace-torch that downloads it to this path.
    """

    url: str
    file: Path
    fetch: Callable[[], Any]


def foundation_models() -> dict[str, FoundationModel]:
    """Return the foundation models that mace-torch can download, by name."""
    cache, raw = Path(get_cache_dir()), {"device": "cpu", "return_raw_model": True}
    models = {}
    fetch: Callable[[], Any]
    for name, url in foundations_models.mace_mp_urls.items():
        file = cache / "".join(c for c in Path(url).name if c.isalnum() or c == "_")
        packaged = Path(foundations_models.local_model_path)
        if name == "medium-mpa-0" and packaged.is_file():
            file = packaged
        fetch = partial(foundations_models.download_mace_mp_checkpoint, name)
        models[name] = FoundationModel(url, file, fetch)
    for name, url in foundations_models.mace_off_urls.items():
        fetch = partial(mace_off, model=name, **raw)
        models[f"off-{name}"] = FoundationModel(url, cache / Path(url).name, fetch)
    fetch = partial(mace_omol, model="extra_large", **raw)
    models["omol-extra_large"] = FoundationModel(OMOL, cache / Path(OMOL).name, fetch)
    folder = Path(foundations_models.module_dir) / "foundations_models"
    models["anicc"] = FoundationModel(ANICC, folder / Path(ANICC).name, partial(mace_anicc, **raw))
    return models


def load_foundation_model(name: str) -> Any:
    """Load a foundation model from mace-torch's cache; download it first if it is not there.

    Args:
        name: A key of `foundation_models()`.

    Returns:
        The mace-torch module.

    Raises:
        ConnectionError: If the model could not be downloaded.
        ValueError: If the file in the cache is damaged.
        ImportError: If the file holds classes that are not installed.
    """
    model = foundation_models()[name]
    if not model.file.is_file():
        _download(name, model)
    try:
        return read_checkpoint(model.file)
    except ValueError as error:
        raise ValueError(
            f"the file of the foundation model {name!r} is damaged: delete {model.file} and it is "
            f"downloaded again ({error})"
        ) from error


def refuse_polar_model(name: str) -> None:
    """Raise an error for the name of a polar foundation model, before it is downloaded.

    Raises:
        TypeError: If the name is that of a polar model.
    """
    if name in foundations_models.polar_model_names:
        raise UnsupportedModelError(f"{name!r} is not supported: {REFUSED['PolarMACE']}")


def _download(name: str, model: FoundationModel) -> None:
    """Let mace-torch download a model; its output goes to standard error."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            model.fetch()
    except Exception as error:
        if model.file.is_file():  # a damaged download: reading the file raises a better error
            return
        reason = error.__cause__ or error
        raise ConnectionError(
            f"the foundation model {name!r} could not be downloaded ({reason}). Its file is "
            f"{model.url}, kept as {model.file}: check the network, or copy the file there from a "
            'machine that has it. Without a network, load_model("embedded"), on the command line '
            "--model embedded, is the model that comes with this package; load_model also takes "
            "the path of a checkpoint"
        ) from error
