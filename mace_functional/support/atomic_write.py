"""Files that are whole or not there: the old one stays until the new one is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def place_beside(path: Path) -> Path:
    """A place beside a file, of the same suffix, for its next version."""
    return path.with_name(f".partial-{path.name}")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A place beside a file, to write its next version to.

    Args:
        path: The file.

    Yields:
        The place, of the same suffix. It takes the name of the file when the block ends, and is
        removed if the block fails.
    """
    partial = place_beside(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
