"""Derivatives of an energy `E(positions, cell, params)`, as function transforms.

first              forces, stress, and the energy as a function of strain
second             Hessian-vector products and Hessians
third              third derivatives along two directions
hessian_operator   the Hessian at one geometry as a linear operator
hessian_products   products and Hessians of a structure, also by many workers
forces_and_virial  energy, forces and virial of a structure, from one gradient
local_columns      columns of the Hessian of a crystal, each in the neighbourhood of its atom
"""

from mace_functional.derivatives.first import forces, strained, stress
from mace_functional.derivatives.hessian_operator import HessianOperator
from mace_functional.derivatives.second import hessian, hvp
from mace_functional.derivatives.third import third

__all__ = ["HessianOperator", "forces", "hessian", "hvp", "strained", "stress", "third"]
