"""Problems for the parts of an optimiser: matrices, spectra, and a rattled crystal."""

from __future__ import annotations

import numpy as np
import torch

import mace_functional as mf
from mace_functional.optimize.coordinates import free_coordinates

SPECTRA = ("spread", "conditioned", "degenerate", "singular", "indefinite", "negative", "zero")
GRADIENTS = ("all", "soft", "stiff", "hard", "none")


def no_springs(step):
    return 0.0, np.zeros_like(step), np.zeros((len(step), len(step)))


def problem(size, spectrum, direction, exponents, seed):
    """Eigenvalues, parts of the gradient along eigenvectors, eigenvectors, and a radius."""
    random = np.random.default_rng(seed)
    values = {
        "spread": np.linspace(0.1, 1.0, size),
        "conditioned": np.logspace(-14, 0, size),
        "degenerate": np.repeat([0.2, 1.0], [(size + 1) // 2, size // 2]),
        "singular": np.repeat([0.0, 1.0], [(size + 1) // 2, size // 2]),
        "indefinite": np.linspace(-0.5, 1.0, size),
        "negative": -np.logspace(0, -14, size),
        "zero": np.zeros(size),
    }[spectrum]
    parts = random.normal(size=size)
    parts *= {
        "all": 1.0,
        "soft": np.arange(size) == 0,
        "stiff": np.arange(size) == size - 1,
        "hard": values > values[0],
        "none": 0.0,
    }[direction]
    vectors = np.linalg.qr(random.normal(size=(size, size)))[0]
    scale, slope, radius = 10.0 ** np.array(exponents)
    return scale * values, slope * parts, vectors, radius


def random_matrix(size, lowest, seed=0):
    random = np.random.default_rng(seed)
    vectors = np.linalg.qr(random.normal(size=(size, size)))[0]
    return (vectors * np.linspace(lowest, 5.0, size)) @ vectors.T, vectors, random


def rattled_quartz():
    atoms = mf.example_structure("quartz")
    atoms.rattle(0.05, seed=0)
    return atoms


def coordinates_of(atoms, **options):
    cell = torch.as_tensor(atoms.cell.array)
    return free_coordinates(atoms, torch.as_tensor(atoms.positions), cell, **options)
