"""What is imported when: a fresh process counts the packages after each step of a user."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

STEPS = {
    "package": "import mace_functional as mf",
    "names": "dir(mf)",
    "help": """
from mace_functional.cli import main
for words in (["--help"], *([name, "--help"] for name in ("relax", "thermo", "phonons", "screen"))):
    try:
        main(words)
    except SystemExit:
        pass
""",
    "bad options": """
for words in (
    ["thermo", "quartz"],
    ["thermo", "quartz", "--model", "embedded", "--temperatures", "-1"],
    ["thermo", "quartz", "--model", "embedded", "--fmax", "0.1"],
    ["phonons", "quartz", "--model", "embedded", "--supercell", "2", "2", "2"],
    ["relax", "quartz", "--model", "embedded", "--output", "no/folder/here.cif"],
    ["screen", "quartz", "--model", "embedded", "--output", "out", "--mesh-tolerance", "0.1"],
):
    assert main(words) == 2
""",
    "energy": """
from ase import Atoms
model = mf.load_model("embedded")
structure = mf.from_ase(Atoms("OH", [[0, 0, 0], [0, 0, 1]]), model)
mf.energy_fn(model, structure.topology)(structure.positions, structure.cell, model.params)
""",
    "commands": """
from mace_functional.cli import relax_command, thermo_command, phonons_command, screen_command
""",
}
"""What a user does, in this order, in one process."""


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """The packages that are imported after each step."""
    lines = ["import contextlib, io, json, sys", "found = {}"]
    for name, step in STEPS.items():
        lines += [
            "with contextlib.redirect_stdout(io.StringIO()), "
            "contextlib.redirect_stderr(io.StringIO()):",
            *("    " + line for line in step.splitlines()),
            f"found[{name!r}] = sorted({{m.partition('.')[0] for m in sys.modules}})",
        ]
    lines.append("print(json.dumps(found))")
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name: set(packages) for name, packages in json.loads(done.stdout).items()}


@pytest.mark.parametrize("step", ["package", "names", "help", "bad options"])
def test_names_help_and_refusals_come_without_what_computes(imported, step):
    heavy = {"torch", "scipy", "ase", "mace", "e3nn", "rich", "spglib", "gemmi", "matplotlib"}
    assert not heavy & imported[step]


def test_our_own_weights_need_neither_mace_torch_nor_e3nn(imported):
    assert "torch" in imported["energy"]
    assert not {"mace", "e3nn"} & imported["energy"]


def test_an_energy_needs_no_package_that_draws_prints_reads_files_or_finds_symmetry(imported):
    others = {"matplotlib", "rich", "gemmi", "phonopy", "phono3py", "spglib", "seekpath", "scipy"}
    others |= {"tad_dftd3"}
    assert not others & imported["energy"]


def test_only_what_draws_imports_matplotlib_and_only_what_asks_for_it_phonopy(imported):
    assert not {"matplotlib", "phonopy", "phono3py", "mace", "e3nn", "dask"} & imported["commands"]
