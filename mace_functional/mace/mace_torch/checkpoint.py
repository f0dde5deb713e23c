"""Checkpoints of mace-torch, which are pickled modules."""

from __future__ import annotations

import errno
import warnings
from pathlib import Path
from typing import Any

import torch


def read_checkpoint(path: Path) -> Any:
    """Unpickle a mace-torch checkpoint.

    Args:
        path: Path of the file. Unpickling runs code: read files that you trust.

    Returns:
        The unpickled object, on the CPU.

    Raises:
        ValueError: If the file is not a checkpoint.
        ImportError: If the file holds classes that are not installed.
        OSError: If the file cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript archives are refused later
            return torch.load(path, map_location="cpu", weights_only=False)
    except OSError as error:
        if error.errno == errno.EINVAL:  # a truncated file
            raise ValueError(f"{path} is not a mace-torch checkpoint, or not all of it") from error
        raise
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("mace", "e3nn"):
            raise ImportError(
                f"{path} holds classes of {error.name}, which the installed {package} does not "
                "have: it was saved with another version"
            ) from error
        raise ImportError(
            f"{path} was saved with the package {package!r}, which is not installed: install it "
            "and the model is converted to plain weights on loading, or convert the file where it "
            "is installed with mace_cueq_to_e3nn (cuEquivariance) or `python -m "
            "mace.cli.convert_oeq_e3nn` (OpenEquivariance)"
        ) from error
    except AttributeError as error:
        raise ImportError(
            f"{path} holds a class that the installed mace-torch and e3nn do not have ({error}): "
            "it was saved with another version"
        ) from error
    except Exception as error:  # unpickling of arbitrary bytes raises errors of any class
        raise ValueError(f"{path} is not a mace-torch checkpoint: {error}") from error
