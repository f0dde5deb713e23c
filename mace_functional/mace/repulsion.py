"""The screened nuclear repulsion of pairs of atoms at short range."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mace_functional.mace.cutoff import polynomial_cutoff
from mace_functional.mace.edges import Edges
from mace_functional.structure.species import gather, rows_at

EV_ANGSTROM = 14.3996
"""Coulomb constant e^2 / (4 pi eps_0), eV Å, with the digits that MACE models were trained with."""
BOHR = 0.529
"""Bohr radius, Å, with the digits that MACE models were trained with."""

SCREENING = (3.2, 0.9423, 0.4028, 0.2016)
"""Exponents b_n of the universal screening function."""


class ZieglerBiersackLittmark(nn.Module):
    """The Ziegler-Biersack-Littmark pair potential, cut off at the sum of covalent radii.

    `E_i = 1/2 sum_j e^2 Z_i Z_j / (4 pi eps_0 r) sum_n c_n exp(-b_n r / a) f_cut(r)` with
    `a = a_prefactor 0.529 Å / (Z_i^a_exp + Z_j^a_exp)`.
    Source: Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Matter (1985).
    """

    c: Tensor
    covalent_radii: Tensor
    a_exp: Tensor
    a_prefactor: Tensor

    def __init__(self, power: int) -> None:
        super().__init__()
        self.power = power

    def forward(self, edges: Edges) -> Tensor:
        """Compute the energies of the nodes in eV, (nodes,)."""
        species, senders = edges.species, edges.sender_species
        lengths, mask = edges.lengths()
        kind = lengths.dtype, lengths.device
        z_i = species.atomic_numbers(*kind)[:, None, None]
        z_j = gather(senders.atomic_numbers(*kind)[:, None], edges.senders)
        r_i = species.expand(rows_at(self.covalent_radii, species.numbers)[:, None])[:, None]
        r_j = senders.expand(rows_at(self.covalent_radii, senders.numbers)[:, None])
        r_max = r_i + gather(r_j, edges.senders)
        screening_length = self.a_prefactor * BOHR / (z_i**self.a_exp + z_j**self.a_exp)
        x = lengths / screening_length
        screening = sum(
            self.c[n] * torch.exp(-exponent * x) for n, exponent in enumerate(SCREENING)
        )
        pair = EV_ANGSTROM * z_i * z_j / lengths * screening
        pair = 0.5 * pair * polynomial_cutoff(lengths, r_max, self.power, 0)[0] * mask
        return pair.sum((-2, -1))
