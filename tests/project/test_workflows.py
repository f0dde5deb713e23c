"""The workflow files try what the package says it supports, and every group of slow tests."""

from __future__ import annotations

import tomllib
from typing import Any

import yaml
from ase.data import atomic_masses, atomic_numbers
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.version import Version
from slow_groups import GROUPS

from mace_functional.screening.references import read_references

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def jobs(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())["jobs"]


def test_every_group_of_slow_tests_runs_by_night():
    assert jobs("nightly.yml")["slow"]["strategy"]["matrix"]["group"] == list(GROUPS)


def test_the_oldest_and_the_newest_supported_torch_are_tried():
    versions = [row["torch"] for row in jobs("tests.yml")["tests"]["strategy"]["matrix"]["include"]]
    (torch,) = (r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "torch")
    bounds = {clause.operator: Version(clause.version) for clause in torch.specifier}
    tried = sorted(map(Version, versions))
    assert all(version in torch.specifier for version in tried)
    assert tried[0] == bounds[">="]
    assert (tried[-1].major, tried[-1].minor + 1) == (bounds["<"].major, bounds["<"].minor)


def test_the_oldest_supported_python_is_tried():
    matrix = jobs("tests.yml")["tests"]["strategy"]["matrix"]["include"]
    assert PROJECT["requires-python"] == ">=" + min((r["python"] for r in matrix), key=Version)


def test_every_extra_for_users_is_in_all():
    extras = PROJECT["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.extras == set(extras) - {"all", "test", "docs"}


def test_the_example_table_of_references_is_read():
    """Quartz: 44.602 J/(mol K) for SiO2 at 298.15 K."""
    table = ROOT / "docs" / "examples" / "heat_capacities.csv"
    measured, computed = read_references(table, ["measured_298.15K", "dft_cv_300K"])
    mass = atomic_masses[atomic_numbers["Si"]] + 2 * atomic_masses[atomic_numbers["O"]]
    assert measured.temperature == 298.15
    assert abs(measured.values["quartz"] - 44.602 / mass) < 1e-4
    assert set(measured.values).isdisjoint(computed.values)
