"""What reading says: a warning for a finding, an error for a file that is refused."""

from __future__ import annotations


class StructureWarning(UserWarning):
    """Something about a structure that a person should know; the structure is taken as read."""


class StructureError(ValueError):
    """A file or structure that is refused, with what is wrong and what to do."""
