"""Training of potentials on energies, forces, stresses and curvature.

labelled_structure  structures with their computed energies, forces, stresses and Hessian products
labelled_files      reading of labelled structures from files
labelled_frames     those of extended XYZ, and of any format of ASE
label_keys          keys of labels in such files, as in mace-torch
hessian_arrays      Hessians in an npz file beside it
labelled_phonopy    labelled structures from phonopy's files
labelling           labels by a potential that another is to imitate

predictions         energy, forces, stress and a Hessian product from one linearisation
losses              losses of these
held_back           structures that are held back at random
label_batches       labelled structures as batches of tensors, and their losses
objectives          further losses, of phonons and elastic constants
reference_energies  reference energies of the elements that fit the labels

finetune            training of a potential, from its present weights
training_run        its steps, epochs and validation, and the state from which it resumes
trained_weights     the weights that it moves, their optimiser and their average
data_parallel       gradients by one process, or by several that share the structures
label_errors        errors on labelled structures
finetuned           the trained potential, and what happened on the way
"""

from mace_functional.training.finetune import finetune
from mace_functional.training.finetuned import FineTuned
from mace_functional.training.labelled_files import isolated_atom_energies, read_labelled
from mace_functional.training.labelled_structure import Curvature, LabelledStructure
from mace_functional.training.labelling import labelled_by
from mace_functional.training.losses import LossWeights
from mace_functional.training.objectives import (
    dynamical_matrix_objective,
    elastic_objective,
    phonon_objective,
)
from mace_functional.training.predictions import predictions_fn

__all__ = [
    "Curvature",
    "FineTuned",
    "LabelledStructure",
    "LossWeights",
    "dynamical_matrix_objective",
    "elastic_objective",
    "finetune",
    "isolated_atom_energies",
    "labelled_by",
    "phonon_objective",
    "predictions_fn",
    "read_labelled",
]
