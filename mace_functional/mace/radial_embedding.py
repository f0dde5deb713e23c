"""The radial embedding: basis functions of a (transformed) length, and the cutoff function."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from mace_functional.autodiff.jets import Jet, compose, multiply
from mace_functional.mace.cutoff import CutoffRadius, polynomial_cutoff
from mace_functional.mace.distance_transforms import Agnesi, Soft
from mace_functional.mace.radial_bases import Bessel, Chebyshev, Gaussian
from mace_functional.mace.settings import RadialSettings
from mace_functional.structure.species import Species, gather, rows_at


class RadialEmbedding(nn.Module):
    """The radial basis of a (transformed) length, and the cutoff function of the length."""

    def __init__(self, settings: RadialSettings) -> None:
        super().__init__()
        self.settings = settings
        bases: dict[str, Callable[[], nn.Module]] = {
            "bessel": Bessel,
            "gaussian": lambda: Gaussian(settings.gaussian_coefficient),
            "chebyshev": lambda: Chebyshev(settings.size),
        }
        self.bessel_fn = bases[settings.basis]()
        self.cutoff_fn = CutoffRadius()
        transforms: dict[str, type[Agnesi | Soft]] = {"Agnesi": Agnesi, "Soft": Soft}
        self.distance_transform = None
        if settings.distance_transform is not None:
            self.distance_transform = transforms[settings.distance_transform]()

    def forward(
        self,
        lengths: Tensor,
        senders: Tensor,
        species: Species,
        sender_species: Species,
        order: int,
    ) -> tuple[Jet, Jet | None]:
        """Compute the jets of the radial basis (nodes, K, basis) and the cutoff function.

        The second jet is None if the basis is already multiplied by the cutoff function.

        Args:
            lengths: Edge lengths in Å, (nodes, K, 1).
            senders: Sender of each edge, (nodes, K).
            species: Elements of the nodes.
            sender_species: Elements of the senders.
            order: Number of derivatives by the length.
        """
        r_max = self.cutoff_fn.r_max
        envelope = polynomial_cutoff(lengths, r_max, self.settings.cutoff_power, order)
        if self.distance_transform is None:
            basis = self.bessel_fn(lengths, order)
        else:
            table = self.distance_transform.covalent_radii[:, None]
            radii_i = species.expand(rows_at(table, species.numbers))[:, None]
            rows_j = rows_at(table, sender_species.numbers)
            radii_j = gather(sender_species.expand(rows_j), senders)
            transformed = self.distance_transform(lengths, radii_i, radii_j, order)
            basis = compose(self.bessel_fn(transformed[0], order), transformed)
        return (
            (multiply(basis, envelope), None) if self.settings.apply_cutoff else (basis, envelope)
        )
