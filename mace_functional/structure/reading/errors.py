"""Warning and error of the reading of structures."""

from __future__ import annotations


class StructureWarning(UserWarning):
    """A finding about a structure, which is used as it was read."""


class StructureError(ValueError):
    """A file or structure is refused; the message says why and what to do."""
