"""Public functions to compare on two devices, with tolerances; for `gpu.py`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor
from torch.func import grad, jvp, vmap
from torch.utils._pytree import tree_leaves

import mace_functional as mf

Q = [0.1, 0.2, 0.3]


class Check(NamedTuple):
    """A function of a loaded model that returns tensors, and how far two devices may differ.

    Attributes:
        function: From the model to tensors, in any containers.
        double: Tolerance in float64, over the largest entry of each tensor.
        single: Tolerance in float32, likewise; None if the function is not for float32.
    """

    function: Callable[[Any], Any]
    double: float
    single: float | None


class Comparison(NamedTuple):
    """The result of a check.

    Attributes:
        name: Name of the function.
        dtype: Name of the dtype.
        error: Largest difference, over the largest entry of each tensor; None if a device failed.
        tolerance: Largest difference allowed.
        problem: Error message, if a device failed.
        left_out: True if there was no time for the check.
    """

    name: str
    dtype: str
    error: float | None
    tolerance: float
    problem: str = ""
    left_out: bool = False

    @property
    def verdict(self) -> str:
        """The result in words: "ok", "left out", "differs" or an error message."""
        if self.left_out:
            return "left out"
        if self.error is None:
            return self.problem
        return "ok" if self.error <= self.tolerance else "differs"


def salt() -> Atoms:
    """Return a rattled crystal of sodium chloride, 8 atoms."""
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.rattle(0.02, seed=1)
    return atoms


def primitive() -> Atoms:
    """Return sodium chloride at rest by symmetry, 2 atoms."""
    return bulk("NaCl", "rocksalt", a=5.64)


class _Prepared:
    """A structure and its energy."""

    def __init__(self, model: Any, atoms: Atoms) -> None:
        self.s = mf.from_ase(atoms, model)
        self.E = mf.energy_fn(model, self.s.topology)
        self.args = self.s.positions, self.s.cell, model.params
        self.v = torch.linspace(-1, 1, self.s.positions.numel()).to(self.s.positions).view(-1, 3)


def _first(model: Any) -> Any:
    p = _Prepared(model, salt())
    strain = torch.zeros_like(p.s.cell)
    return (
        p.E(*p.args),
        mf.forces(p.E)(*p.args),
        mf.stress(p.E)(*p.args),
        grad(mf.strained(p.E))(strain, *p.args),
    )


def _second(model: Any) -> Any:
    p = _Prepared(model, salt())
    op = mf.HessianOperator(p.E, *p.args, masses=p.s.masses)
    modes = [mf.hessian(p.E, mode=mode, chunk_size=5)(*p.args) for mode in ("fwd-rev", "rev-rev")]
    some = mf.hessian(p.E, indices=[0, 3])(*p.args)
    scipy = torch.as_tensor(op.to_scipy().matvec(np.ones(op.shape[0])))
    return mf.hvp(p.E)(*p.args, p.v), modes, mf.hessian(p.E)(*p.args), some, op.dense(), scipy


def _other_transforms(model: Any) -> Any:
    p = _Prepared(model, molecule("H2O"))
    x = torch.stack([p.args[0], 1.01 * p.args[0]])
    third = grad(lambda x: mf.hvp(p.E)(x, *p.args[1:], p.v).square().sum())(p.args[0])
    return vmap(lambda x: mf.forces(p.E)(x, *p.args[1:]))(x), third


def _parameters(model: Any) -> Any:
    p = _Prepared(model, molecule("H2O"))
    return grad(p.E, argnums=2)(*p.args)


def _batch(model: Any) -> Any:
    b = mf.batch([mf.from_ase(atoms, model) for atoms in (molecule("H2O"), primitive())])

    def energy(topology: Any, x: Tensor, cell: Tensor) -> Tensor:
        return mf.energy_fn(model, topology)(x, cell, model.params)

    return vmap(energy)(b.topology, b.positions, b.cell)


def _compile_checked(model: Any) -> Any:
    p = _Prepared(model, molecule("H2O"))
    gradient = mf.compile_checked(grad(p.E), backend="eager")
    return gradient(*p.args), gradient(*p.args)


def _vibrations(model: Any) -> Any:
    modes = mf.gamma_modes(model, molecule("CH3CH2OH"))
    some = mf.gamma_modes(model, molecule("CH3CH2OH"), indices=[1, 2])
    thermo = mf.harmonic_thermo(modes, [100.0, 300.0])
    return modes.frequencies, some.frequencies, thermo.heat_capacity, thermo.entropy


def _matrices(model: Any) -> Any:
    p = _Prepared(model, molecule("CH3CH2OH"))
    hessian = mf.hessian(p.E)(*p.args)
    normal = mf.normal_modes(hessian, p.s.masses, p.s.positions, pbc=[False] * 3)
    as_function = mf.vibrational_frequencies(hessian, p.s.masses, p.s.positions)
    return mf.frequencies(hessian, p.s.masses)[6:], normal.frequencies, as_function


def _dynamical_matrix(model: Any) -> Any:
    p = _Prepared(model, primitive())
    D = mf.dynamical_matrix_fn(model, p.s.topology)
    at = [D(q, *p.args, p.s.masses) for q in (Q, [0.5, 0, 0.5], [0, 0, 0])]
    q = p.s.cell.new_tensor(Q)
    return at, jvp(lambda q: D(q, *p.args, p.s.masses), (q,), (torch.ones_like(q),))[1]


def _phonons(method: str) -> Callable[[Any], Any]:
    def function(model: Any) -> Any:
        phonons = mf.phonons_of(model, primitive(), method=method)
        modes = mf.mesh_modes(phonons, mf.Mesh.of(primitive(), (2, 2, 2)))
        states = mf.density_of_states(modes)
        thermo = mf.mesh_thermo(modes, [300.0]).thermo
        bands = mf.band_structure(phonons, "GX", points=4)
        speeds = mf.group_velocities(phonons, Q)
        return modes.frequencies, states.total, thermo.heat_capacity, bands.frequencies, speeds

    return function


def _force_constants(model: Any) -> Any:
    constants = mf.force_constants(model, primitive())
    return constants.values, constants.dynamical_matrix(Q)


def _relax(model: Any) -> Any:
    return torch.tensor(mf.relax(model, salt(), fmax=1e-2).energy)


def _saddle(model: Any) -> Any:
    atoms = molecule("NH3")
    atoms.positions[0, 2] -= 0.25
    saddle = mf.find_saddle(model, atoms, connect=False, fmax=1e-2)
    down = mf.follow_mode(model, saddle.atoms, saddle.mode, fmax=1e-2)
    return torch.tensor([saddle.energy, down.energy])


def _lowest_modes(model: Any) -> Any:
    op = mf.HessianOperator.from_potential(model, molecule("CH3CH2OH"))
    stability = mf.check_stability(model, molecule("H2O"))
    return mf.lowest_modes(op, 2).eigenvalues, torch.tensor(stability.frequency)


def _dispersion(model: Any) -> Any:
    options = {"device": model.device, "dtype": model.dtype}
    D3 = mf.dispersion_fn(salt(), **options)
    x, cell = (torch.as_tensor(t).to(**options) for t in (salt().positions, salt().cell.array))
    both = mf.SumPotential(model, mf.D3("pbe", **options))
    p = _Prepared(both, salt())
    D = mf.dynamical_matrix_fn(both, p.s.topology)(Q, *p.args, p.s.masses)
    return D3(x, cell), grad(D3)(x, cell), mf.hessian(p.E)(*p.args), D


def _function_potential(model: Any) -> Any:
    def energies(near: mf.Neighbourhood, k: Tensor) -> Tensor:
        return near.sum(k * (4 - near.distances) ** 4)

    options = {"device": model.device, "dtype": model.dtype}
    potential = mf.FunctionPotential(energies, cutoff=4.0, params=torch.tensor(0.01), **options)
    p = _Prepared(potential, salt())
    return mf.forces(p.E)(*p.args), mf.hessian(p.E)(*p.args)


def _calculator(model: Any) -> Any:
    atoms = salt()
    atoms.calc = mf.MaceCalculator(model)
    first = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    hessian = atoms.calc.get_hessian(atoms)
    atoms.positions[0, 0] += 0.01
    return [torch.as_tensor(x) for x in (*first, hessian, atoms.get_forces())]


def _saved(model: Any) -> Any:
    with TemporaryDirectory() as folder:
        mf.save_model(model, Path(folder) / "model.safetensors")
        options = {"device": model.device, "dtype": model.dtype}
        return mf.load_model(Path(folder) / "model.safetensors", **options).params


def _certificate(model: Any) -> Any:
    certificate = mf.check_potential(model, primitive())
    return torch.tensor(float(certificate.passed))


def _screening(model: Any) -> Any:
    with TemporaryDirectory() as folder, ThreadPoolExecutor(1) as executor:
        screening = mf.screen(
            {"salt": primitive()},
            Path(folder) / "screening",
            mf.ScreenSettings("embedded", fmax=1e-2, mesh=(2, 2, 2)),
            devices=[str(model.device)],
            executor=executor,
        )
        (record,) = screening.records
        assert record.failure is None, record.failure
        return torch.tensor([record.energy, record.lowest_frequency])


CHECKS = {
    "energy_fn, forces, stress, strained": Check(_first, 1e-11, 1e-4),
    "hvp, hessian, HessianOperator": Check(_second, 1e-10, 1e-4),
    "forces under vmap, third derivatives": Check(_other_transforms, 1e-10, 1e-3),
    "gradient by parameters": Check(_parameters, 1e-10, 1e-3),
    "batch": Check(_batch, 1e-11, 1e-5),
    "compile_checked": Check(_compile_checked, 1e-10, 1e-4),
    "gamma_modes, harmonic_thermo": Check(_vibrations, 1e-7, 1e-2),
    "frequencies, normal_modes, vibrational_frequencies": Check(_matrices, 1e-7, 1e-2),
    "dynamical_matrix_fn": Check(_dynamical_matrix, 1e-10, 1e-4),
    "phonons by force constants": Check(_phonons("force-constants"), 1e-7, None),
    "phonons by replicas": Check(_phonons("replicas"), 1e-7, None),
    "force_constants": Check(_force_constants, 1e-10, 1e-4),
    "relax": Check(_relax, 1e-7, 1e-4),
    "find_saddle, follow_mode": Check(_saddle, 1e-6, None),
    "lowest_modes, check_stability": Check(_lowest_modes, 1e-5, None),
    "FunctionPotential": Check(_function_potential, 1e-11, 1e-4),
    "MaceCalculator": Check(_calculator, 1e-10, 1e-4),
    "save_model, load_model": Check(_saved, 0.0, 0.0),
    "check_potential": Check(_certificate, 0.0, None),
    "screen": Check(_screening, 1e-6, None),
}
if find_spec("tad_dftd3"):
    CHECKS["D3, SumPotential"] = Check(_dispersion, 1e-10, 1e-4)


def compare(device: str, is_late: Callable[[], bool]) -> Iterator[Comparison]:
    """Compare every function on a device with the CPU, in float64 and in float32.

    Args:
        device: The device.
        is_late: Returns True when the remaining checks must be left out.
    """
    models = {
        dtype: [mf.load_model("embedded", dtype=dtype, device=d) for d in ("cpu", device)]
        for dtype in ("float64", "float32")
    }
    for name, check in CHECKS.items():
        for dtype, tolerance in ("float64", check.double), ("float32", check.single):
            if tolerance is None:
                continue
            if is_late():
                yield Comparison(name, dtype, None, tolerance, left_out=True)
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield _compared(name, check.function, models[dtype], tolerance)


def _compared(
    name: str, function: Callable[[Any], Any], models: list[Any], tolerance: float
) -> Comparison:
    dtype = str(models[0].dtype).removeprefix("torch.")
    results = []
    for model in models:
        try:
            results.append(tree_leaves(function(model)))
        except Exception as error:
            message = f"{type(error).__name__} on {model.device}: {error}".splitlines()[0]
            return Comparison(name, dtype, None, tolerance, message)
    errors = [_difference(a, b) for a, b in zip(*results, strict=True)]
    return Comparison(name, dtype, max(errors), tolerance)


def _difference(expected: Tensor, found: Tensor) -> float:
    """Return the largest difference over the largest entry; infinite if it is not a number."""
    expected, found = (t.detach().cpu().to(torch.complex128) for t in (expected, found))
    if not expected.numel():
        return 0.0
    scale = expected.abs().max().clamp(min=1e-12)
    error = float((found - expected).abs().max() / scale)
    return error if np.isfinite(error) else float("inf")
