"""Certificates: sound potentials pass; an error of 1e-4 is found where it is, and only there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import ase.io
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from conftest import shared_file
from pair_potential import Energies, Neighbours, Pairs, PairsWithMore
from torch import Tensor
from torch._C._functorch import maybe_current_level

import mace_functional as mf
from mace_functional.autodiff.primitive import Primitive
from mace_functional.certificate.certificate import Certificate
from mace_functional.certificate.comparison import Comparison, Verdict, worst
from mace_functional.certificate.richardson import differentiate
from mace_functional.cli import main

WRONG = 1 + 1e-4

CRYSTAL = Atoms(
    "Ar3",
    scaled_positions=[[0, 0, 0], [0.5, 0.45, 0.1], [0.1, 0.5, 0.55]],
    cell=[[4.6, 0.2, -0.1], [0.7, 4.4, 0.3], [-0.4, 0.5, 4.8]],
    pbc=True,
)
CLUSTER = Atoms("Ar4", [[0, 0, 0], [3.0, 0.2, 0], [1.4, 2.7, 0.1], [1.3, 1.0, 2.4]])

FOUR_CALLS = {f"{name}, four calls" for name in ("jvp(grad)", "jvp(jvp)", "grad(jvp)", "vmap")}


def names(checks: tuple[Any, ...]) -> set[str]:
    return {check.name for check in checks}


def not_applicable(certificate: Certificate) -> set[str]:
    return {c.name for c in certificate if c.verdict is Verdict.NOT_APPLICABLE}


def assert_holds(certificate: Certificate) -> None:
    assert certificate.passed, f"\n{certificate}"
    for check in certificate:
        if check.verdict is Verdict.HOLDS:
            assert check.error <= check.bound <= 5e-5 * check.size


# Rules of differentiation with an error of 1e-4 at one order.


class Identity(Primitive):
    """Returns what it is given; in some rules something else."""

    def value(self, x: Tensor) -> tuple[Tensor]:
        return (x.clone(),)

    def jvp(self, args: Any, tangents: Any) -> Any:
        return None if tangents[0] is None else self.tangent(tangents[0])

    def vjp(self, args: Any, cotangents: Any, needed: Any) -> Any:
        return self.cotangent(cotangents[0])

    def tangent(self, t: Tensor) -> tuple[Tensor]:
        return (t,)

    def cotangent(self, c: Tensor) -> tuple[Tensor]:
        return (c,)


class WrongSlope(Identity):
    def tangent(self, t: Tensor) -> tuple[Tensor]:
        return (WRONG * t,)

    cotangent = tangent


class WrongBackwards(Identity):
    def cotangent(self, c: Tensor) -> tuple[Tensor]:
        return (WRONG * c,)


class WrongInBatches(Identity):
    def compute_batch(self, args: Any, dims: Any) -> Any:
        return (WRONG * args[0].movedim(dims[0], 0),)


class After(Identity):
    """Rules that send tangents and cotangents through other operations."""

    def __init__(self, tangent: Identity | None = None, cotangent: Identity | None = None) -> None:
        self.tangents, self.cotangents = tangent or Identity(), cotangent or Identity()

    def tangent(self, t: Tensor) -> tuple[Tensor]:
        return self.tangents(t)

    def cotangent(self, c: Tensor) -> tuple[Tensor]:
        return self.cotangents(c)


def of_energy(rule: Identity) -> Callable[..., Energies]:
    return lambda energies, topology: lambda x, cell, p: rule(energies(x, cell, p))[0]


def of_positions(rule: Identity) -> Callable[..., Energies]:
    return lambda energies, topology: lambda x, cell, p: energies(rule(x)[0], cell, p)


def of_cell(rule: Identity) -> Callable[..., Energies]:
    return lambda energies, topology: lambda x, cell, p: energies(x, rule(cell)[0], p)


# Energies that depend on what they must not depend on.


def adding(extra: Callable[..., Tensor]) -> Callable[..., Energies]:
    """The energy with something of its atoms added, times 1e-4."""

    def fault(energies: Energies, topology: Neighbours) -> Energies:
        return lambda x, cell, p: energies(x, cell, p) + 1e-4 * extra(topology, x, cell)

    return fault


def place(topology: Neighbours, x: Tensor, cell: Tensor) -> Tensor:
    return x.sum(1)


def orientation(topology: Neighbours, x: Tensor, cell: Tensor) -> Tensor:
    d = topology.vectors(x, cell)
    r2 = (d * d).sum(1)
    near = (1 - r2 / 25).clamp(min=0) ** 4
    return x.new_zeros(len(x)).index_add(0, topology.first, near * d[:, 2] ** 2 / r2)


def order(topology: Neighbours, x: Tensor, cell: Tensor) -> Tensor:
    d = topology.vectors(x, cell)
    near = (1 - (d * d).sum(1) / 25).clamp(min=0) ** 4
    return x.new_zeros(len(x)).index_add(0, topology.first, near) * (torch.arange(len(x)) == 0)


def edges(topology: Neighbours, x: Tensor, cell: Tensor) -> Tensor:
    return x.new_zeros(len(x)).index_add(0, topology.first, torch.ones_like(topology.shifts[:, 0]))


def old_distances(topology: Neighbours, x: Tensor, cell: Tensor) -> Tensor:
    changes = topology.vectors(x, cell) - topology.vectors(topology.positions, cell)
    return x.new_zeros(len(x)).index_add(0, topology.first, (changes**2).sum(1))


def spread(topology: Neighbours, x: Tensor, cell: Tensor) -> Tensor:
    return ((x - x.mean(0)) ** 2).sum(1)


def single_precision(topology: Neighbours, x: Tensor, cell: Tensor) -> Tensor:
    return torch.full_like(x[:, 0], 10.0 if x.dtype == torch.float32 else 0.0)


def state(energies: Energies, topology: Neighbours) -> Energies:
    """Right at the first call under two transforms, wrong from the second on."""
    calls = 0

    def energy(x: Tensor, cell: Tensor, p: Any) -> Tensor:
        nonlocal calls
        calls += (maybe_current_level() or 0) > 1
        return energies(x, cell, p) * (WRONG if calls > 1 else 1.0)

    return energy


def count(energies: Energies, topology: Neighbours) -> Energies:
    """Wrong in every second call."""
    calls = 0

    def energy(x: Tensor, cell: Tensor, p: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return energies(x, cell, p) * (1.0 if calls % 2 else WRONG)

    return energy


FAULTS = {
    "forces and stress": (of_energy(WrongSlope()), {"forces", "stress"}),
    "stress": (of_cell(WrongSlope()), {"stress"}),
    "Hessian products": (
        of_positions(After(cotangent=WrongSlope())),
        {"Hessian products", "jvp(grad), four calls", "vmap, four calls"},
    ),
    "forward mode twice": (
        of_energy(After(tangent=WrongSlope())),
        {"jvp(jvp), four calls", "grad(jvp), four calls"},
    ),
    "reverse mode twice, so that the Hessian is not symmetric": (
        of_positions(After(cotangent=WrongBackwards())),
        {"Hessian products", "Hessian symmetry"},
    ),
    "vmap": (of_positions(After(tangent=WrongInBatches())), {"vmap, four calls"}),
    "third derivative": (
        of_positions(After(cotangent=After(tangent=WrongSlope()))),
        {"third derivative"},
    ),
    "absolute positions": (
        adding(place),
        {"translation", "rotation", "acoustic sums", "periodic images", "supercell"},
    ),
    "orientation": (adding(orientation), {"rotation"}),
    "order of atoms": (adding(order), {"permutation", "supercell"}),
    "neighbours in the skin": (adding(edges), {"skin", "moved graph"}),
    "an old neighbour list": (adding(old_distances), {"moved graph"}),
    "not periodic": (adding(spread), {"periodic images", "supercell"}),
    "single precision": (adding(single_precision), {"float32"}),
    "state under nested transforms": (state, FOUR_CALLS | {"Hessian products"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_relative_error_of_1e_4_is_found_where_it_is_and_nowhere_else(fault):
    function, expected = FAULTS[fault]
    certificate = mf.check_potential(Pairs(fault=function), CRYSTAL)
    assert names(certificate.failed) == expected, f"\n{certificate}"
    assert not certificate.not_resolved
    assert not certificate.passed


def test_state_in_every_call_is_found_by_the_first_check():
    certificate = mf.check_potential(Pairs(fault=count), CRYSTAL)
    assert certificate["energy, four calls"].verdict is Verdict.FAILS


@pytest.mark.parametrize("atoms", [CRYSTAL, CLUSTER], ids=["crystal", "molecule"])
def test_potential_of_another_kind_passes(atoms):
    certificate = mf.check_potential(Pairs(), atoms)
    assert_holds(certificate)
    periodic = {"stress", "periodic images", "supercell"}
    expected = {"last part alone", "sum of parts", "D(q)"}
    assert not_applicable(certificate) == expected | (set() if atoms.pbc.any() else periodic)
    assert "has no dynamical matrix" in certificate["D(q)"].reason


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"phonons": WRONG}, {"D(q)"}),
        (
            {"attraction": Pairs(((6, -300.0 * WRONG),))},
            {"sum of parts"},
        ),
        (
            {"attraction": Pairs(((6, -300.0),), fault=of_energy(WrongSlope()))},
            {"last part alone", "sum of parts"},
        ),
    ],
    ids=["sound", "D(q)", "sum of parts", "forces of a part"],
)
def test_phonons_and_parts_are_checked_where_a_potential_has_them(changes, expected):
    certificate = mf.check_potential(PairsWithMore(**changes), CRYSTAL)
    assert names(certificate.failed) == expected, f"\n{certificate}"
    assert not not_applicable(certificate)
    if not expected:
        assert_holds(certificate)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("atoms", "dispersion"),
    [
        (molecule("H2O"), None),
        (bulk("NaCl", "rocksalt", a=5.64), "pbe"),
        (fcc111("Al", (1, 1, 2)), None),
    ],
    ids=["molecule", "crystal with dispersion", "slab"],
)
def test_embedded_model_passes(atoms, dispersion):
    if dispersion:
        pytest.importorskip("tad_dftd3")
    before = atoms.copy()
    model = mf.load_model("embedded", dispersion=dispersion)
    certificate = mf.check_potential(model, atoms)
    assert_holds(certificate)
    assert ("last part alone" in not_applicable(certificate)) == (dispersion is None)
    assert ("D(q)" in not_applicable(certificate)) == (not atoms.pbc.any())
    assert (atoms.positions == before.positions).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MACE-MP-0_small", "MACE-DAC-1"])
def test_foundation_models_pass_for_a_framework(name):
    model = mf.load_model(shared_file("weights", f"{name}.model"))
    atoms = ase.io.read(shared_file("heatcapacity", "structures", "RSM0011.cif"))
    assert_holds(mf.check_potential(model, atoms))


def test_potential_in_single_precision_is_checked_in_double():
    certificate = mf.check_potential(Pairs(dtype=torch.float32), CLUSTER)
    assert_holds(certificate)
    assert certificate["float32"].verdict is Verdict.HOLDS


class OnlySingle(Pairs):
    def to(self, *, dtype: Any = None, device: Any = None) -> Pairs:
        if dtype is torch.float64:
            raise ValueError("there is no double precision")
        return self


def test_checks_that_cannot_resolve_an_error_of_1e_4_say_so():
    certificate = mf.check_potential(OnlySingle(dtype=torch.float32), CLUSTER)
    assert not certificate.failed, f"\n{certificate}"
    assert not certificate.passed
    unresolved = names(certificate.not_resolved)
    assert {"forces", "Hessian products", "third derivative"} <= unresolved
    assert "1e-4 could hide" in certificate["forces"].reason
    assert "no double precision" in certificate["float32"].reason


def test_lattice_of_one_atom_is_doubled_because_no_force_acts_in_it():
    certificate = mf.check_potential(Pairs(), bulk("Ar", "fcc", a=5.2))
    assert_holds(certificate)
    assert certificate["forces"].size > 1e-4
    assert certificate.structure.startswith("Ar2")


def test_atom_alone_has_forces_in_nothing():
    certificate = mf.check_potential(Pairs(), Atoms("Ar"))
    assert not certificate.failed
    assert certificate["forces"].verdict is Verdict.NOT_APPLICABLE
    assert certificate["forces"].reason == "F is zero"


def test_exact_symmetry_hides_forces_and_the_certificate_says_so():
    certificate = mf.check_potential(Pairs(), bulk("ArAr", "rocksalt", a=5.2), displacement=0.0)
    assert certificate["forces"].verdict in (Verdict.NOT_RESOLVED, Verdict.NOT_APPLICABLE)
    assert certificate["Hessian products"].verdict is Verdict.HOLDS


def test_transform_that_raises_fails_its_check_with_the_reason():
    class WithoutTransforms(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, cotangent: Tensor) -> Tensor:
            return cotangent

    def fault(energies: Energies, topology: Neighbours) -> Energies:
        return lambda x, cell, p: WithoutTransforms.apply(energies(x, cell, p))

    certificate = mf.check_potential(Pairs(fault=fault), CLUSTER)
    assert certificate["energy, four calls"].verdict is Verdict.HOLDS
    assert certificate["forces"].verdict is Verdict.FAILS
    assert certificate["forces"].reason.startswith("RuntimeError: In order to use an autograd")


@pytest.mark.parametrize("displacement", [-0.1, 0.5, float("nan"), "much"])
def test_bad_displacement_is_refused(displacement):
    with pytest.raises(ValueError, match="displacement must"):
        mf.check_potential(Pairs(), CLUSTER, displacement=displacement)


def test_what_is_no_potential_is_refused_by_name():
    with pytest.raises(TypeError, match="Atoms has no params, dtype"):
        mf.check_potential(CLUSTER, Pairs())
    with pytest.raises(ValueError, match="no atoms"):
        mf.check_potential(Pairs(), Atoms())
    with pytest.raises(ValueError, match="does not know the elements Ar"):
        mf.check_potential(mf.load_model("embedded"), CLUSTER)


def test_slope_of_a_sine_is_exact_within_its_uncertainty():
    slope = differentiate(lambda h: torch.sin(torch.tensor([1.0 + h, h], dtype=torch.float64)), 0.1)
    error = float((slope.value - torch.cos(torch.tensor([1.0, 0.0]).double())).abs().max())
    assert error <= slope.uncertainty < 1e-9


def test_slope_at_a_kink_is_uncertain():
    assert differentiate(lambda h: torch.tensor([abs(h - 0.01)]).double(), 0.1).uncertainty > 1e-2


def test_verdicts_follow_from_error_bound_and_size():
    def verdict(error: float, bound: float, size: float) -> Verdict:
        return Comparison("x", error, bound, size, "eV").verdict

    assert verdict(1e-9, 1e-8, 1.0) is Verdict.HOLDS
    assert verdict(1e-7, 1e-8, 1.0) is Verdict.FAILS
    assert verdict(float("nan"), 1e-8, 1.0) is Verdict.FAILS
    assert verdict(1e-9, float("nan"), 1.0) is Verdict.FAILS
    assert verdict(1e-9, 1e-4, 1.0) is Verdict.NOT_RESOLVED
    assert verdict(0.0, 0.0, 0.0) is Verdict.NOT_APPLICABLE
    assert verdict(1e-3, 0.0, 0.0) is Verdict.FAILS
    rows = [Comparison("x", 1e-9, 1e-8, 1.0, "eV"), Comparison("y", 0.0, 1e-4, 1.0, "eV")]
    assert worst(rows).what == "y"
    assert worst([*rows, Comparison("z", 1.0, 1e-8, 1.0, "eV")]).what == "z"


def test_table_and_dictionary_say_the_same():
    certificate = mf.check_potential(Pairs(fault=of_cell(WrongSlope())), CRYSTAL)
    text, data = str(certificate), json.loads(json.dumps(certificate.as_dict()))
    assert "not passed: 18 holds, 1 fails, 3 not applicable" in text
    assert not data["passed"]
    assert [row["name"] for row in data["checks"]] == [check.name for check in certificate]
    assert {r["name"] for r in data["checks"] if r["verdict"] == "fails"} == {"stress"}
    stress = certificate["stress"]
    assert 3e-5 * stress.size < stress.error < 3e-4 * stress.size
    assert stress.unit == "GPa"
    with pytest.raises(KeyError, match="no check 'force'; there are energy, four calls"):
        certificate["force"]


def test_command_line_prints_the_table_and_writes_it(tmp_path, capsys):
    out, file = tmp_path / "check.json", tmp_path / "hydrogen.xyz"
    ase.io.write(file, molecule("H2"))
    assert main(["check", str(file), "--model", "embedded", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "Hessian products" in printed
    assert "passed: 16 holds, 6 not applicable" in printed
    assert json.loads(out.read_text())["passed"]


def test_command_line_exits_with_1_if_a_check_fails_and_with_2_for_bad_input(
    tmp_path, capsys, monkeypatch
):
    words = ["check", "ethanol", "--model", "embedded"]
    assert main([*words, "--displacement", "9"]) == 2
    assert "--displacement must be a number from 0 to 0.3 in Å" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "none.cif"), "--model", "embedded"]) == 2
    wrong = mf.check_potential(Pairs(fault=of_energy(WrongSlope())), CLUSTER)
    monkeypatch.setattr("mace_functional.cli.check_command.check_potential", lambda *_, **__: wrong)
    assert main(words) == 1
    assert "not passed" in capsys.readouterr().out
