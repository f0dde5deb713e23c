"""Molecules of the training: from ASE's collections, and from SMILES strings."""

from __future__ import annotations

from collections.abc import Iterator

from ase import Atoms
from ase.build import molecule
from ase.collections import g2, s22
from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem
from student import ELEMENTS

import mace_functional as mf

HELD_OUT = ("CH3CH2OH", "C6H6")
"""Molecules of ASE's G2 collection that are excluded, because the student is tested on them."""

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

HELD_OUT_SMILES = {
    "paracetamol": "CC(=O)Nc1ccc(O)cc1",
    "alanine dipeptide": "CC(=O)NC(C)C(=O)NC",
}
"""SMILES strings of molecules on which the student is tested; the training leaves them out."""


def molecules() -> Iterator[tuple[str, Atoms]]:
    """Yield molecules of ASE's collections and of `SMILES`, with an approximate geometry."""
    for name in g2.names:
        atoms = molecule(name)
        if len(atoms) > 1 and _known(atoms) and name not in HELD_OUT:
            yield f"G2 {name}", atoms
    for name in s22.names:
        if _known(s22[name]) and "benzene" not in name.lower():
            yield f"S22 {name}", s22[name]
    yield from _from_smiles(SMILES)


def held_out_molecules() -> Iterator[tuple[str, Atoms]]:
    """Yield molecules on which the student is tested, with an approximate geometry."""
    for name in ("ethanol", "benzene"):
        yield name, mf.example_structure(name)
    yield from _from_smiles(HELD_OUT_SMILES)


def _from_smiles(strings: dict[str, str]) -> Iterator[tuple[str, Atoms]]:
    RDLogger.DisableLog("rdApp.*")  # it warns about Al and Zn, which the teacher relaxes
    for name, smiles in strings.items():
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        AllChem.EmbedMolecule(mol, randomSeed=0, useRandomCoords=True)
        if AllChem.UFFHasAllMoleculeParams(mol):
            AllChem.UFFOptimizeMolecule(mol, maxIters=500)
        symbols = [a.GetSymbol() for a in mol.GetAtoms()]
        yield name, Atoms(symbols, mol.GetConformer().GetPositions())


def _known(atoms: Atoms) -> bool:
    return set(atoms.numbers.tolist()) <= set(ELEMENTS)
