"""Example structures with published coordinates.

Crystals are CIF files with the asymmetric unit and the source. Molecules are from the G2 set in ASE
(Curtiss et al., J. Chem. Phys. 106, 1063, 1997).
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase import Atoms

CRYSTALS = {
    "quartz": "alpha-quartz, SiO2, 9 atoms (Kihara, Eur. J. Mineral. 1990)",
    "sodalite": "silica sodalite, SiO2, 18 atoms (Baerlocher et al., Atlas of Zeolite Framework "
    "Types, 2007)",
    "MOF-5": "zinc terephthalate framework, 106 atoms (Eddaoudi et al., Science 2002)",
}
MOLECULES = {"ethanol": "CH3CH2OH", "benzene": "C6H6"}
STRUCTURES = CRYSTALS | {
    "ethanol": "CH3CH2OH, 9 atoms (Curtiss et al., J. Chem. Phys. 1997)",
    "benzene": "C6H6, 12 atoms (Curtiss et al., J. Chem. Phys. 1997)",
}
"""Name of each example structure, with a description and its source."""


def example_structure(name: str) -> Atoms:
    """Return a structure that comes with the package.

    Args:
        name: "quartz", "sodalite", "MOF-5", "ethanol" or "benzene", in upper or lower case;
            `STRUCTURES` describes them.

    Returns:
        The molecule, or the primitive cell of the crystal, at the published coordinates. Relax it
        with the model before computing frequencies.

    Raises:
        ValueError: If the name is unknown.

    >>> example_structure("MOF-5").get_chemical_formula()
    'C48H24O26Zn8'
    """
    from ase import Atoms
    from ase.build import molecule
    from ase.io.cif import parse_cif

    names = {known.lower(): known for known in STRUCTURES}
    if name.lower() not in names:
        raise ValueError(f"there is no structure {name!r}: choose one of {', '.join(STRUCTURES)}")
    known = names[name.lower()]
    if known in MOLECULES:
        return molecule(MOLECULES[known])
    with (resources.files(__name__) / f"{known}.cif").open() as file:
        block = next(parse_cif(file))
    atoms = block.get_atoms(primitive_cell=True, subtrans_included=False)
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)


def is_example(name: str) -> bool:
    """Return True if a structure of this name comes with the package."""
    return name.lower() in map(str.lower, STRUCTURES)
