"""Automatic differentiation that composes: what `torch.func` does not have.

concrete         whether values may be read: no transform is at work
primitive        operations with derivative rules of their own, exact in all nestings
second_order     operations with formulas for value, gradient and Hessian products: their rules
local            functions of a few numbers, applied to every point
forward_mode     `jvp` that several threads may call at once
jets             a function of one variable carried with its derivatives
concatenation    joining and splitting, each the derivative of the other
blocks           blocks of nodes that fit the cache
columns          a linear map applied to many vectors, in chunks that fit the memory
memory           free memory, and what a computation takes of it
compilation      `torch.compile` with a check of the result
forked           threads in processes that were forked
torch_internals  every private name of torch that the package uses
"""
