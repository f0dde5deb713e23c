"""Lattice thermal conductivity from force constants of second and third order, by phono3py.

phono3py solves the linearised Boltzmann equation of phonons,

    kappa = 1 / (N V) sum_(q, m) C_qm  v_qm (x) F_qm,

in which F is the group velocity times the lifetime ("relaxation-time"), or the solution with all
elements of the collision matrix ("direct"). It integrates by tetrahedra, here with weights that
degenerate modes share: its own default depends on the choice of their eigenvectors.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from ase import Atoms

from mace_functional.anharmonic.conductivity_result import ThermalConductivity
from mace_functional.anharmonic.phono3py import require_phono3py, to_phono3py
from mace_functional.anharmonic.third_order import VANISHING
from mace_functional.anharmonic.third_order_constants import ThirdOrderForceConstants
from mace_functional.autodiff.memory import check_fits
from mace_functional.phonons.mesh import mesh_size
from mace_functional.support import validation
from mace_functional.support.defaults import CONDUCTIVITY_MESH_SPACING, ConductivityMethod

if TYPE_CHECKING:
    from phono3py import Phono3py

CUTOFF_FREQUENCY = 1e-4
"""Frequency below which phono3py leaves modes out, THz."""

SYMMETRIC = {
    "average_degenerate_weights": True,
    "symmetrize_tetrahedra": True,
    "exclude_gamma_acoustic": True,
}
"""Options of phono3py's interaction that make results independent of rounding.

Without them, they depend on the choice of eigenvectors of degenerate modes: by 3 % for rock salt on
a mesh of 5 x 5 x 5, and by 0.01 % on one of 9 x 9 x 9. They take no time.
"""

TENSOR = (0, 5, 4, 5, 1, 3, 4, 3, 2)
"""Place in phono3py's order xx, yy, zz, yz, xz, xy of the nine elements of a tensor."""


def conductivity_of(
    constants: ThirdOrderForceConstants,
    temperatures: Sequence[float] | float,
    *,
    mesh: Sequence[int] | float | None = None,
    method: ConductivityMethod = "relaxation-time",
    wigner: bool = False,
    isotopes: bool = False,
    boundary: float | None = None,
) -> ThermalConductivity:
    """Compute the lattice thermal conductivity by phono3py.

    Args:
        constants: Force constants of `third_order_force_constants`.
        temperatures: Temperatures, K, above zero.
        mesh: Numbers of wave vectors along the reciprocal vectors of phono3py's primitive cell,
            (3,), or the largest distance of neighbouring ones, 1/Å; None for 0.15 1/Å. The
            conductivity must be converged with it.
        method: "relaxation-time": each mode relaxes alone. "direct" solves the Boltzmann equation
            with the whole collision matrix, whose memory and time grow as the square and the cube
            of the number of inequivalent modes. It is the larger one where normal processes, which
            keep the momentum, prevail.
        wigner: Add the coherences of Wigner's transport equation, which count where linewidths
            reach the distances of the bands: for poor conductors and large cells.
        isotopes: Add the scattering by isotopes of natural abundance, to first order.
        boundary: Mean free path of boundary scattering, µm; None for none.

    Returns:
        The conductivity, and the modes.

    Raises:
        TypeError: If the force constants are of another class.
        ValueError: If an option is not valid, the mesh breaks the symmetry, or the third order is
            zero, as in a supercell so small that all images of an atom are equally far away.
        MemoryError: If the collision matrix does not fit into memory.
        ImportError: If phono3py is not installed.

    Warns:
        UserWarning: There are imaginary modes.

    Source: relaxation time: Togo, Chaput, Tanaka, Phys. Rev. B 91, 094306 (2015),
        doi:10.1103/PhysRevB.91.094306. Direct: Chaput, Phys. Rev. Lett. 110, 265506 (2013),
        doi:10.1103/PhysRevLett.110.265506. Wigner: Simoncelli, Marzari, Mauri, Nat. Phys. 15, 809
        (2019), doi:10.1038/s41567-019-0520-x. Isotopes: Tamura, Phys. Rev. B 27, 858 (1983),
        doi:10.1103/PhysRevB.27.858.
    """
    given = (constants, "ThirdOrderForceConstants")
    validation.in_order("conductivity_of(constants, temperatures)", given)
    require_phono3py()
    kelvin = checked_options(temperatures, mesh, method, boundary)
    if np.linalg.norm(constants.values) < VANISHING * np.linalg.norm(constants.second_order):
        raise ValueError(
            "the third-order force constants are zero, and nothing limits the conductivity: take a "
            "larger supercell"
        )
    phono3py = to_phono3py(constants)
    size = _set_mesh(phono3py, mesh)
    phono3py.init_phph_interaction(**SYMMETRIC)
    if method == "direct":
        _check_memory(phono3py, len(kelvin))
    phono3py.run_thermal_conductivity(
        is_LBTE=method == "direct",
        temperatures=kelvin,
        is_isotope=isotopes,
        boundary_mfp=boundary,
        transport_type="SMM19" if wigner else None,
        log_level=0,
    )
    parts = _parts(phono3py.thermal_conductivity, method, wigner)
    found: Any = phono3py.thermal_conductivity
    n_imaginary = int((found.frequencies < -CUTOFF_FREQUENCY).sum(1) @ found.grid_weights)
    if n_imaginary:
        warn_of_imaginary_modes(
            n_imaginary,
            float(found.frequencies.min()),
            f"on the mesh {' x '.join(map(str, size))}, with the supercell of the second order",
        )
    isotope = found.gamma_isotope
    return ThermalConductivity(
        temperatures=np.array(kelvin),
        **parts,
        method=method,
        wigner=wigner,
        boundary=boundary,
        mesh=size,
        q=np.array(found.qpoints),
        weights=np.array(found.grid_weights),
        mapping=_mapping(phono3py, size),
        frequencies=np.array(found.frequencies),
        velocities=0.1 * found.group_velocities,  # THz Å is 0.1 km/s
        heat_capacities=np.array(found.mode_heat_capacities),
        linewidths=2 * found.gamma[0],
        isotope_linewidths=2 * isotope[0] if isotopes else None,
        n_imaginary=n_imaginary,
        cell=np.array(phono3py.primitive.cell),
        constants=constants,
    )


def checked_options(
    temperatures: Sequence[float] | float,
    mesh: Sequence[int] | float | None,
    method: str,
    boundary: float | None,
) -> list[float]:
    """Check options of `conductivity_of`, and return the temperatures, K.

    Raises:
        ValueError: If one is not valid.
    """
    kelvin = validation.temperatures(temperatures)
    if min(kelvin) == 0:
        raise ValueError("there is no conductivity at 0 K: temperatures must be above zero")
    if isinstance(mesh, float | int):
        validation.positive("the spacing of a mesh", mesh, "1/Å")
    elif mesh is not None:
        validation.mesh(mesh)
    if method not in get_args(ConductivityMethod):
        known = " or ".join(map(repr, get_args(ConductivityMethod)))
        raise ValueError(f"method must be {known}, not {method!r}")
    if boundary is not None:
        validation.positive("boundary", boundary, "µm")
    return kelvin


def warn_of_imaginary_modes(count: int, lowest: float, where: str) -> None:
    """Warn that imaginary modes conduct nothing.

    Args:
        count: Their number.
        lowest: The lowest frequency, THz, negative.
        where: Where they are.
    """
    warnings.warn(
        f"{count} imaginary modes {where}, down to {lowest:.3g} THz: the structure is no minimum, "
        "or the supercell is too small. They are left out, and the conductivity means little",
        stacklevel=3,
    )


def _set_mesh(phono3py: Phono3py, mesh: Sequence[int] | float | None) -> tuple[int, int, int]:
    """Set the mesh, and return its size.

    Raises:
        ValueError: If it breaks the symmetry.
    """
    if mesh is None or isinstance(mesh, float | int):
        cell = Atoms(cell=phono3py.primitive.cell, pbc=True)
        size = mesh_size(cell, CONDUCTIVITY_MESH_SPACING if mesh is None else mesh)
    else:
        size = validation.mesh(mesh)
    try:
        phono3py.mesh_numbers = size
    except RuntimeError as error:
        raise ValueError(
            f"a mesh of {' x '.join(map(str, size))} wave vectors breaks the symmetry of the "
            "crystal: take equal numbers along equivalent reciprocal lattice vectors"
        ) from error
    return size


def _check_memory(phono3py: Phono3py, n_temperatures: int) -> None:
    """Raise an error if the collision matrices do not fit into memory.

    Raises:
        MemoryError: If they do not.
    """
    from phonopy.phonon.grid import get_ir_grid_points

    n_q = len(get_ir_grid_points(phono3py.grid)[0])
    modes = n_q * 3 * len(phono3py.primitive) * 3
    check_fits(
        "collision matrices",
        8 * (n_temperatures + 2) * modes**2,  # two more to diagonalise one
        torch.device("cpu"),
        "take a coarser mesh, fewer temperatures, or the method 'relaxation-time'",
    )


def _mapping(phono3py: Phono3py, size: tuple[int, int, int]) -> np.ndarray:
    """Return the index of the inequivalent wave vector for each point of the mesh."""
    from phonopy.phonon.grid import get_ir_grid_points

    inequivalent, _, equivalent = get_ir_grid_points(phono3py.grid)
    # phono3py's first index runs fastest.
    return np.searchsorted(inequivalent, equivalent).reshape(size, order="F")


def _parts(found: Any, method: ConductivityMethod, wigner: bool) -> dict[str, np.ndarray]:
    """Return the parts of the conductivity and the shares of modes, as phono3py has them."""
    if method == "direct":
        populations, alone, modes = found.kappa[0], found.kappa_RTA[0], found.mode_kappa[0]
    elif wigner:
        populations = alone = found.kappa_intra[0]
        modes = np.einsum("tqmmv->tqmv", found.mode_kappa_matrix[0])
    else:
        populations, modes = found.kappa[0], found.mode_kappa[0]
        alone = populations
    # For the direct solution, `found.kappa` lacks the coherences.
    coherences = found.kappa_inter[0] if wigner else np.zeros_like(populations)
    shares = {
        "kappa": populations + coherences,
        "populations": populations,
        "coherences": coherences,
        "relaxation_time": alone,
        "mode_conductivities": modes / np.prod(found.mesh_numbers),
    }
    return {
        name: values[..., TENSOR].reshape(*values.shape[:-1], 3, 3)
        for name, values in shares.items()
    }
