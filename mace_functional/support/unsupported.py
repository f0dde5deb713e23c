"""Error for models that are not supported."""

from __future__ import annotations


class UnsupportedModelError(TypeError):
    """The package cannot compute the energy of this model; the message names the difference."""
