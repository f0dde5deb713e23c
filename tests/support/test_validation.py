"""Numbers are checked where they enter: out of range, they are refused in a sentence."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

import mace_functional as mf
from mace_functional.support import validation

NO_NUMBERS = [math.nan, math.inf, -math.inf, None, "1", True, [1.0]]
NOT_POSITIVE = [*NO_NUMBERS, 10**400, 0.0, -1.0]
NO_COUNTS = [*NO_NUMBERS, 0, -1, 1.5]
NO_TOLERANCES = [*NOT_POSITIVE, 1e-12, 0.6, 100.0]

SALT, WATER = bulk("NaCl", "rocksalt", a=5.64), molecule("H2O")


@cache
def model():
    return mf.load_model("embedded")


@cache
def phonons():
    return mf.phonons_of(model(), SALT, method="replicas")


CALLS = {
    "relax fmax": (NOT_POSITIVE, lambda x: mf.relax(model(), WATER, fmax=x)),
    "relax max_steps": (NO_COUNTS, lambda x: mf.relax(model(), WATER, max_steps=x)),
    "relax pressure": (
        [*NO_NUMBERS, 1e5],
        lambda x: mf.relax(model(), SALT, pressure=x),
    ),
    "relax symprec": (
        NO_TOLERANCES,
        lambda x: mf.relax(model(), SALT, symmetry=True, symprec=x),
    ),
    "relax symprec of a slab": (
        NO_TOLERANCES,
        lambda x: mf.relax(model(), WATER, symmetry=True, symprec=x),
    ),
    "find_saddle fmax": (NOT_POSITIVE, lambda x: mf.find_saddle(model(), WATER, fmax=x)),
    "find_saddle max_steps": (NO_COUNTS, lambda x: mf.find_saddle(model(), WATER, max_steps=x)),
    "follow_mode fmax": (
        NOT_POSITIVE,
        lambda x: mf.follow_mode(model(), WATER, np.ones((3, 3)), fmax=x),
    ),
    "hessian chunk_size": (
        [x for x in NO_COUNTS if x is not None],
        lambda x: mf.gamma_modes(model(), WATER, chunk_size=x),
    ),
    "gamma_modes memory_budget": (
        [x for x in NO_COUNTS if x is not None],
        lambda x: mf.gamma_modes(model(), WATER, memory_budget=x),
    ),
    "phonons_of memory_budget": (
        [x for x in NO_COUNTS if x is not None],
        lambda x: mf.phonons_of(model(), SALT, memory_budget=x),
    ),
    "phonons_of symprec": (NO_TOLERANCES, lambda x: mf.phonons_of(model(), SALT, symprec=x)),
    "Mesh.of symprec": (NO_TOLERANCES, lambda x: mf.Mesh.of(SALT, (2, 2, 2), symprec=x)),
    "Mesh.of size": (
        [*NO_COUNTS, 10**6, 10**12],
        lambda x: mf.Mesh.of(SALT, (2, 2, x)),
    ),
    "band_structure points": (
        [*NO_COUNTS, 10**12],
        lambda x: mf.band_structure(phonons(), "GX", points=x),
    ),
    "band_structure symprec": (
        NO_TOLERANCES,
        lambda x: mf.band_structure(phonons(), points=2, symprec=x),
    ),
    "harmonic_thermo temperature": (
        [math.nan, math.inf, -1.0],
        lambda x: mf.harmonic_thermo(torch.ones(1), x, unit="cm-1"),
    ),
    "from_ase skin": ([*NO_NUMBERS, -1e-3, 100.0], lambda x: mf.from_ase(WATER, model(), skin=x)),
    "MaceCalculator skin": (
        [*NO_NUMBERS, -1e-3, 100.0],
        lambda x: mf.MaceCalculator(model(), skin=x),
    ),
    "D3Settings cutoff": ([*NOT_POSITIVE, 1e4], lambda x: mf.D3Settings("pbe", cutoff=x)),
    "D3Settings cn_cutoff": ([*NOT_POSITIVE, 1e4], lambda x: mf.D3Settings("pbe", cn_cutoff=x)),
    "screen fmax": (
        NOT_POSITIVE,
        lambda x: mf.screen({"a": WATER}, "o", mf.ScreenSettings("embedded", fmax=x)),
    ),
    "screen mesh": (
        NO_COUNTS,
        lambda x: mf.screen({"a": SALT}, "o", mf.ScreenSettings("embedded", mesh=(1, 1, x))),
    ),
    "screen workers": (
        [x for x in NO_COUNTS if x is not None],
        lambda x: mf.screen({"a": WATER}, "o", mf.ScreenSettings("embedded"), workers=x),
    ),
    "screen device": (
        ["meta", "cuda:x", "cpu:7", "xla", ""],
        lambda x: mf.screen({"a": WATER}, "o", mf.ScreenSettings("embedded"), devices=[x]),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_number_out_of_range_is_refused_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name.startswith("D3"):
        pytest.importorskip("tad_dftd3")
    values, call = CALLS[name]
    argument = name.split(" ")[1]
    for value in values:
        with pytest.raises(ValueError, match=argument) as refused:
            call(value)
        assert len(str(refused.value)) > 20, value


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (lambda x: validation.between("x", x, 0.0, 2.0), [0, 1.5, 2], [-1e-9, 2.1, math.nan]),
        (lambda x: validation.count("x", x, 2, 4), [2, np.int64(4)], [1, 5, 3.0, "3", True]),
        (lambda x: validation.symmetry_tolerance("x", x), [1e-8, 1e-3, 0.5], [0, -1, math.nan]),
        (validation.mesh, [(1, 2, 3), np.array([1, 1, 1])], [(1, 2), 3, "abc", (1, 1, 0.5), None]),
        (validation.chunk_size, [None, "auto", 3], ["some", 0, 1.5, True]),
        (validation.memory_budget, [None, 10], [0, -1, 1.5, "1"]),
    ],
)
def test_check_takes_what_is_in_range_and_nothing_else(check, good, bad):
    for value in good:
        check(value)
    for value in bad:
        with pytest.raises(ValueError, match=r"must be|three positive integers"):
            check(value)


def test_supercell_and_bands_are_refused_before_memory_is_asked_for(monkeypatch):
    pytest.importorskip("phonopy")
    from mace_functional.interop.phonopy import phonopy_of

    with pytest.raises(ValueError, match=r"has 2000000000 atoms, more than"):
        phonopy_of(SALT, (1000, 1000, 1000))
    phonons()
    monkeypatch.setattr("mace_functional.autodiff.memory.free_memory", lambda _: 1000)
    with pytest.raises(MemoryError, match=r"eigenvectors on the path need .* GiB"):
        mf.band_structure(phonons(), "GX", points=5)
    with pytest.raises(MemoryError, match=r"eigenvectors on the mesh need .* GiB"):
        mf.mesh_modes(phonons(), mf.Mesh.of(SALT, (3, 3, 3)))


TYPED = {
    "load_model": lambda dtype: mf.load_model("embedded", dtype=dtype),
    "MaceModel.to": lambda dtype: model().to(dtype=dtype),
    "FunctionPotential": lambda dtype: mf.FunctionPotential(None, cutoff=3.0, dtype=dtype),
    "FunctionPotential.to": lambda dtype: mf.FunctionPotential(None, cutoff=3.0).to(dtype=dtype),
    "SumPotential.to": lambda dtype: mf.SumPotential(model()).to(dtype=dtype),
}


@pytest.mark.parametrize("make", TYPED.values(), ids=TYPED)
def test_a_dtype_is_given_as_it_is_or_by_its_name(make):
    for dtype in torch.float64, torch.float32:
        name = str(dtype).removeprefix("torch.")
        assert make(dtype).dtype == make(name).dtype == dtype
    with pytest.raises(ValueError, match=r"dtype must be one of float64, float32, not 'half'"):
        make("half")


def test_settings_of_a_screening_keep_the_name_of_a_dtype():
    by_name, own = (
        mf.ScreenSettings("embedded", dtype=dtype) for dtype in ("float32", torch.float32)
    )
    assert own == by_name
    assert own.dtype == "float32"
