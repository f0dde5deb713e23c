"""Symmetric contraction: the many-body products of MACE, channel by channel.

For each element and channel the product is a polynomial in the components x of the messages,

    B[M] = sum_nu sum_{m1 ... m_nu} T_nu[M, m1 ... m_nu] x[m1] ... x[m_nu],
    T_nu[M, m1 ... m_nu] = sum_k U_nu[M, m1 ... m_nu, k] W_nu[k],

with generalised Clebsch-Gordan coefficients U and learnt weights W; `polynomial` evaluates it.
Source: Batatia et al., MACE, NeurIPS 2022 (arXiv:2206.07697), eqs. 10 and 11.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mace_functional.autodiff.concatenation import join, split
from mace_functional.mace.irreps import Irreps
from mace_functional.mace.linear import Features, Linear
from mace_functional.mace.polynomial import Monomials, Polynomials
from mace_functional.mace.settings import ProductSettings
from mace_functional.structure.species import Species


class WeightList(nn.Module):
    """A container of the weights of the lower correlation orders, named "0", "1", ... ."""


class Contraction(nn.Module):
    """A container of the symbols and weights of one output irrep."""

    weights_max: Tensor

    def __init__(self, degree: int, correlation: int) -> None:
        super().__init__()
        self.degree, self.correlation = degree, correlation
        self.weights = WeightList()

    def coefficients(self) -> list[Tensor]:
        """Return W_nu (all elements, k, channels) for nu = 1, 2, ... ."""
        lower = range(self.correlation - 2, -1, -1)
        return [*(getattr(self.weights, str(n)) for n in lower), self.weights_max]

    def symbols(self) -> list[Tensor]:
        """Return U_nu (M, m, ..., m, k) for nu = 1, 2, ... ."""
        symbols = (getattr(self, f"U_matrix_{nu}") for nu in range(1, self.correlation + 1))
        return [u if self.degree else u[None] for u in symbols]


class SymmetricContraction(nn.Module):
    """The contractions into all output irreps, with weights for each element."""

    def __init__(self, settings: ProductSettings) -> None:
        super().__init__()
        self.agnostic = settings.agnostic
        self.dimensions = [ir.dim for _, ir in Irreps(settings.irreps_out)]
        self.contractions: Any = nn.ModuleList(
            Contraction(ir.l, correlation)
            for (_, ir), correlation in zip(
                Irreps(settings.irreps_out), settings.correlations, strict=True
            )
        )

    def forward(self, messages: Features, species: Species) -> Features:
        """Compute products (nodes, 2L+1, channels) of messages (nodes, 2l+1, channels)."""
        x = join(messages, 1).mT
        elements = (0,) if self.agnostic else species.elements
        counts = (x.shape[0],) if self.agnostic else species.counts
        weights = [w for contraction in self.contractions for w in contraction.coefficients()]
        symbols = [u for contraction in self.contractions for u in contraction.symbols()]
        products = Polynomials(self.monomials, elements, counts)(x, *weights, *symbols)
        return split(products.mT, self.dimensions, 1)

    def find_monomials(self) -> None:
        """Find the symbols that are not zero, once, after the tensors are registered."""
        self.monomials = Monomials([contraction.symbols() for contraction in self.contractions])


class Product(nn.Module):
    """A symmetric contraction, followed by a linear map and the skip connection."""

    def __init__(self, settings: ProductSettings) -> None:
        super().__init__()
        self.use_skip = settings.use_skip
        self.symmetric_contractions = SymmetricContraction(settings)
        self.linear = Linear(settings.irreps_out, settings.irreps_out)

    def forward(self, messages: Features, skip: Features | None, species: Species) -> Features:
        """Compute node features (nodes, 2l+1, channels) for each irrep."""
        features = self.linear(self.symmetric_contractions(messages, species))
        if not self.use_skip or skip is None:
            return features
        return [f + s for f, s in zip(features, skip, strict=True)]
