"""Random Hessians of free structures."""

from __future__ import annotations

import numpy as np


def free_hessian(n_atoms: int) -> np.ndarray:
    """Return a symmetric Hessian (3N, 3N), eV/Å², whose rows sum to zero over the atoms."""
    K = np.random.default_rng(n_atoms).normal(size=(n_atoms, n_atoms, 3, 3))
    K = K + K.transpose(1, 0, 3, 2)
    K[np.arange(n_atoms), np.arange(n_atoms)] = 0
    K = (K + K.transpose(0, 1, 3, 2)) / 2
    K[np.arange(n_atoms), np.arange(n_atoms)] = -K.sum(1)
    return K.transpose(0, 2, 1, 3).reshape(3 * n_atoms, -1)
