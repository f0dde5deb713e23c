"""Symmetry operations of a CIF: listed in the file, or given by the name of the space group."""

from __future__ import annotations

import re
from dataclasses import dataclass

import gemmi
import numpy as np

from mace_functional.structure.reading.cif_text import NOTHING, Block
from mace_functional.structure.reading.errors import StructureError
from mace_functional.structure.reading.sites import FractionalOperations

LISTED = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz")
HALL = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
NAME = (
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m_full",
    "_symmetry_space_group_name_h-m_full",
)
NUMBER = ("_space_group_it_number", "_symmetry_int_tables_number")
CODE = ("_space_group_it_coordinate_system_code", "_symmetry_space_group_setting")
"""Tags of a CIF, in lower case, with `_` for `.`."""

EXTENSIONS = {"H": "H", "R": "R", "HR": "H", "RS": "R", "S": "1", "Z": "2", "1": "1", "2": "2"}
"""Suffixes that databases append to a name, with gemmi's extension for the same setting."""

FITS = 0.02
"""Largest relative change of the metric of a cell by a symmetry operation that fits the cell.

Rounded lattice parameters cause 1e-3, a wrong setting 0.1 and more.
"""


@dataclass(frozen=True, eq=False)
class Group:
    """Space group of a CIF.

    Attributes:
        stated: Name or number as written in the file; None if it has neither.
        choices: Possible sets of operations; several if the file does not state the origin choice.
        named: Operations of the named group if they fit the cell; else None.
        point_order: Number of rotations of the named group; None if no group is named.
    """

    stated: str | None
    choices: tuple[FractionalOperations, ...]
    named: FractionalOperations | None
    point_order: int | None


def group_of(block: Block, cell: np.ndarray) -> Group:
    """Return the space group of a block of a CIF.

    Listed operations take precedence, then the Hall symbol, the Hermann-Mauguin symbol and the
    number. The cell decides between hexagonal and rhombohedral axes. Words such as "trigonal" are
    ignored, because they do not determine the axes.

    Args:
        block: Block of the file.
        cell: Lattice vectors, Å, (3, 3).

    Raises:
        StructureError: If operations cannot be read or do not form a group, or a group is unknown
            or does not fit the cell.
    """
    listed = _listed(block)
    hall, name, number = (block.value(*tags) for tags in (HALL, NAME, NUMBER))
    stated = name or number or hall
    named = groups_named(hall, name, number, block.value(*CODE), cell)
    fitting = [group for group in named if group.misfit(cell) < FITS]
    choices = [listed] if listed is not None else fitting
    if not choices and stated is None:
        choices = [FractionalOperations(np.eye(3)[None], np.zeros((1, 3)))]
    if not choices:
        known = "does not fit the cell" if named else "is not known"
        raise StructureError(
            f"the space group {stated} {known}: correct the name or the cell, or list the symmetry "
            "operations"
        )
    if choices[0].misfit(cell) > FITS:
        raise StructureError("its symmetry operations do not fit its cell: correct one of the two")
    return Group(
        stated,
        tuple(choices),
        fitting[0] if fitting else None,
        named[0].point_order if named else None,
    )


def _listed(block: Block) -> FractionalOperations | None:
    """Return the listed operations, or None if none are listed.

    Raises:
        StructureError: If one cannot be read, or they do not form a group.
    """
    triplets = block.column(*LISTED) or []
    operations = []
    for triplet in triplets:
        if triplet in NOTHING:
            return None
        try:
            operations.append(gemmi.Op(triplet).wrap())
        except RuntimeError as error:
            raise StructureError(f"{triplet!r} is not a symmetry operation: correct it") from error
    if not operations:
        return None
    group = _as_arrays(list({op.triplet(): op for op in operations}.values()))
    if not _is_closed(group):
        raise StructureError(
            f"its {len(group)} symmetry operations do not form a group, because the product of "
            "two of them is missing: list all operations"
        )
    return group


def _is_closed(group: FractionalOperations) -> bool:
    """Return True if the product of any two operations is an operation of the group."""
    R = np.rint(group.rotations).astype(int)
    t = np.rint(group.translations * gemmi.Op.DEN).astype(int)
    R_products = np.einsum("aij,bjk->abik", R, R).reshape(-1, 9)
    t_products = (np.einsum("aij,bj->abi", R, t) + t[:, None]).reshape(-1, 3)
    R_powers, t_powers = 3 ** np.arange(9), gemmi.Op.DEN ** np.arange(3) * 3**9

    def code(R: np.ndarray, t: np.ndarray) -> np.ndarray:
        return (R + 1) @ R_powers + (t % gemmi.Op.DEN) @ t_powers

    codes = code(R.reshape(-1, 9), t)
    return bool(np.isin(code(R_products, t_products), codes).all())


def groups_named(
    hall: str | None, name: str | None, number: str | None, code: str | None, cell: np.ndarray
) -> list[FractionalOperations]:
    """Return the operations of the named group, one set for each possible origin or setting.

    Args:
        hall: Hall symbol.
        name: Hermann-Mauguin symbol.
        number: Number in the International Tables.
        code: Code of the setting or origin choice.
        cell: Lattice vectors, Å, (3, 3).
    """
    if hall is not None:
        try:
            return [_as_arrays(list(gemmi.symops_from_hall(hall)))]
        except RuntimeError:
            pass
    groups = _by_name(name, code) if name is not None else []
    if not groups and number is not None and number.isdigit() and 1 <= int(number) <= 230:
        standard = gemmi.find_spacegroup_by_number(int(number))
        groups = _by_name(standard.hm, code)
    found = [_as_arrays(list(group.operations())) for group in groups]
    if any(group.ext in "HR" for group in groups):
        # The cell determines the axes, because codes that contradict the cell are a common error.
        found.sort(key=lambda group: group.misfit(cell) > FITS)
        found = found[:1]
    return found


def _by_name(name: str, code: str | None) -> list[gemmi.SpaceGroup]:
    """Return all groups of gemmi's table that a name may denote."""
    bare, _, extension = re.sub(r"\((\d)\)", r"\1", name).partition(":")
    bare, extension = bare.strip(), extension.strip().upper()
    if not extension:
        words = re.fullmatch(r"(\S.*\S)\s+(H|R|HR|RS|S|Z)", bare)
        if words is not None and gemmi.find_spacegroup_by_name(bare) is None:
            bare, extension = words[1], words[2]
    group = gemmi.find_spacegroup_by_name(bare)
    if group is None:
        return []
    same = group.hm, group.qualifier
    alike = [g for g in gemmi.spacegroup_table() if (g.hm, g.qualifier) == same]
    extension = EXTENSIONS.get(extension) or EXTENSIONS.get((code or "").strip().upper(), "")
    chosen = [g for g in alike if g.ext == extension and extension in ("1", "2")]
    return chosen or alike


def _as_arrays(operations: list[gemmi.Op]) -> FractionalOperations:
    rotations = np.array([op.rot for op in operations]) / gemmi.Op.DEN
    translations = np.array([op.tran for op in operations]) / gemmi.Op.DEN
    return FractionalOperations(rotations, translations)
