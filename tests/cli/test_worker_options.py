"""Options for many workers: the same results, and what contradicts itself is refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from mace_functional.cli import main, make_parser
from mace_functional.cli.worker_options import executor_of
from mace_functional.parallel import dask_workers, processes

MESH = ["quartz", "--model", "embedded", "--mesh", "1", "1", "2", "--temperatures", "300"]
COMMANDS = {
    "thermo": ["thermo", *MESH],
    "phonons": ["phonons", *MESH, "--points", "2"],
    "elastic": ["elastic", "quartz", "--model", "embedded", "--no-relax"],
}


@pytest.fixture
def asked(monkeypatch):
    """Threads in place of processes; yields what was asked for."""
    wanted = []

    def threads(*args, **options):
        wanted.append((*args, *options.values()))
        return ThreadPoolExecutor(2)

    monkeypatch.setattr(processes, "WorkerProcesses", threads)
    monkeypatch.setattr(dask_workers, "dask_executor", threads)
    return wanted


def results(words, folder):
    assert main([*words, "--json", str(folder / "out.json")]) == 0
    return json.loads((folder / "out.json").read_text()) | {"seconds": None}


@pytest.mark.filterwarnings(
    "ignore:the structure is not stable", "ignore:the cell", "ignore:the ions"
)
@pytest.mark.parametrize("command", COMMANDS)
def test_workers_change_no_digit_of_the_results(command, asked, tmp_path):
    one = results(COMMANDS[command], tmp_path)
    assert not asked
    assert results([*COMMANDS[command], "--workers", "2"], tmp_path) == one
    assert asked == [(2, None)]


def test_options_name_the_executor(asked):
    for words in [], ["--workers", "1"]:
        with executor_of(make_parser().parse_args([*COMMANDS["thermo"], *words])) as executor:
            assert executor is None
    for words in ["--devices", "cpu", "cpu"], ["--dask", "local", "--workers", "2"]:
        executor_of(make_parser().parse_args([*COMMANDS["thermo"], *words]))
    assert asked == [(None, ["cpu", "cpu"]), ("local", 2)]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--devices", "cpu", "--workers", "2"], "leave out --workers and --dask"),
        (["--devices", "cpu", "--dask", "local"], "leave out --workers and --dask"),
        (["--dask", "tcp://host:1", "--workers", "2"], "--workers needs --dask local"),
        (["--devices", "cuda:99"], "there is no device cuda:99"),
        (["--workers", "0"], "from 1 to 1024"),
    ],
)
def test_what_contradicts_itself_is_refused(command, words, reason, asked, capsys):
    assert main([*COMMANDS[command], *words]) == 2
    assert reason in capsys.readouterr().err
    assert not asked
