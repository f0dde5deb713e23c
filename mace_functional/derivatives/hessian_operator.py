"""`HessianOperator`: the Hessian at one geometry as a linear operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import grad, vjp

from mace_functional.autodiff.columns import ChunkSize, chunked_vmap
from mace_functional.autodiff.concrete import is_concrete
from mace_functional.autodiff.tf32 import warn_of_tf32
from mace_functional.derivatives.hessian_products import HessianProducts
from mace_functional.parallel.vectors import SharedMap
from mace_functional.support.renamed import positional_for_a_release

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from typing import Self

    from ase import Atoms
    from scipy.sparse.linalg import LinearOperator

    from mace_functional.potential.protocol import Potential
    from mace_functional.structure.structure import Structure


class HessianOperator:
    """The Hessian at one geometry as a linear operator, without its matrix.

    The gradient is linearised once, so that each product after the first costs less than a
    gradient. With masses, the operator is the mass-weighted Hessian `D = M^(-1/2) H M^(-1/2)`.

    Args:
        energy: Energy function `E(positions, cell, params)`, in eV.
        positions: Positions in Å, (N, 3).
        cell: Lattice vectors in Å as rows, (3, 3).
        params: Parameters of the energy.
        masses: Masses in amu, (N,); None for the Hessian H.
        chunk_size: Number of vectors that are multiplied at once; see `hessian`.
        memory_budget: Bytes that chunks may fill; see `hessian`.

    Attributes:
        positions, cell, params, masses: The arguments.
        shape: Shape of the matrix, (3N, 3N).
        dtype, device: Floating-point type and device of the positions.
        atoms, structure: Structure that `from_potential` was called with; else None.

    Raises:
        ValueError: If masses are not one positive number for each atom.

    Example:
        >>> def energy(x, cell, k):
        ...     return 0.5 * k * (x**2).sum()
        >>> op = HessianOperator(energy, torch.ones(2, 3), torch.eye(3), 3.0)
        >>> op.shape, op @ torch.ones(6)
        (torch.Size([6, 6]), tensor([3., 3., 3., 3., 3., 3.]))
    """

    def __init__(
        self,
        energy: Callable[..., Tensor],
        positions: Tensor,
        cell: Tensor,
        params: Any,
        masses: Tensor | None = None,
        *,
        chunk_size: ChunkSize = "auto",
        memory_budget: int | None = None,
    ) -> None:
        if masses is not None and masses.shape != positions.shape[:1]:
            raise ValueError(f"masses must be ({positions.shape[0]},), not {tuple(masses.shape)}")
        if masses is not None and is_concrete(masses) and not _positive(masses):
            raise ValueError(f"masses must be positive numbers, in amu, not {masses.tolist()}")
        warn_of_tf32(positions)
        self._pull_back = vjp(lambda x: grad(energy)(x, cell, params), positions)[1]
        self._weights = None if masses is None else masses.rsqrt()[:, None]
        self._atoms_shape = positions.shape
        self._options: dict[str, Any] = {"chunk_size": chunk_size, "memory_budget": memory_budget}
        self.positions, self.cell, self.params, self.masses = positions, cell, params, masses
        self.shape = torch.Size([positions.numel(), positions.numel()])
        self.dtype, self.device = positions.dtype, positions.device
        self.atoms: Atoms | None = None
        self.structure: Structure | None = None
        self._shared: SharedMap | None = None

    @classmethod
    def from_potential(
        cls,
        potential: Potential,
        atoms: Atoms,
        *,
        mass_weighted: bool = True,
        executor: Executor | None = None,
        **options: Any,
    ) -> Self:
        """Make the Hessian of a structure; the operator also stores the structure.

        Args:
            potential: A model from `load_model`, or any other potential.
            atoms: The structure, periodic in any directions.
            mass_weighted: True for `M^(-1/2) H M^(-1/2)`, False for H.
            executor: Executor whose workers share the products with several vectors; see
                `WorkerProcesses`. None to compute in this process.
            **options: `chunk_size` and `memory_budget`.

        Raises:
            ValueError: If the structure does not fit the potential, or the potential cannot be sent
                to processes.
        """
        s = potential.structure(atoms)
        masses = s.masses if mass_weighted else None
        energy = potential.energy_fn(s.topology)
        op = cls(energy, s.positions, s.cell, potential.params, masses, **options)
        op.atoms, op.structure = atoms.copy(), s
        if executor is not None:
            products, budget = HessianProducts(potential, op.atoms), op._options["memory_budget"]
            op._shared = SharedMap(products, executor, memory_budget=budget, device=op.device)
        return op

    def __repr__(self) -> str:
        weighted = "" if self.masses is None else ", mass-weighted"
        return f"HessianOperator({tuple(self.shape)}{weighted}, {self.dtype}, {self.device})"

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Compute `H v` for a vector (3N,) or (N, 3), or `H V` for a matrix (3N, k)."""
        if vectors.shape == self._atoms_shape:
            return self._product(vectors)
        if vectors.ndim not in (1, 2) or vectors.shape[0] != self.shape[1]:
            raise ValueError(
                f"expected shape ({self.shape[1]},), {tuple(self._atoms_shape)} or "
                f"({self.shape[1]}, k), not {tuple(vectors.shape)}"
            )
        if vectors.ndim == 1:
            return self._product(vectors.view(self._atoms_shape)).reshape(-1)
        return self._map(vectors.T, progress=False).T

    @positional_for_a_release("progress")
    def dense(self, *, progress: bool = False) -> Tensor:
        """Compute the matrix (3N, 3N), in eV/Å², or eV/Å²/amu with masses."""
        identity = torch.eye(self.shape[0], dtype=self.dtype, device=self.device)
        return self._map(identity, progress)

    def to_scipy(self) -> LinearOperator:
        """Return the operator for `scipy.sparse.linalg` (eigsh, lobpcg, cg, minres, ...)."""
        from scipy.sparse.linalg import LinearOperator

        def product(vectors: Any) -> Any:
            tensor = torch.as_tensor(vectors, dtype=self.dtype, device=self.device)
            if tensor.ndim == 2 and tensor.shape[1] == 1:
                return (self @ tensor[:, 0])[:, None].cpu().numpy()
            return (self @ tensor).cpu().numpy()

        dtype = torch.empty((), dtype=self.dtype).numpy().dtype
        return LinearOperator(
            shape=tuple(self.shape),
            matvec=product,
            rmatvec=product,
            matmat=product,
            rmatmat=product,
            dtype=dtype,
        )

    def _product(self, vector: Tensor) -> Tensor:
        if self._shared is None:
            return self._apply(vector)
        return self._map(vector[None], progress=False)[0]

    def _map(self, rows: Tensor, progress: bool) -> Tensor:
        vectors = rows.reshape(-1, *self._atoms_shape)
        if self._shared is None:
            mapped = chunked_vmap(self._apply, vectors, progress=progress, **self._options)
        else:
            weights = 1.0 if self._weights is None else self._weights
            mapped = weights * self._shared.map(
                weights * vectors, chunk_size=self._options["chunk_size"], progress=progress
            )
        return mapped.reshape(rows.shape)

    def _apply(self, vector: Tensor) -> Tensor:
        """Compute `H v` (N, 3) as the pull-back of v through the gradient; H is symmetric."""
        if self._weights is None:
            return self._pull_back(vector)[0]
        return self._weights * self._pull_back(self._weights * vector)[0]


def _positive(masses: Tensor) -> bool:
    return bool(((masses > 0) & masses.isfinite()).all())
