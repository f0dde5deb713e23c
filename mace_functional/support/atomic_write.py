"""Atomic writing: a file is replaced only when its new version is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def place_beside(path: Path) -> Path:
    """Return a temporary path in the folder of a file, with the same suffix."""
    return path.with_name(f".partial-{path.name}")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Provide a temporary path for the next version of a file.

    Args:
        path: Path of the file.

    Yields:
        The temporary path, with the same suffix. It is renamed to `path` when the block ends, and
        removed if the block fails.
    """
    partial = place_beside(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
