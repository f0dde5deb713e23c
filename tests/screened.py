"""Results of a screening as they might be, and its page as a reader finds it."""

from __future__ import annotations

import base64
from html.parser import HTMLParser

import numpy as np
import torch
from scipy import constants as codata

from mace_functional.screening.record import Record, Spectrum
from mace_functional.screening.references import Reference
from mace_functional.screening.report import write_report
from mace_functional.screening.rows import Row
from mace_functional.screening.screen_settings import ScreenSettings

SETTINGS = ScreenSettings("embedded", fmax=1e-3)


MODES = {
    "alpha": [60.0, 220.0, 480.0, 1100.0],
    "beta": [35.0, 90.0, 700.0, 1500.0, 3100.0],
    "gamma": [150.0, 151.0, 820.0, 1010.0],
    "delta": [310.0, 505.0, 990.0, 2950.0, 3050.0, 3700.0],
    "epsilon": [85.0, 410.0, 640.0, 1250.0],
}


def spectrum(frequencies, weights=(1.0,)):
    modes = torch.tensor(frequencies, dtype=torch.float64).reshape(len(weights), -1)
    q = torch.arange(len(weights), dtype=torch.float64)[:, None].expand(-1, 3) / 97  # Gamma first
    return Spectrum(modes, torch.tensor(weights, dtype=torch.float64), q)


def row(name, frequencies, weights=(1.0,), **facts):
    """A sound result, but for `facts`."""
    found = spectrum(frequencies, weights)
    modes = found.frequencies
    sound = {
        "formula": "O2Si",
        "n_atoms": 3,
        "mass": 60.08,
        "energy": -23.0,
        "converged": True,
        "relaxation": "the largest force is below fmax",
        "n_gradients": 17,
        "largest_force": 4e-4,
        "n_imaginary": int((modes < 0).sum()),
        "lowest_frequency": float(modes.min()) if modes.numel() else None,
        "acoustic_sum_residual": 1e-13,
        "asymmetry": 1e-14,
        "seconds_relaxation": 2.0,
        "seconds_modes": 1.0,
    }
    return Row(Record(name, name, f"{name}.cif", **(sound | facts)), found)


def failed(name, reason="there is no cell"):
    return Row(Record(name, name, f"{name}.cif", failure=reason), None)


ROWS = [row(name, modes) for name, modes in MODES.items()]


def many(count, seed=0):
    draw = np.random.default_rng(seed)
    return [
        row(f"S{i:03d}", np.sort(draw.uniform(40, 1500, 30)), n_atoms=int(draw.integers(3, 90)))
        for i in range(count)
    ]


def scaled_reference(rows, factor, temperature=300.0, label="known"):
    values = {
        r.record.name: einstein(factor * r.spectrum.frequencies[0].numpy(), temperature)
        for r in rows
    }
    return Reference(label, temperature, values)


class Page(HTMLParser):
    """What is in a page; refuses one whose tags do not close in order."""

    EMPTY = ("meta", "img", "br")

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    def attributes(self, name):
        return [values[name] for _, values in self.tags if name in values]

    def images(self):
        return [base64.b64decode(src.split(",", 1)[1]) for src in self.attributes("src")]


def written(folder, rows, settings=SETTINGS, temperatures=(250.0, 310.0), references=()):
    return Page(write_report(folder, rows, settings, temperatures, references))


def einstein(frequencies, temperature, mass=60.08):
    """Heat capacity of oscillators, J/(g K), from the textbook."""
    quanta = 100 * codata.h * codata.c * np.asarray(frequencies)
    x = quanta / (codata.k * temperature)
    return codata.R * (x**2 * np.exp(x) / np.expm1(x) ** 2).sum() / mass
