"""The error of models that are refused."""

from __future__ import annotations


class UnsupportedModelError(TypeError):
    """A model whose energy is not what this package computes; the text says in what."""
