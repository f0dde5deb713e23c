"""Tools for automatic differentiation that `torch.func` lacks.

concrete          tests if a tensor's values can be read, and refuses transforms where they must be
primitive         operations with rules of their own, exact under every nesting of transforms
batches           batches within batches, and the points of a batch joined to one point
second_order      operations with formulas for their derivatives
derivative_rules  primitives from these formulas, whose rules call each other
local             functions of a few numbers, applied to every point separately
forward_mode      `jvp` that several threads may call at once
jets              a function of one variable together with its derivatives
concatenation     joining and splitting, each the derivative of the other
blocks            slices of nodes whose tensors fit the cache
columns           a linear map applied to many vectors, in chunks that fit the memory
memory            free memory, and the memory that a computation needs
tf32              a warning of matrix products with ten bits on GPUs
compilation       `torch.compile` with a check of the result
forked            one thread in forked processes
torch_internals   every private name of torch that the package uses
"""
