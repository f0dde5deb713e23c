"""Symmetric contraction: the many-body products of MACE, channel by channel.

For each element and channel it is a polynomial in the components x of the messages,

    B[M] = sum_nu sum_{m1 ... m_nu} T_nu[M, m1 ... m_nu] x[m1] ... x[m_nu],
    T_nu[M, m1 ... m_nu] = sum_k U_nu[M, m1 ... m_nu, k] W_nu[k],

with generalised Clebsch-Gordan coefficients U and learnt weights W, folded once for each element
present and evaluated by Horner's rule.
Source: Batatia et al., MACE, NeurIPS 2022 (arXiv:2206.07697), eqs. 10 and 11.
"""

from __future__ import annotations

import torch
from e3nn import o3
from torch import Tensor, nn

from mace_functional.engine.linear import Features, Linear
from mace_functional.engine.settings import ProductSettings
from mace_functional.graph import Species


class WeightList(nn.Module):
    """Holds the weights of the lower correlation orders, named "0", "1", ... ."""


class Contraction(nn.Module):
    """The products that make one output irrep."""

    weights_max: Tensor

    def __init__(self, degree: int, correlation: int) -> None:
        super().__init__()
        self.degree, self.correlation = degree, correlation
        self.weights = WeightList()

    def coefficients(self, element: int) -> list[Tensor]:
        """Folded `T_nu` (2L+1, components, ..., channels), from the highest nu down to 1."""
        folded = []
        for order in range(self.correlation, 0, -1):
            name = str(self.correlation - 1 - order)
            weights = self.weights_max if order == self.correlation else getattr(self.weights, name)
            symbols: Tensor = getattr(self, f"U_matrix_{order}")
            tensor = symbols @ weights[element]
            folded.append(tensor if self.degree else tensor[None])
        return folded

    def forward(self, x: Tensor, element: int) -> Tensor:
        """Products (nodes, 2L+1, channels) of messages (nodes, components, channels)."""
        highest, *lower = self.coefficients(element)
        out = torch.einsum("...ic,nic->n...c", highest, x)
        for tensor in lower:
            out = torch.einsum("n...ic,nic->n...c", out + tensor, x)
        return out


class SymmetricContraction(nn.Module):
    """Contractions into every output irrep, with weights for each element."""

    def __init__(self, settings: ProductSettings) -> None:
        super().__init__()
        self.agnostic = settings.agnostic
        self.contractions = nn.ModuleList(
            Contraction(ir.l, correlation)
            for (_, ir), correlation in zip(
                o3.Irreps(settings.irreps_out), settings.correlations, strict=True
            )
        )

    def forward(self, messages: Features, species: Species) -> Features:
        """Products (nodes, 2L+1, channels) of messages (nodes, 2l+1, channels)."""
        x = torch.cat(messages, 1)
        if self.agnostic:
            return [contraction(x, 0) for contraction in self.contractions]
        blocks = list(zip(species.split(x), species.elements, strict=True))
        return [
            torch.cat([contraction(block, element) for block, element in blocks])
            for contraction in self.contractions
        ]


class Product(nn.Module):
    """Symmetric contraction, a linear map, and the skip connection."""

    def __init__(self, settings: ProductSettings) -> None:
        super().__init__()
        self.use_skip = settings.use_skip
        self.symmetric_contractions = SymmetricContraction(settings)
        self.linear = Linear(settings.irreps_out, settings.irreps_out)

    def forward(self, messages: Features, skip: Features | None, species: Species) -> Features:
        """Node features (nodes, 2l+1, channels) for each irrep."""
        features = self.linear(self.symmetric_contractions(messages, species))
        if not self.use_skip or skip is None:
            return features
        return [f + s for f, s in zip(features, skip, strict=True)]
