"""Words of the command line: no option takes one that is not its own."""

from __future__ import annotations

import itertools

import pytest

from mace_functional.cli import main, make_parser
from mace_functional.cli.arguments import UsageError

SEVERAL = {
    "thermo": {
        "--dispersion": ([], "dispersion", "pbe"),
        "--temperatures": (["250", "300"], "temperatures", [250.0, 300.0]),
        "--mesh": (["2", "3", "4"], "mesh", (2, 3, 4)),
        "--free": (["0", "2-3", "-1"], "free", "0,2-3,-1"),
        "--devices": (["cpu", "cpu:0"], "devices", ["cpu", "cpu:0"]),
    },
    "phonons": {
        "--dispersion": (["revPBE"], "dispersion", "revPBE"),
        "--dispersion=none": ([], "dispersion", None),
        "--supercell": (["2", "2", "1"], "supercell", (2, 2, 1)),
        "--displacements": (["0.1", "0.03"], "displacements", [0.1, 0.03]),
    },
    "relax": {
        "--cell": (["xx", "yy"], "cell", [True, True, False, False, False, False]),
        "--pressure": (["-0.5"], "pressure", -0.5),
        "--device": (["cpu"], "device", "cpu"),
    },
    "screen": {
        "--compare": (["cv@300", "cv_250K"], "compare", ["cv@300", "cv_250K"]),
        "--devices": (["cpu", "cpu:0"], "devices", ["cpu", "cpu:0"]),
        "--temperatures": (["0"], "temperatures", [0.0]),
    },
}
CASES = [(subcommand, name) for subcommand, options in SEVERAL.items() for name in options]


def parsed(*words):
    subcommand, *rest = words
    more = ["--output", "o"] if subcommand in ("relax", "screen") else []
    return make_parser().parse_args([subcommand, "--model", "embedded", *more, *rest])


@pytest.mark.parametrize(("subcommand", "name"), CASES)
def test_options_of_several_values_leave_the_file_alone(subcommand, name):
    pytest.importorskip("tad_dftd3")
    values, attribute, expected = SEVERAL[subcommand][name]
    spellings = [[name, *values]]
    if "=" not in name and name not in ("--mesh", "--devices"):  # --mes is three options
        spellings.append([name[:-1], *values])
    if values:
        spellings += [[name, ",".join(values)], [f"{name}={','.join(values)}"]]
    for words in spellings:
        for order in itertools.permutations([words, ["quartz.cif"]]):
            options = parsed(subcommand, *itertools.chain(*order))
            assert getattr(options, attribute) == expected
            assert getattr(options, "file", None) in (None, "quartz.cif")
            assert getattr(options, "structures", None) in (None, ["quartz.cif"])


@pytest.mark.parametrize("file", ["quartz", "POSCAR", "a.cif", "./pbe", "folder/pbe"])
def test_dispersion_takes_functionals_and_no_structure(file, tmp_path, monkeypatch):
    pytest.importorskip("tad_dftd3")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "POSCAR").touch()
    options = parsed("thermo", "--dispersion", file)
    assert (options.dispersion, options.file) == ("pbe", file)
    options = parsed("thermo", "--dispersion", "b3lyp", file)
    assert (options.dispersion, options.file) == ("b3lyp", file)


def test_old_spelling_of_devices_means_the_same_and_warns(recwarn):
    with pytest.warns(FutureWarning, match="--device is now --devices"):
        old = parsed("screen", "--device", "cpu", "cpu:0", "quartz")
    recwarn.clear()
    assert old == parsed("screen", "--devices", "cpu", "cpu:0", "quartz")
    assert not recwarn


@pytest.mark.parametrize(
    ("subcommand", "default"), [("thermo", False), ("phonons", False), ("screen", True)]
)
def test_whether_to_relax_is_said_in_one_way(subcommand, default, capsys):
    assert parsed(subcommand, "quartz").relax is default
    assert parsed(subcommand, "quartz", "--relax").relax is True
    assert parsed(subcommand, "quartz", "--no-relax").relax is False
    with pytest.raises(SystemExit):
        parsed(subcommand, "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert f"use the given geometry ({'--relax' if default else '--no-relax'})" in text
    assert "default:" not in text


@pytest.mark.parametrize("word", ["nope", "true"])
def test_unknown_functional_is_named(word):
    pytest.importorskip("tad_dftd3")
    with pytest.raises(UsageError, match=f"--dispersion: there are no parameters .*{word}"):
        parsed("thermo", "quartz", "--dispersion", word)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["thermo", "a", "--mesh", "2", "2"], "--mesh takes three positive integers"),
        (["thermo", "a", "--temperatures", "1e9"], "--temperatures must be a number from 0 to"),
        (["thermo", "a", "--temperatures"], "--temperatures: expected one argument"),
        (["thermo", "a", "--fmax", "inf"], "--fmax must be a finite number above zero in eV/Å"),
        (["thermo", "a", "--max-steps", "1.5"], "--max-steps must be a whole number of at least 1"),
        (["thermo", "a", "--device", "meta"], "--device: the device must be cpu, cuda"),
        (["thermo", "a", "--device", "cuda:x"], "--device: 'cuda:x' is not a device"),
        (["thermo", "a", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["thermo"], "required: FILE"),
        (["relax", "a", "--cell", "xx", "all"], "not 'xx all'"),
        (["relax", "a", "--pressure", "nan"], "--pressure must be a number from -10000 to 10000"),
        (["screen", "a", "--memory", "0"], "--memory must be a number from 0.001"),
        (["phonons", "a", "--points", "999999999999"], "--points must be a whole number from 2"),
    ],
)
def test_errors_name_the_option_and_its_range(words, message):
    with pytest.raises(UsageError) as refused:
        parsed(*words)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["thermo", "quartz", "--fixed-cell"], "--fixed-cell needs --relax"),
        (["thermo", "quartz", "--fmax", "0.1"], "--fmax needs --relax"),
        (["phonons", "quartz", "--displacements", "0.1"], "--displacements needs --compare-finite"),
        (
            ["screen", "quartz", "--no-relax", "--fmax", "1", "--output", "o"],
            "leave out --no-relax",
        ),
        (
            ["relax", "ethanol", "--pressure", "1", "--output", "o.xyz"],
            "not periodic in three directions",
        ),
        (
            ["relax", "quartz", "--pressure", "1", "--cell", "none", "--output", "o.xyz"],
            "needs a cell that can relax",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    words, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--model", "embedded"]) == 2
    assert message in capsys.readouterr().err


def test_error_that_is_no_input_error_says_that_it_is_a_bug(monkeypatch, capsys):
    def broken(*_):
        raise KeyError("lost")

    monkeypatch.setattr("mace_functional.cli.thermo_command.find_structure", broken)
    assert main(["thermo", "quartz", "--model", "embedded"]) == 70
    error = capsys.readouterr().err
    assert "bug: KeyError: 'lost'" in error
    assert "MACE_FUNCTIONAL_DEBUG=1" in error
    assert "Traceback" not in error
    monkeypatch.setenv("MACE_FUNCTIONAL_DEBUG", "1")
    assert main(["thermo", "quartz", "--model", "embedded"]) == 70
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError("1 GiB"), 2, "error: 1 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "not enough memory"),
        (OSError(28, "No space left on device"), 2, "No space left on device"),
    ],
)
def test_end_that_is_foreseen_has_its_exit_code(error, code, message, monkeypatch, capsys):
    def ended(*_):
        raise error

    monkeypatch.setattr("mace_functional.cli.thermo_command.find_structure", ended)
    assert main(["thermo", "quartz", "--model", "embedded"]) == code
    assert message in capsys.readouterr().err
