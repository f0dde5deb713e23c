"""Frameworks from which training configurations are generated, and those that are held out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ase.io
from ase import Atoms
from ase.spacegroup import crystal
from fragments import BENZENE, TRIAZINE
from linker_edits import with_groups, with_spacer
from nets import diamond_net, honeycomb, paddle_wheel

import mace_functional as mf

DABCO = "N12CCN(CC1)CC2"
PYRAZINE = "n1ccncc1"
PHENYLENE = "c1ccc(cc1)"


def frameworks(folder: Path) -> Iterator[tuple[str, Atoms]]:
    """Yield frameworks that are not part of the test.

    Args:
        folder: Folder with RSM0020.cif and RSM0062.cif of Moosavi et al., Nat. Mater. 2022.
    """
    yield from _carboxylates(folder)
    yield from _azolates(folder)
    yield from _covalent()


def held_out_frameworks(folder: Path) -> Iterator[tuple[str, Atoms]]:
    """Yield the frameworks on which the student is tested, which the training leaves out.

    Args:
        folder: Folder with the CIF files of Moosavi et al., Nat. Mater. 2022.
    """
    yield "IRMOF-0", with_spacer(mf.example_structure("MOF-5"), "C#C")
    nickel_framework = ase.io.read(folder / "RSM0011.cif")
    yield "RSM0011 with Zn for Ni", _replaced(nickel_framework, "Ni", "Zn")
    for name in ("RSM0010", "AFI", "13180N3"):
        yield name, ase.io.read(folder / f"{name}.cif")
    yield "aluminium fumarate", with_spacer(ase.io.read(folder / "RSM0062.cif"), "/C=C/")
    # These were chosen before the second stage of the training.
    yield "COF with azo groups", honeycomb(BENZENE, "C", "/N=N/")
    yield "paddle wheel of naphthalate", paddle_wheel("c1ccc2cc(ccc2c1)", PYRAZINE)


def _carboxylates(folder: Path) -> Iterator[tuple[str, Atoms]]:
    """Yield frameworks of Zn and Al with linkers that have two carboxylate groups."""
    mof_5 = mf.example_structure("MOF-5")
    yield "MOF-5", mof_5
    yield "MOF-5 with N and OH", with_groups(mof_5, ["N", "OH"])
    yield "MOF-5 with NH2, Cl and CH3", with_groups(mof_5, ["NH2", "Cl", "CH3"])
    yield "MOF-5 with NO2, NH2 and N", with_groups(mof_5, ["NO2", "NH2", "N"])
    yield "MOF-5 with fumarate", with_spacer(mof_5, "/C=C/")
    yield "MOF-5 with muconate", with_spacer(mof_5, "/C=C/C=C/")
    mil_53 = ase.io.read(folder / "RSM0062.cif")
    yield "RSM0062", mil_53
    for edits in (["N"], ["NH2", "N"], ["OH", "CH3"], ["Cl", "NO2"]):
        yield f"RSM0062 with {' and '.join(edits)}", with_groups(mil_53, edits)
    yield "RSM0062 with muconate", with_spacer(mil_53, "/C=C/C=C/")
    yield "RSM0062 with naphthalate", with_spacer(mil_53, "c1ccc2cc(ccc2c1)")
    dmof_1 = paddle_wheel(PHENYLENE, DABCO)
    yield "DMOF-1", dmof_1
    yield "DMOF-1 with NH2 and NO2", with_groups(dmof_1, ["NH2", "NO2"])
    yield "DMOF-1 with pyrazine", paddle_wheel(PHENYLENE, PYRAZINE)
    yield "DMOF-1 with fumarate", paddle_wheel("/C=C/", DABCO)


def _azolates(folder: Path) -> Iterator[tuple[str, Atoms]]:
    """Yield frameworks of Zn with linkers that bind with nitrogen atoms of five-membered rings."""
    pyrazolate = _replaced(ase.io.read(folder / "RSM0020.cif"), "Cu", "Zn")
    yield "RSM0020 with Zn for Cu", pyrazolate
    for edits in (["N"], ["CH3", "Cl"], ["NH2", "OH"]):
        yield f"RSM0020 with Zn for Cu, {' and '.join(edits)}", with_groups(pyrazolate, edits)
    # The coordinates are those of ZIF-8 without its methyl groups.
    imidazolate = crystal(
        ["Zn", "N", "C", "C", "H", "H"],
        [
            (0.5, 0.25, 0), (0.4098, 0.3172, 0.0317), (0.3770, 0.3770, 0.9921),
            (0.3685, 0.3125, 0.1009), (0.398, 0.398, 0.936), (0.3778, 0.2766, 0.1411),
        ],
        spacegroup=217,
        cellpar=[16.99, 16.99, 16.99, 90, 90, 90],
        primitive_cell=True,
    )  # fmt: skip
    yield "zinc imidazolate", imidazolate
    yield "zinc triazolate", with_groups(imidazolate, ["N"])


def _covalent() -> Iterator[tuple[str, Atoms]]:
    """Yield frameworks of light elements: layers, and nets of atoms with four linkers."""
    yield "CTF-1", honeycomb(TRIAZINE, "N", PHENYLENE)
    yield "CTF with ethynylene", honeycomb(TRIAZINE, "N", "C#C")
    yield "CTF with azine", honeycomb(TRIAZINE, "N", f"{PHENYLENE}/C=N/N=C/{PHENYLENE}")
    yield "COF-LZU1", honeycomb(BENZENE, "C", f"/C=N/{PHENYLENE}/N=C/")
    yield "COF with azine", honeycomb(BENZENE, "C", "/C=N/N=C/")
    yield "graphdiyne with CH", honeycomb(BENZENE, "C", "C#CC#C")
    carbon_nitride = crystal(
        ["C", "N", "N"],
        [(0.174, 0.348, 0), (0.499, 0.998, 0), (0, 0, 0)],
        spacegroup=187,
        cellpar=[4.742, 4.742, 3.4, 90, 90, 120],
    )
    yield "carbon nitride of triazine", carbon_nitride.repeat((1, 1, 2))
    yield "PAF of C and phenylene", diamond_net("C", PHENYLENE)
    yield "PAF of Si and phenylene", diamond_net("Si", PHENYLENE)
    yield "net of C and diacetylene", diamond_net("C", "C#CC#C")
    yield "net of Si and acetylene", diamond_net("Si", "C#C")


def _replaced(atoms: Atoms, old: str, new: str) -> Atoms:
    atoms = atoms.copy()
    atoms.symbols[atoms.symbols == old] = new
    return atoms
