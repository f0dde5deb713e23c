"""Training of potentials on energies, forces, stresses and curvature.

labelled_structure  structures with their computed energies, forces, stresses and Hessian products
labelled_files      reading of labelled structures from files
labelled_frames     those of extended XYZ, and of any format of ASE
label_keys          keys of labels in such files, as in mace-torch
hessian_arrays      Hessians in an npz file beside it
labelled_phonopy    labelled structures from phonopy's files
"""

from mace_functional.training.labelled_files import isolated_atom_energies, read_labelled
from mace_functional.training.labelled_structure import Curvature, LabelledStructure

__all__ = ["Curvature", "LabelledStructure", "isolated_atom_energies", "read_labelled"]
