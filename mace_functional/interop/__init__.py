"""Interfaces to other packages.

ase                   calculator for ASE
ase_optimiser         optimiser for ASE that uses a Hessian from the first step on
ase_coordinates       free coordinates of atoms with constraints and of ASE's filters
vibrations_data       conversion of Hessians to ASE's `VibrationsData` and back
phonopy               conversion of phonons to phonopy and back
finite_displacements  phonons from phonopy's finite displacements, for comparison
scipy                 arguments for `scipy.optimize.minimize`
pysisyphus            calculator for pysisyphus
"""
