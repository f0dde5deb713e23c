r"""The dynamical matrix of a potential with edges, and its gradients in the memory of few columns.

The gradient of a function of D(q) needs `Re tr(G^H dD)`, with the cotangent G of D. dD is
hermitian, so only the hermitian part of G matters. With its eigenvalues g and eigenvectors u,

    Re tr(G^H dD) = d sum_k g_k <w_k, H(q) w_k>,        w_k = M^(-1/2) u_k,

with g and u held: a sum of curvatures of the energy along waves. They are differentiated by q,
positions, cell, masses and parameters a few at a time, and their gradients are added up. Recording
D(q) itself would keep the intermediates of all 3N columns. A function of one mode has one term.

Eigenvectors have no derivatives where eigenvalues of G are equal. Where the gradient is
differentiated again, the sum is over the columns of G and the unit displacements e instead,

    Re tr(G^H D) = sum_c Re <M^(-1/2) G_c, H(q) M^(-1/2) e_c>.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import grad
from typing_extensions import override

from mace_functional.autodiff.columns import chunked_map, chunked_sum
from mace_functional.autodiff.concrete import (
    is_concrete,
    is_differentiated,
    is_followed,
    raw_values,
)
from mace_functional.autodiff.primitive import Arguments, Dimensions, Outputs, Primitive, is_plain
from mace_functional.autodiff.torch_internals import pytree
from mace_functional.phonons.replica_hessian import ReplicaHessian
from mace_functional.potential.protocol import EdgePotential, HasWaveHessian
from mace_functional.structure.phase_replicas import NodeImages

if TYPE_CHECKING:
    from mace_functional.structure.graph import Graph

WORKING_SET = 512 * 2**20
"""Largest memory of the terms of a gradient that are computed at once on the CPU, bytes.

They share the linearised gradient. In quartz with the embedded model (91 MiB for one term), one
term takes 0.17 s alone, 0.07 s among four, and 0.07 s among nine.
"""


@dataclass(frozen=True, eq=False)
class CrystalOfEdges:
    """A crystal and a potential with edges.

    Attributes:
        potential: The potential.
        graph: Graph of one cell.
        columns: Options of `chunked_map`.
        images: Images of the nodes.
    """

    potential: EdgePotential
    graph: Graph
    columns: dict[str, Any]
    images: NodeImages = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", NodeImages.of(self.graph))

    def dynamical_matrix(
        self, q: Any, positions: Tensor, cell: Tensor, params: Any, masses: Tensor
    ) -> Tensor:
        """Compute D(q) in eV/Å²/amu, complex (3N, 3N); q may be on another device."""
        leaves, tree = pytree.tree_flatten(params)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        matrix = EdgeMatrix(self, _Params(tree, leaves))
        return matrix(q, positions, cell, masses, *tensors)[0]

    def hessian(
        self, q: Tensor, positions: Tensor, cell: Tensor, params: Any, replicas: int
    ) -> ReplicaHessian:
        """Return the Hessian at q, from replicas of the cell."""
        wave = self.images.at(self.graph, on_device_of(positions, q), replicas)
        return ReplicaHessian(self.potential, wave, positions, cell, params)


class _Params:
    """Parameters without their tensors.

    Args:
        tree: Their structure.
        leaves: Their leaves.
    """

    def __init__(self, tree: Any, leaves: Sequence[Any]) -> None:
        self._tree = tree
        self._leaves = [None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves]

    def of(self, tensors: Sequence[Tensor]) -> Any:
        """Return the parameters with these tensors."""
        rest = iter(tensors)
        leaves = [next(rest) if leaf is None else leaf[0] for leaf in self._leaves]
        return pytree.tree_unflatten(leaves, self._tree)


class EdgeMatrix(Primitive):
    """The dynamical matrix, by q, positions, cell, masses and the tensors of the parameters.

    Args:
        crystal: Crystal and potential.
        params: Structure of the parameters.
    """

    def __init__(self, crystal: CrystalOfEdges, params: _Params) -> None:
        self.crystal, self.params = crystal, params

    @override
    def value(self, *args: Any) -> Outputs:
        q, positions, cell, masses, *tensors = args
        params = self.params.of(tensors)
        crystal, atoms = self.crystal, self.crystal.graph.n_atoms
        product = None
        if isinstance(crystal.potential, HasWaveHessian):
            product = crystal.potential.wave_hessian(crystal.graph, q, positions, cell, params)
        if product is None:
            product = crystal.hessian(q, positions, cell, params, n_replicas(q)).products
        rsqrt_m = masses.rsqrt()[:, None]
        identity = torch.eye(3 * atoms, dtype=positions.dtype, device=positions.device)
        columns_of_d = chunked_map(
            lambda u: rsqrt_m * product(rsqrt_m * u),
            identity.view(-1, atoms, 3),
            description="Dynamical matrix",
            **crystal.columns,
        )
        return (columns_of_d.flatten(1).transpose(0, 1),)

    @override
    def is_recorded(self, args: Arguments) -> bool:
        """True if reverse mode does not differentiate by arguments, or also by other tensors.

        A potential may read tensors that are no arguments, such as those that a user's function has
        captured. The rules do not know them.
        """
        if not any(map(is_differentiated, args)):
            return True
        _, positions, cell, _, *tensors = (raw_values(a, first=True) for a in args)
        params = self.params.of(tensors)
        energies = self.crystal.potential.atom_energies(self.crystal.graph, positions, cell, params)
        return is_followed(energies)

    @override
    def vjp(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        found = iter(MatrixGradient(self, needed)(*args, *cotangents))
        return [next(found) if need else None for need in needed]

    @override
    def vjp_of_batch(
        self, args: Arguments, dims: Dimensions, cotangents: Outputs, needed: Sequence[bool]
    ) -> Arguments:
        sums = [need and dim is None for need, dim in zip(needed, dims, strict=True)]
        total: list[Any] = [None] * len(args)
        rows: list[list[Tensor]] = [[] for _ in args]
        for i, g in enumerate(cotangents[0]):
            found = self.vjp(_point(args, dims, i), (g,), needed)
            for place, cotangent in enumerate(found):
                if sums[place]:
                    before = total[place]
                    total[place] = cotangent if before is None else before + cotangent
                elif cotangent is not None:
                    rows[place].append(cotangent)
        stacked = (
            torch.stack(r, dim or 0) if r else None for r, dim in zip(rows, dims, strict=True)
        )
        return [t if s else r for t, r, s in zip(total, stacked, sums, strict=True)]


class MatrixGradient(Primitive):
    """Gradient of `Re tr(G^H D(q))` by some arguments of an `EdgeMatrix`; G is the last argument.

    Args:
        matrix: The matrix.
        needed: For each of its arguments, True to differentiate by it.
    """

    def __init__(self, matrix: EdgeMatrix, needed: Sequence[bool]) -> None:
        self.matrix, self.crystal = matrix, matrix.crystal
        self.places = [place for place, need in enumerate(needed) if need]

    @override
    def value(self, *args: Any) -> Outputs:
        *point, g = args
        return self._sum(point, g.mT, torch.eye(len(g), dtype=g.dtype, device=g.device))

    @override
    def compute(self, *args: Any) -> Outputs:
        *point, g = args
        if not g.isfinite().all():
            return self.value(*args)
        hermitian = (g + g.mH) / 2
        if self._replicas(point) < 3:
            hermitian = hermitian.real
        values, vectors = torch.linalg.eigh(hermitian)
        rounding = len(values) * torch.finfo(values.dtype).eps * values.abs().max()
        kept = values.abs() > rounding
        if not kept.any():
            return tuple(torch.zeros_like(point[place]) for place in self.places)
        right = vectors.mT[kept]
        return self._sum(point, values[kept, None] * right, right)

    @override
    def compute_batch(self, args: Arguments, dims: Dimensions) -> Outputs:
        count = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
        each = [self.compute(*_point(args, dims, i)) for i in range(count)]
        return tuple(map(torch.stack, zip(*each, strict=True)))

    def _replicas(self, point: Sequence[Any]) -> int:
        """Number of replicas: q is free to move if it is differentiated."""
        return 3 if 0 in self.places else n_replicas(point[0])

    def _sum(self, point: Sequence[Any], left: Tensor, right: Tensor) -> Outputs:
        """Differentiate the sum of `Re <a, D(q) b>` over the rows a of `left` and b of `right`."""
        replicas = self._replicas(point)
        if replicas < 3:
            left, right = (t.real if t.is_complex() else t for t in (left, right))
        pairs = torch.stack([left, right], 1).unflatten(-1, (-1, 3))

        def gradient(chunk: Tensor) -> list[Tensor]:
            def form(*variables: Tensor) -> Tensor:
                moved = list(point)
                for place, variable in zip(self.places, variables, strict=True):
                    moved[place] = variable
                q, positions, cell, masses, *tensors = moved
                params = self.matrix.params.of(tensors)
                hessian = self.crystal.hessian(q, positions, cell, params, replicas)
                a, b = (chunk * masses.rsqrt()[:, None]).unbind(1)
                return hessian.form(a, b)

            variables = [point[place] for place in self.places]
            return _gradient(form, variables, recorded=not is_plain([*point, chunk]))

        return tuple(
            chunked_sum(
                gradient,
                pairs,
                working_set=WORKING_SET,
                description="Gradient of the dynamical matrix",
                **self.crystal.columns,
            )
        )


def _point(args: Arguments, dims: Dimensions, i: int) -> list[Any]:
    """Return the arguments of point i of a batch."""
    return [a if d is None else a.select(d, i) for a, d in zip(args, dims, strict=True)]


def _gradient(
    function: Callable[..., Tensor], variables: Sequence[Tensor], *, recorded: bool
) -> list[Tensor]:
    """Differentiate a scalar function in reverse mode.

    Args:
        function: The function.
        variables: Its arguments.
        recorded: True to let transforms differentiate the gradient.
    """
    if recorded:
        return list(grad(function, tuple(range(len(variables))))(*variables))
    with torch.enable_grad():
        leaves = [v.detach().requires_grad_() for v in variables]
        value = function(*leaves)
    if not value.requires_grad:
        return [torch.zeros_like(v) for v in variables]
    return list(torch.autograd.grad(value, leaves, materialize_grads=True))


def on_device_of(positions: Tensor, q: Tensor) -> Tensor:
    """Return a wave vector on the device of the positions, without waiting for it."""
    return q.to(positions.device, non_blocking=True)


def n_replicas(q: Tensor) -> int:
    """Return the number of replicas that a wave needs: 1, 2 or 3."""
    if not is_concrete(q):
        return 3
    two_q = [2 * component for component in q.tolist()]
    if not all(map(float.is_integer, two_q)):
        return 3
    return 2 if any(component % 2 for component in two_q) else 1
