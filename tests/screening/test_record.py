"""Records in files, of this and of earlier versions."""

from __future__ import annotations

import json

import pytest

from mace_functional.screening.record import RECORD, Record

FILE = {
    "key": "0123456789ab",
    "name": "quartz",
    "file": "quartz.cif",
    "atoms": 9,
    "bonds_broken": 1,
    "bonds_formed": 2,
    "gradients": 8,
    "products": 35,
    "rigid_motions": 3,
    "acoustic_branches": 4,
    "imaginary_modes": 5,
    "mass": 180.25,
}
"""Part of what the first version wrote."""

NAMES = {
    "atoms": "n_atoms",
    "bonds_broken": "n_bonds_broken",
    "bonds_formed": "n_bonds_formed",
    "gradients": "n_gradients",
    "products": "n_hvps",
    "rigid_motions": "n_rigid",
    "acoustic_branches": "n_acoustic_branches",
    "imaginary_modes": "n_imaginary",
}
"""Keys of counts in the file, and what they are in Python."""


@pytest.fixture
def record(tmp_path):
    (tmp_path / RECORD).write_text(json.dumps(FILE))
    return Record.load(tmp_path)


def test_file_of_an_earlier_version_is_read(record):
    for key, value in FILE.items():
        assert getattr(record, NAMES.get(key, key)) == value


def test_keys_of_the_file_do_not_change(record, tmp_path):
    record.save(tmp_path)
    written = json.loads((tmp_path / RECORD).read_text())
    assert {key: written[key] for key in FILE} == FILE
    assert not set(NAMES.values()) & set(written)
    assert Record.load(tmp_path) == record


@pytest.mark.parametrize(("old", "new"), NAMES.items())
def test_old_name_of_a_count_gives_the_same_and_warns(record, old, new):
    with pytest.warns(DeprecationWarning, match=rf"Record\.{old} is now Record\.{new};"):
        found = getattr(record, old)
    assert found == getattr(record, new) == FILE[old]
