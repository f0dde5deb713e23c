"""Hessians of large structures as sparse matrices.

sparse_hessian         the Hessian of a structure, exact or truncated
stored_hessian         the result: matrix, diagnostics, lowest modes
hop_graph              which atoms are coupled
colouring              which columns may share a product
shared_products        columns from products of the whole structure
neighbourhood_columns  columns from the neighbourhoods of atoms
block_rows             symmetric matrices of 3 x 3 blocks, and the sum rule
truncation_error       bound of the heat capacity of a truncated matrix
shift_invert           lowest modes of a sparse matrix
"""

from mace_functional.sparse.sparse_hessian import sparse_hessian
from mace_functional.sparse.stored_hessian import SparseHessian
from mace_functional.sparse.truncation_error import HeatCapacityError, TruncationError

__all__ = ["HeatCapacityError", "SparseHessian", "TruncationError", "sparse_hessian"]
