"""Bridges to other packages.

ase                   the calculator for ASE
ase_optimiser         an optimiser for ASE that begins with a Hessian
ase_coordinates       free coordinates of atoms with constraints, and of ASE's filters
vibrations_data       Hessians to ASE's `VibrationsData` and back
phonopy               phonons to phonopy and back
finite_displacements  phonons from phonopy's finite displacements, to compare with
scipy                 arguments of `scipy.optimize.minimize`
pysisyphus            the calculator for pysisyphus
"""
