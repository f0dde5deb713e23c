"""Command lines as nobody should write them: each ends in results or in one sentence.

Words, numbers, files and models are drawn from pools of good, bad and hostile ones and put together
in any order. Whatever comes out, `main` returns: 0 with results (3 from a screening in which
structures failed), or 2 with a sentence that does not come from a bug. No exception leaves it.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from random import Random

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from conftest import checked_and_replaced
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mace_functional.cli import main
from mace_functional.screening import run as screen_run

WORDS = ["", "abc", "[bold]", "[/x]", ":smile:", "\x00", "ä", "a\nb", "%s", "{}"]
NUMBERS = [
    "0",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e-400",
    "1e300",
    "3K",
    "999999999999",
    *WORDS,
]
COUNTS = ["0", "-1", "1.5", "nan", "1e3", "999999999999", *WORDS]
SIZES = ["2 2", "2", "0 1 1", "99999 99999 99999", "-1 1 1", "a b c", "1 1 1 1", "2,2", "nan 1 1"]
SIZES += ["1e3 1 1", "3000 1 1", "999999999999 1 1", ""]
OUTPUTS = ["o.foo", "o", "no/such/o.xyz", "folder", "folder/", ".", "", "/dev/null", "/dev/full"]
OUTPUTS += ["/proc/o.xyz", "[bold].json", "[/x].json", "a" * 300, "\x00", "salt.extxyz", "o.zip"]
OUTPUTS += [
    "o.gif",
    "o.db",
    "o.html",
    "POSCAR",
    "o.vasp",
    "o.cif",
    "o.pdb",
    "o.gen",
    "o.xsf",
    "o.res",
]
DEVICES = ["cpu:7", "cuda", "cuda:99", "cuda:x", "meta", "xla", "mps", "CPU", "", "[/x]", "hpu"]
PATHS = ["G", "", ",", "GX,", "Q", "[/x]", "G1", "1", "GG", "G X", "X-G", "\x00"]

FILES = ["salt.extxyz", "h2.xyz", "one.extxyz", "slab.extxyz", "fixed.extxyz", "[bold].xyz"]
FILES += ["labels.extxyz"]
BAD_FILES = [
    "empty.xyz",
    "binary.cif",
    "latin.cif",
    "folder",
    "missing.cif",
    "/dev/null",
    "twin.xyz",
]
BAD_FILES += ["[/x].xyz", "gold.xyz", "nan.xyz", "text.json", "zero.extxyz", "", "\x00", "h.xyz"]
BAD_FILES += ["flat.extxyz", "cut.npz", "fifo.xyz", "qartz", "a" * 300, "-x.xyz", "[/y].xyz"]
BAD_MODELS = [
    "missing.model",
    "folder",
    "empty.xyz",
    "binary.cif",
    "salt.extxyz",
    "smal",
    "",
    "[/x]",
]
BAD_MODELS += ["bad.safetensors", "cut.safetensors", "pickle.model", "tensor.model", "/dev/null"]
BAD_MODELS += ["\x00", "[/y].model", "deep.safetensors", "wide.safetensors"]

Pools = tuple[list[str], list[str]]
"""Good values of an option, and others; several words are separated by blanks."""

WIDE = b'{"a":{"dtype":"F64","shape":[1000000000,1000000000],"data_offsets":[0,8]}}'
"""Header of a safetensors file whose shapes ask for more memory than there is."""

FLAG: Pools = ([""], [])
RELAXATION: dict[str, Pools] = {
    "--fmax": (["0.01", "10"], NUMBERS),
    "--max-steps": (["1", "3"], COUNTS),
}
EVERY: dict[str, Pools] = {
    "--dispersion": (["", "pbe"], ["nope", "none", "[/x]", "True"]),
    "--dtype": (["float32", "float64"], ["float16", "", "[/x]"]),
    "--device": (["cpu", "cpu:0"], DEVICES),
    "--head": (["Default"], ["b", "", "[/x]"]),
    "--nonsense": ([], ["", "1"]),
    "--temperatures": (
        ["300", "0 300", "300,400"],
        ["-3", "nan", "inf", "1e9", "1e-300", "abc", ",", "300 [/x]", "300,"],
    ),
    "--mesh": (["2 2 2", "1 1 1", "2,2,2", "1 2 1"], SIZES),
    "--symprec": (["1e-3", "0.1"], NUMBERS),
}
BEFORE: dict[str, Pools] = {
    **EVERY,
    **RELAXATION,
    "--relax": FLAG,
    "--fixed-cell": FLAG,
    "--relaxed": (["r.extxyz"], OUTPUTS),
    "--json": (["o.json"], OUTPUTS),
    "--figure": (["o.png", "o.pdf"], OUTPUTS),
    "--workers": (["1"], ["0", "-1", "1.5", "", "abc", "2000"]),
    "--devices": ([], DEVICES),
    "--dask": ([], ["nowhere", "", "tcp://[/x]:1"]),
}
OPTIONS: dict[str, dict[str, Pools]] = {
    "thermo": {**BEFORE, "--free": (["0", "0-1", "-1"], ["5", "1-0", "a", "0 0", "[/x]", "--1"])},
    "phonons": {
        **BEFORE,
        "--path": (["GX", "GXWKGL,UX"], PATHS),
        "--points": (["2", "5"], COUNTS),
        "--checkpoint": (["c.npz"], OUTPUTS),
        "--unit": (["THz", "cm-1", "meV"], ["eV", ""]),
        "--method": (["auto", "replicas"], ["x"]),
        "--supercell": (["2 2 2", "1 1 1"], SIZES),
        "--compare-finite-differences": FLAG,
        "--displacements": (["0.01", "0.1 0.03"], ["0", "-1", "nan", "inf", "1e9", "a"]),
        "--npz": (["o.npz"], OUTPUTS),
        "--phonopy": (["o.yaml"], OUTPUTS),
    },
    "relax": {
        **{name: EVERY[name] for name in EVERY if name not in ("--temperatures", "--mesh")},
        **RELAXATION,
        "--output": (["o.xyz", "o.traj"], OUTPUTS),
        "--cell": (["all", "none", "isotropic", "xx yy", "xx,yy"], ["xw", "", "[/x]", "all xx"]),
        "--pressure": (["0", "1", "-0.5"], NUMBERS),
        "--symmetry": FLAG,
        "--trajectory": (["o.traj"], OUTPUTS),
        "--json": (["o.json"], OUTPUTS),
    },
    "screen": {
        **EVERY,
        **RELAXATION,
        "--fixed-cell": FLAG,
        "--workers": (["1"], COUNTS),
        "--memory": (["1", "0.5"], NUMBERS),
        "--dask": ([], ["nowhere", "", "tcp://[/x]:1"]),
        "--retry": FLAG,
        "--reference": (["dft.csv"], ["binary.cif", "missing.csv", "folder", "", "empty.xyz"]),
        "--compare": (["cv@300", "cv_300K"], ["cv", "cv@nan", "nope@300", "", "[/x]@300"]),
        "--output": (["o"], ["salt.extxyz", "/dev/null", "", "no/such/o", "[/x]", "\x00"]),
    },
    "finetune": {
        **{name: EVERY[name] for name in EVERY if name not in ("--temperatures", "--mesh")},
        "--energy-key": (["REF_energy", "none", "energy"], WORDS),
        "--forces-key": (["REF_forces", "none"], WORDS),
        "--hessians": ([], ["cut.npz", "missing.npz", "folder", "", "salt.extxyz"]),
        "--validation": (["0", "0.5", "labels.extxyz"], [*NUMBERS, *BAD_FILES]),
        "--replay": (["salt.extxyz", "h2.xyz"], BAD_FILES),
        "--forces-weight": (["0", "1", "1e6"], NUMBERS),
        "--batch-size": (["1", "100"], COUNTS),
        "--patience": (["1"], COUNTS),
        "--rate": (["1e-3", "1"], NUMBERS),
        "--average": (["0", "0.9"], NUMBERS),
        "--trainable": (["all", "readouts", "readouts.*,products.*"], WORDS),
        "--fit-references": FLAG,
        "--seed": (["3"], COUNTS),
        "--output": (["tuned"], OUTPUTS),
        "--checkpoint": (["state", "state.pt"], OUTPUTS),
        "--log": (["o.jsonl"], OUTPUTS),
        "--json": (["o.json"], OUTPUTS),
        "--figure": (["o.png"], OUTPUTS),
    },
}
CHEAP = {
    "thermo": [],
    "relax": ["--max-steps", "2", "--output", "end.extxyz"],
    "phonons": ["--mesh", "1", "1", "1", "--points", "2"],
    "screen": ["--no-relax", "--no-report", "--output", "end"],
    "finetune": ["--epochs", "1", "--output", "tuned"],
}
"""What keeps a good command short, or is required; drawn options come later and win."""


def command_line(choose: Random) -> list[str]:
    """Words of a command in any order: good ones, and up to two that are not."""
    subcommand = choose.choice(sorted(OPTIONS))
    pools: dict[str, Pools] = {"FILE": (FILES, BAD_FILES), "--model": (["embedded"], BAD_MODELS)}
    names = ["FILE", "--model", *choose.sample(sorted(OPTIONS[subcommand]), choose.randint(0, 3))]
    bad = choose.sample(names, min(len(names), choose.choice([0, 1, 1, 1, 2])))
    parts = []
    for name in names:
        good, others = (pools | OPTIONS[subcommand])[name]
        value = choose.choice((others if name in bad else good) or good or others)
        words = [value] if name in pools or value in WORDS else value.split(" ")
        flag = (good, others) == FLAG or (name == "--dispersion" and value == "")
        parts.append([*([] if name == "FILE" else [name]), *([] if flag else words)])
    choose.shuffle(parts)
    return [subcommand, *CHEAP[subcommand], *(word for part in parts for word in part)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of files of every kind, and a worker for screenings in this process."""
    place, before = tmp_path_factory.mktemp("fuzz"), os.getcwd()
    os.chdir(place)
    with ExitStack() as stack:
        stack.callback(os.chdir, before)
        executor = stack.enter_context(ThreadPoolExecutor(1))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(screen_run, "WorkerProcesses", checked_and_replaced(executor))
        write_files()
        yield place


def write_files() -> None:
    """Good and bad structures and models, in the working directory."""
    salt, h2 = bulk("NaCl", "rocksalt", a=5.64), molecule("H2")
    ase.io.write("salt.extxyz", salt)
    ase.io.write("h2.xyz", h2)
    ase.io.write("[bold].xyz", h2)
    labelled = salt.copy()
    labelled.info["REF_energy"] = -7.0
    labelled.arrays["REF_forces"] = np.zeros((2, 3))
    ase.io.write("labels.extxyz", [labelled] * 3)
    os.mkdir("[")
    ase.io.write("[/y].xyz", bulk("Au", "fcc", a=4.08))
    ase.io.write("[/x].xyz", h2)
    ase.io.write("one.extxyz", bulk("Si", "diamond", a=5.43)[:1])
    ase.io.write("h.xyz", Atoms("H"))
    ase.io.write("gold.xyz", Atoms("Au2", [[0, 0, 0], [0, 0, 2.5]]))
    ase.io.write(
        "slab.extxyz", Atoms("NaCl", [[0, 0, 0], [2.8, 0, 0]], cell=[5.6, 2.9, 0], pbc=(1, 1, 0))
    )
    salt.set_constraint(FixAtoms([0]))
    ase.io.write("fixed.extxyz", salt)
    ase.io.write("twin.xyz", Atoms("H2", np.zeros((2, 3))))
    ase.io.write("nan.xyz", Atoms("H2", [[0, 0, 0], [np.nan, 0, 0]]))
    ase.io.write("zero.extxyz", Atoms("H", cell=[1e-9, 1, 1], pbc=True))
    ase.io.write("flat.extxyz", Atoms("H", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=True))
    for name, content in {
        "empty.xyz": b"",
        "binary.cif": bytes(range(256)) * 40,
        "latin.cif": "data_é\n_cell_length_a 3.0\n".encode("latin-1"),
        "text.json": b'{"1": {"numbers": 3}}',
        "cut.npz": b"PK\x03\x04abc",
        "bad.safetensors": b"\xff" * 16,
        "cut.safetensors": (2**40).to_bytes(8, "little") + b"{}",
        "[/y].model": b"\x80\x04N.",
        "deep.safetensors": (2002).to_bytes(8, "little") + b"[" * 1001 + b"]" * 1001,
        "wide.safetensors": (len(WIDE)).to_bytes(8, "little") + WIDE,
        "pickle.model": b"\x80\x04N.",
        "dft.csv": b"name,cv,cv_300K\nsalt,0.5,0.6\n",
        "-x.xyz": b"2\n\nH 0 0 0\nH 0 0 0.7\n",
    }.items():
        with open(name, "wb") as file:
            file.write(content)
    torch.save(torch.zeros(3), "tensor.model")
    os.mkdir("folder")
    os.mkfifo("fifo.xyz")


def check(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends in results or in one sentence."""
    capsys.readouterr()
    for trained in Path().glob("tuned.*"):
        trained.unlink()  # another training does not replace it
    code = main(words)
    error = capsys.readouterr().err
    failed = (3,) if words[0] == "screen" else ()
    assert code in (0, 2, *failed), f"exit code {code}: {error}"
    assert "Traceback" not in error
    if code == 2:
        (sentence,) = [line for line in error.splitlines() if ": error: " in line]
        assert len(sentence) > len("mace-functional: error: ") + 8


def fuzz(examples: int):
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("folder")
@fuzz(30)
@given(choose=st.randoms(use_true_random=True))
def test_command_line_ends_in_results_or_a_sentence(choose, capsys):
    check(command_line(choose), capsys)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("folder")
@fuzz(300)
@given(choose=st.randoms(use_true_random=True))
def test_any_command_line_ends_in_results_or_a_sentence(choose, capsys):
    check(command_line(choose), capsys)
