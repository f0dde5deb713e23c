"""Training of potentials on energies, forces, stresses and curvature.

labelled_structure  structures with their computed energies, forces, stresses and Hessian products
"""

from mace_functional.training.labelled_structure import Curvature, LabelledStructure

__all__ = ["Curvature", "LabelledStructure"]
