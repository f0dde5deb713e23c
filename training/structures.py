"""Structures from which the training configurations are generated.

Crystals are built from published lattice constants and coordinates, molecules from ASE's
collections and from SMILES strings. The teacher relaxes them, so that coordinates need not be
accurate. The structures of the test are excluded: alpha-quartz, ethanol, benzene (also as part of a
dimer), and some frameworks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms
from ase.build import bulk, make_supercell, molecule
from ase.collections import g2, s22
from ase.spacegroup import crystal
from frameworks import frameworks as frameworks
from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem

ELEMENTS = (1, 6, 7, 8, 11, 13, 14, 17, 30)
"""Atomic numbers of the elements of the student: H, C, N, O, Na, Al, Si, Cl, Zn."""

HELD_OUT = ("CH3CH2OH", "C6H6")
"""Molecules of ASE's G2 collection that are excluded, because the student is tested on them."""

SMALLEST = 8
"""Smallest number of atoms of a crystal; smaller cells are repeated.

Displacements then differ between cells.
"""

SMILES = {
    "terephthalic acid": "OC(=O)c1ccc(cc1)C(=O)O",
    "trimesic acid": "OC(=O)c1cc(cc(c1)C(=O)O)C(=O)O",
    "fumaric acid": "OC(=O)/C=C/C(=O)O",
    "oxalic acid": "OC(=O)C(=O)O",
    "acetic acid": "CC(=O)O",
    "ethyl acetate": "CCOC(C)=O",
    "2,5-dihydroxyterephthalic acid": "OC(=O)c1cc(O)c(cc1O)C(=O)O",
    "naphthalene": "c1ccc2ccccc2c1",
    "biphenyl": "c1ccc(cc1)-c1ccccc1",
    "toluene": "Cc1ccccc1",
    "styrene": "C=Cc1ccccc1",
    "diphenylacetylene": "c1ccc(cc1)C#Cc1ccccc1",
    "phenol": "Oc1ccccc1",
    "hydroquinone": "Oc1ccc(O)cc1",
    "benzoquinone": "O=C1C=CC(=O)C=C1",
    "anisole": "COc1ccccc1",
    "benzaldehyde": "O=Cc1ccccc1",
    "aniline": "Nc1ccccc1",
    "phenylenediamine": "Nc1ccc(N)cc1",
    "nitrobenzene": "[O-][N+](=O)c1ccccc1",
    "benzonitrile": "N#Cc1ccccc1",
    "benzamide": "NC(=O)c1ccccc1",
    "benzylideneaniline": "c1ccc(cc1)/C=N/c1ccccc1",
    "benzaldehyde azine": "c1ccc(cc1)/C=N/N=C/c1ccccc1",
    "benzaldehyde acetylhydrazone": "CC(=O)N/N=C/c1ccccc1",
    "ketoenamine": "O=C1C=CC=CC1=CNc1ccccc1",
    "phthalimide": "O=C1NC(=O)c2ccccc12",
    "imidazole": "c1c[nH]cn1",
    "2-methylimidazole": "Cc1ncc[nH]1",
    "benzimidazole": "c1ccc2[nH]cnc2c1",
    "pyrazole": "c1cn[nH]c1",
    "triazole": "c1nc[nH]n1",
    "tetrazole": "c1nnn[nH]1",
    "pyrazine": "c1cnccn1",
    "triazine": "c1ncncn1",
    "melamine": "Nc1nc(N)nc(N)n1",
    "phenyltriazine": "c1ccc(cc1)-c1ncncn1",
    "bipyridine": "c1cc(ccn1)-c1ccncc1",
    "porphin": "c1cc2cc3ccc([nH]3)cc3ccc(n3)cc3ccc([nH]3)cc1n2",
    "acetamide": "CC(N)=O",
    "N-methylacetamide": "CNC(C)=O",
    "dimethylformamide": "CN(C)C=O",
    "urea": "NC(N)=O",
    "glycine": "NCC(=O)O",
    "acetylacetone": "CC(=O)C=C(C)O",
    "diethyl ether": "CCOCC",
    "1-propanol": "CCCO",
    "2-propanol": "CC(C)O",
    "ethylene glycol": "OCCO",
    "ethylamine": "CCN",
    "piperazine": "C1CNCCN1",
    "dabco": "C1CN2CCN1CC2",
    "cyclohexane": "C1CCCCC1",
    "hexane": "CCCCCC",
    "acetonitrile": "CC#N",
    "azobenzene": "c1ccc(cc1)/N=N/c1ccccc1",
    "nitrosobenzene": "O=Nc1ccccc1",
    "nitrosobenzene dimer": "[O-][N+](c1ccccc1)=[N+]([O-])c1ccccc1",
    "nitrosomethane dimer": "C[N+]([O-])=[N+](C)[O-]",
    "azoxybenzene": "[O-][N+](c1ccccc1)=Nc1ccccc1",
    "pyridine N-oxide": "[O-][n+]1ccccc1",
    "nitrone": "C=[N+]([O-])c1ccccc1",
    "triphenylmethane": "C(c1ccccc1)(c1ccccc1)c1ccccc1",
    "tetraphenylmethane": "C(c1ccccc1)(c1ccccc1)(c1ccccc1)c1ccccc1",
    "chlorobenzene": "Clc1ccccc1",
    "tetramethylsilane": "C[Si](C)(C)C",
    "silicic acid": "O[Si](O)(O)O",
    "disilicic acid": "O[Si](O)(O)O[Si](O)(O)O",
    "disiloxane": "[SiH3]O[SiH3]",
    "trisiloxane ring": "O1[SiH2]O[SiH2]O[SiH2]1",
    "phenylsilane": "[SiH3]c1ccccc1",
    "methoxysilane": "CO[SiH3]",
    "aminosilane": "N[SiH3]",
    "aluminium hydroxide": "O[Al](O)O",
    "siloxyaluminium": "O[Al](O)O[SiH3]",
    "zinc hydroxide": "O[Zn]O",
    "dimethylzinc": "C[Zn]C",
    "zinc amide": "N[Zn]N",
    "zinc acetate": "CC(=O)O[Zn]OC(C)=O",
}
"""SMILES strings of framework linkers, functional groups, and molecules with Si, Al and Zn."""


def molecules() -> Iterator[tuple[str, Atoms]]:
    """Yield molecules of ASE's collections and of `SMILES`, with an approximate geometry."""
    for name in g2.names:
        atoms = molecule(name)
        if len(atoms) > 1 and _known(atoms) and name not in HELD_OUT:
            yield f"G2 {name}", atoms
    for name in s22.names:
        if _known(s22[name]) and "benzene" not in name.lower():
            yield f"S22 {name}", s22[name]
    RDLogger.DisableLog("rdApp.*")  # it warns about Al and Zn, which the teacher relaxes
    for name, smiles in SMILES.items():
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        AllChem.EmbedMolecule(mol, randomSeed=0, useRandomCoords=True)
        if AllChem.UFFHasAllMoleculeParams(mol):
            AllChem.UFFOptimizeMolecule(mol, maxIters=500)
        symbols = [a.GetSymbol() for a in mol.GetAtoms()]
        yield name, Atoms(symbols, mol.GetConformer().GetPositions())


def crystals() -> Iterator[tuple[str, Atoms]]:
    """Yield crystals from published coordinates, as primitive cells or small supercells."""
    for name, atoms in _primitive_crystals():
        yield name, _at_least(atoms, SMALLEST)


def _known(atoms: Atoms) -> bool:
    return set(atoms.numbers.tolist()) <= set(ELEMENTS)


def _at_least(atoms: Atoms, size: int) -> Atoms:
    """Return a supercell of at least `size` atoms, doubled along its shortest lattice vectors."""
    repeats = np.ones(3, dtype=int)
    while len(atoms) * repeats.prod() < size:
        repeats[np.argmin(atoms.cell.lengths() * repeats)] *= 2
    return make_supercell(atoms, np.diag(repeats))


def _primitive_crystals() -> Iterator[tuple[str, Atoms]]:
    hexagonal, right = [90, 90, 120], [90, 90, 90]

    def build(
        group: int,
        a: float,
        b: float,
        c: float,
        angles: list[float],
        setting: int = 1,
        **sites: tuple[float, float, float],
    ) -> Atoms:
        return crystal(
            [name.rstrip("0123456789") for name in sites],
            list(sites.values()),
            spacegroup=group,
            setting=setting,
            cellpar=[a, b, c, *angles],
            primitive_cell=True,
        )

    third = (1 / 3, 2 / 3)
    yield "diamond", bulk("C", "diamond", 3.567)
    yield "silicon", bulk("Si", "diamond", 5.431)
    yield "silicon carbide", bulk("SiC", "zincblende", 4.36)
    yield "aluminium", bulk("Al", "fcc", 4.05)
    yield "sodium", bulk("Na", "bcc", 4.28)
    yield "zinc", bulk("Zn", "hcp", a=2.66, c=4.95)
    yield "sodium chloride", bulk("NaCl", "rocksalt", 5.64)
    yield "zincite", bulk("ZnO", "wurtzite", a=3.25, c=5.207)
    yield "zinc oxide, zincblende", bulk("ZnO", "zincblende", 4.58)
    yield "zinc oxide, rocksalt", bulk("ZnO", "rocksalt", 4.28)
    yield "aluminium nitride", bulk("AlN", "wurtzite", a=3.11, c=4.98)
    yield "sodium oxide", build(225, 5.55, 5.55, 5.55, right, O=(0, 0, 0), Na=(0.25, 0.25, 0.25))
    yield "graphite", build(194, 2.461, 2.461, 6.708, hexagonal, C=(0, 0, 0.25), C1=(*third, 0.25))
    yield (
        "corundum",
        build(167, 4.759, 4.759, 12.991, hexagonal, Al=(0, 0, 0.3523), O=(0.3064, 0, 0.25)),
    )
    yield (
        "alpha-cristobalite",
        build(92, 4.971, 4.971, 6.923, right, Si=(0.3003, 0.3003, 0), O=(0.2392, 0.1044, 0.1787)),
    )
    yield (
        "beta-cristobalite",
        build(227, 7.16, 7.16, 7.16, right, Si=(0, 0, 0), O=(0.125, 0.125, 0.125)),
    )
    yield (
        "beta-quartz",
        build(180, 4.9977, 4.9977, 5.4601, hexagonal, Si=(0.5, 0, 0), O=(0.2072, 0.4144, 0.5)),
    )
    yield "tridymite", build(
        194, 5.052, 5.052, 8.27, hexagonal,
        Si=(*third, 0.062), O=(*third, 0.25), O1=(0.5, 0, 0),
    )  # fmt: skip
    yield "stishovite", build(136, 4.18, 4.18, 2.667, right, Si=(0, 0, 0), O=(0.306, 0.306, 0))
    sodalite = build(
        229, 8.965, 8.965, 8.965, right, Si=(0.25, 0.5, 0), O=(0.1469, 0.1469, 0.5)
    )  # fmt: skip
    yield "sodalite", sodalite
    yield "sodalite with Al and H", _with_aluminium(sodalite, "H", 0.95)
    yield "sodalite with Al and Na", _with_aluminium(sodalite, "Na", 2.3)
    yield "coesite", build(
        15, 7.1356, 12.3692, 7.1736, [90, 120.34, 90],
        Si=(0.1403, 0.1083, 0.0723), Si1=(0.5068, 0.1580, 0.5407), O=(0, 0, 0),
        O1=(0.5, 0.1163, 0.75), O2=(0.2661, 0.1234, 0.9401), O3=(0.3114, 0.1038, 0.3280),
        O4=(0.0175, 0.2117, 0.4784),
    )  # fmt: skip
    yield "silicon nitride", build(
        176, 7.608, 7.608, 2.911, hexagonal,
        Si=(0.174, 0.766, 0.25), N=(0.329, 0.031, 0.25), N1=(*third, 0.25),
    )  # fmt: skip
    yield "spinel", build(
        227, 8.086, 8.086, 8.086, right, setting=2,
        Zn=(0.125, 0.125, 0.125), Al=(0.5, 0.5, 0.5), O=(0.2636, 0.2636, 0.2636),
    )  # fmt: skip
    yield "boehmite", build(
        63, 2.868, 12.214, 3.694, right,
        Al=(0, -0.3172, 0.25), O=(0, 0.2902, 0.25), O1=(0, 0.0820, 0.25), H=(0, 0, 0),
    )  # fmt: skip
    yield "diaspore", build(
        62, 9.4253, 2.8452, 4.4007, right,
        Al=(0.1446, 0.25, 0.9549), O=(0.1989, 0.75, 0.2120), O1=(0.0532, 0.75, 0.6970),
        H=(0.0876, 0.75, 0.9095),
    )  # fmt: skip
    yield "smithsonite", build(
        167, 4.6526, 4.6526, 15.0257, hexagonal,
        Zn=(0, 0, 0), C=(0, 0, 0.25), O=(0.2764, 0, 0.25),
    )  # fmt: skip
    yield (
        "zinc hydroxide, layered",
        build(164, 3.19, 3.19, 4.72, hexagonal, Zn=(0, 0, 0), O=(*third, 0.22), H=(*third, 0.42)),
    )
    yield "zinc cyanide", build(
        215, 5.93, 5.93, 5.93, right, Zn=(0, 0, 0), Zn1=(0.5, 0.5, 0.5),
        C=(0.1947, 0.1947, 0.1947), N=(0.3076, 0.3076, 0.3076),
    )  # fmt: skip
    yield "dry ice", build(205, 5.62, 5.62, 5.62, right, C=(0, 0, 0), O=(0.1185, 0.1185, 0.1185))
    yield "nitrogen", build(205, 5.66, 5.66, 5.66, right, N=(0.0561, 0.0561, 0.0561))
    yield "urea crystal", build(
        113, 5.565, 5.565, 4.684, right,
        C=(0, 0.5, 0.326), O=(0, 0.5, 0.5953), N=(0.1459, 0.6459, 0.1766),
        H=(0.2575, 0.7575, 0.2827), H1=(0.1441, 0.6441, -0.038),
    )  # fmt: skip
    yield "ice XI", build(
        36, 4.465, 7.858, 7.292, right,
        O=(0, 0.6648, 0.0631), O1=(0.5, 0.8255, -0.0631), H=(0, 0.6636, 0.1963),
        H1=(0, 0.5363, 0.0183), H2=(0.6766, 0.7744, -0.0183),
    )  # fmt: skip
    yield (
        "ice VIII",
        build(
            141, 4.656, 4.656, 6.775, right, setting=2, O=(0, 0.25, 0.1071), H=(0, 0.4157, 0.1935)
        ),
    )
    yield "polyethylene", build(
        62, 7.40, 2.534, 4.94, right,
        C=(0.038, 0.25, 0.065), H=(0.186, 0.25, 0.060), H1=(0.011, 0.25, 0.275),
    )  # fmt: skip


def _with_aluminium(zeolite: Atoms, ion: str, distance: float) -> Atoms:
    """Replace one Si by Al, and add a counter-ion at a neighbouring oxygen.

    Args:
        zeolite: The siliceous zeolite.
        ion: Element of the counter-ion.
        distance: Distance of the ion from the oxygen, Å; it points away from both T atoms.
    """
    atoms = zeolite.copy()
    al = int(np.flatnonzero(atoms.numbers == 14)[0])
    atoms.symbols[al] = "Al"
    oxygens = np.flatnonzero(atoms.numbers == 8)
    to_oxygen = atoms.get_distances(al, oxygens, mic=True, vector=True)
    oxygen = oxygens[np.argmin(np.linalg.norm(to_oxygen, axis=1))]
    t_atoms = np.flatnonzero(np.isin(atoms.numbers, (13, 14)))
    to_t_atoms = atoms.get_distances(oxygen, t_atoms, mic=True, vector=True)
    nearest = np.argsort(np.linalg.norm(to_t_atoms, axis=1))[:2]
    outward = -to_t_atoms[nearest].sum(0)
    position = atoms.positions[oxygen] + distance * outward / np.linalg.norm(outward)
    return atoms + Atoms([ion], [position])
