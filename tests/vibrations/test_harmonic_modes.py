"""Frequencies and normal modes against ASE, closed formulas and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.optimize import BFGS
from ase.vibrations import VibrationsData
from torch import Tensor

from mace_functional.units import FREQUENCY_UNITS, K_B, frequency_factor, vibrational_quantum
from mace_functional.vibrations.harmonic_modes import (
    frequencies,
    internal_motions,
    mass_weighted,
    normal_modes,
    rigid_motions,
)

MOLECULE = (False, False, False)
CRYSTAL = (True, True, True)


def tensor(values: object) -> Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def central_difference_hessian(atoms: Atoms, step: float = 1e-4) -> Tensor:
    """Hessian (N, 3, N, 3) of the calculator of `atoms`, from its forces."""
    hessian = np.zeros((len(atoms), 3, len(atoms), 3))
    for index in np.ndindex(len(atoms), 3):
        for sign in (1, -1):
            moved = atoms.copy()
            moved.calc = EMT()
            moved.positions[index] += sign * step
            hessian[index] -= sign * moved.get_forces() / (2 * step)
    return tensor(hessian)


def emt_molecule(name: str, *, relax: bool) -> Atoms:
    atoms = molecule(name)
    atoms.rotate(37.0, (1.0, 2.0, 3.0))
    atoms.calc = EMT()
    if relax:
        BFGS(atoms, logfile=None).run(fmax=1e-7, steps=200)
    return atoms


def linear_triatomic_hessian(stretch: float, bend: float, length: float) -> Tensor:
    """Hessian of Y-X-Y on the x axis, from stretching springs and the angle at X."""

    def energy(positions: Tensor) -> Tensor:
        left, right = positions[0] - positions[1], positions[2] - positions[1]
        cosine = left @ right / (left.norm() * right.norm())
        lengths = torch.stack([left.norm(), right.norm()])
        return stretch / 2 * ((lengths - length) ** 2).sum() + bend * (1 + cosine)

    return torch.func.hessian(energy)(linear_triatomic_positions(length))


def linear_triatomic_positions(length: float) -> Tensor:
    return tensor([[-length, 0, 0], [0, 0, 0], [length, 0, 0]])


def test_units_of_frequency_match_phonopy_and_each_other():
    # phonopy.units.VaspToTHz, CODATA 2006
    assert frequency_factor("THz") == pytest.approx(15.633302, rel=1e-6)
    assert frequency_factor("cm-1") / frequency_factor("THz") == pytest.approx(33.35640952)
    assert frequency_factor("meV") / frequency_factor("cm-1") == pytest.approx(0.1239841984)
    assert vibrational_quantum("cm-1") == pytest.approx(1.239841984e-4)
    assert vibrational_quantum("meV") == pytest.approx(1e-3)
    assert pytest.approx(8.617333262e-5) == K_B


@pytest.mark.parametrize("unit", FREQUENCY_UNITS)
def test_diatomic_frequency_is_root_of_force_constant_over_reduced_mass(unit):
    force_constant, masses = 40.0, [12.0, 16.0]
    hessian = torch.zeros(2, 3, 2, 3, dtype=torch.float64)
    hessian[:, 0, :, 0] = force_constant * tensor([[1, -1], [-1, 1]])
    reduced = masses[0] * masses[1] / sum(masses)
    found = frequencies(hessian, masses, unit=unit)
    assert found[-1].item() == pytest.approx(
        math.sqrt(force_constant / reduced) * FREQUENCY_UNITS[unit]
    )
    assert found[:-1].abs().max() < 1e-5 * FREQUENCY_UNITS[unit]


@pytest.mark.parametrize("name", ["N2", "CO", "H2O"])
def test_frequencies_match_ase(name):
    atoms = emt_molecule(name, relax=False)
    hessian = central_difference_hessian(atoms)
    # ASE reads the lower triangle only, and has the constants of CODATA 2014.
    symmetric = (hessian + hessian.permute(2, 3, 0, 1)) / 2
    expected = VibrationsData(atoms, symmetric.numpy()).get_frequencies()
    expected = np.sort(expected.real - expected.imag)
    found = frequencies(hessian, atoms.get_masses())
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-2)
    square = frequencies(hessian.reshape(3 * len(atoms), -1), tensor(atoms.get_masses()))
    assert torch.equal(found, square)


def test_carbon_dioxide_like_molecule_has_herzbergs_four_frequencies():
    stretch, bend, length, m_y, m_x = 90.0, 4.5, 1.16, 16.0, 12.0
    hessian = linear_triatomic_hessian(stretch, bend, length)
    positions = linear_triatomic_positions(length)
    modes = normal_modes(hessian, [m_y, m_x, m_y], positions, pbc=MOLECULE, unit="THz")
    ratio = 1 + 2 * m_y / m_x
    # Herzberg, Infrared and Raman Spectra (1945), equations II,194-196.
    squares = [2 * ratio * bend / (length**2 * m_y)] * 2 + [stretch / m_y, ratio * stretch / m_y]
    assert modes.n_rigid == 5
    assert modes.n_imaginary == 0
    torch.testing.assert_close(
        modes.frequencies, tensor(squares).sort().values.sqrt() * FREQUENCY_UNITS["THz"]
    )
    assert modes.rigid_residual < 1e-4
    assert modes.acoustic_sum_residual < 1e-12
    assert modes.asymmetry < 1e-12


def test_complex_hermitian_matrix_of_a_diatomic_chain_has_its_two_branches():
    spring, m_1, m_2, q = 5.0, 20.0, 35.0, 0.31
    off = -spring * (1 + np.exp(-2j * np.pi * q)) / np.sqrt(m_1 * m_2)
    matrix = torch.tensor([[2 * spring / m_1, off], [np.conj(off), 2 * spring / m_2]])
    # Kittel, Introduction to Solid State Physics, chapter 4, equation 20.
    mean, sine = spring * (1 / m_1 + 1 / m_2), np.sin(np.pi * q)
    split = np.sqrt(mean**2 - 4 * spring**2 * sine**2 / (m_1 * m_2))
    expected = np.sqrt([mean - split, mean + split]) * FREQUENCY_UNITS["meV"]
    np.testing.assert_allclose(frequencies(matrix, unit="meV"), expected)
    batch = torch.stack([matrix, matrix.conj()])
    np.testing.assert_allclose(frequencies(batch, unit="meV"), [expected, expected])


def test_negative_curvature_is_a_negative_frequency():
    found = frequencies(torch.diag(tensor([4.0, -9.0, 1.0])), unit="THz")
    torch.testing.assert_close(found, tensor([-3.0, 1.0, 2.0]) * FREQUENCY_UNITS["THz"])


def test_only_the_symmetric_part_of_the_matrix_counts():
    matrix = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    symmetric = (matrix + matrix.T) / 2
    torch.testing.assert_close(frequencies(matrix), frequencies(symmetric))


def random_symmetric(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(*shape, dtype=torch.float64, generator=generator)
    return matrix @ matrix.mT + torch.eye(shape[-1])


def test_vmap_over_hessians_equals_the_loop():
    hessians = random_symmetric(4, 6, 6)
    masses = tensor([[1.0, 16.0], [12.0, 16.0], [28.0, 1.0], [3.0, 4.0]])
    batched = torch.func.vmap(frequencies)(hessians, masses)
    looped = [frequencies(h, m) for h, m in zip(hessians, masses, strict=True)]
    torch.testing.assert_close(batched, torch.stack(looped))
    torch.testing.assert_close(frequencies(hessians), torch.func.vmap(frequencies)(hessians))


def test_derivatives_of_frequencies_match_finite_differences_in_every_mode():
    hessian, masses = random_symmetric(6, 6), tensor([1.0, 16.0])
    assert torch.autograd.gradcheck(
        lambda h, m: frequencies(h, m, unit="THz"),
        (hessian.requires_grad_(), masses.requires_grad_()),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )
    reverse = torch.func.jacrev(frequencies)(hessian.detach(), masses.detach())
    forward = torch.func.jacfwd(frequencies)(hessian.detach(), masses.detach())
    torch.testing.assert_close(forward, reverse)


def test_second_derivative_of_a_frequency_composes_forward_over_reverse():
    hessian, direction = random_symmetric(6, 6), random_symmetric(2, 6, 6)[1]

    def highest(step: Tensor) -> Tensor:
        return frequencies(hessian + step * direction, unit="THz")[-1]

    step = tensor(0.0)
    slope = torch.func.grad(highest)
    _, curvature = torch.func.jvp(slope, (step,), (torch.ones_like(step),))
    expected = (slope(step + 1e-5) - slope(step - 1e-5)) / 2e-5
    torch.testing.assert_close(curvature, expected, rtol=1e-6, atol=1e-8)


def test_mean_of_a_degenerate_pair_has_the_derivative_of_perturbation_theory():
    hessian = linear_triatomic_hessian(90.0, 4.5, 1.16).reshape(9, 9)
    masses = tensor([16.0, 12.0, 16.0])
    internal = internal_motions(rigid_motions(linear_triatomic_positions(1.16), masses))
    perturbation = random_symmetric(9, 9)

    def bending(step: Tensor) -> Tensor:
        projected = internal.T @ mass_weighted(hessian + step * perturbation, masses) @ internal
        return frequencies(projected, unit="THz")[:2]

    step = tensor(0.0)
    pair = bending(step)
    torch.testing.assert_close(pair[0], pair[1])
    reverse = torch.func.grad(lambda t: bending(t).mean())(step)
    forward = torch.func.jvp(lambda t: bending(t).mean(), (step,), (torch.ones_like(step),))[1]
    expected = (bending(step + 1e-5) - bending(step - 1e-5)).mean() / 2e-5
    torch.testing.assert_close(reverse, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(forward, expected, rtol=1e-6, atol=0)


def test_slope_at_a_frequency_of_exactly_zero_is_zero():
    matrix = torch.diag(tensor([0.0, 0.0, 4.0]))
    jacobian = torch.func.jacrev(lambda m: frequencies(m, unit="THz"))(matrix)
    expected = torch.zeros(3, 3, 3, dtype=torch.float64)
    expected[2, 2, 2] = FREQUENCY_UNITS["THz"] / 4
    torch.testing.assert_close(jacobian, expected)
    tangent = torch.func.jvp(frequencies, (matrix,), (torch.eye(3, dtype=matrix.dtype),))[1]
    assert torch.equal(tangent[:2], torch.zeros(2, dtype=matrix.dtype))


def test_mass_weighting_keeps_the_asymmetry_of_a_hessian():
    hessian = torch.arange(36.0).reshape(2, 3, 2, 3)
    weighted = mass_weighted(hessian, [4.0, 9.0])
    assert weighted[1, 5].item() == pytest.approx(hessian[0, 1, 1, 2].item() / 6)
    assert weighted[5, 1].item() == pytest.approx(hessian[1, 2, 0, 1].item() / 6)


def rattled(positions: Tensor, amplitude: float) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return positions + amplitude * torch.randn(
        positions.shape, dtype=positions.dtype, generator=generator
    )


TRIATOMIC = linear_triatomic_positions(1.16)


@pytest.mark.parametrize(
    ("positions", "pbc", "n_rigid"),
    [
        (TRIATOMIC[:1] + 5.0, MOLECULE, 3),
        (TRIATOMIC + 5.0, MOLECULE, 5),
        (rattled(TRIATOMIC, 1e-4), MOLECULE, 5),
        (rattled(TRIATOMIC, 1e-2), MOLECULE, 6),
        (rattled(TRIATOMIC, 0.5), MOLECULE, 6),
        (rattled(TRIATOMIC, 0.5), (True, False, False), 4),
        (rattled(TRIATOMIC, 0.5), (False, False, True), 4),
        (TRIATOMIC, (True, False, False), 3),
        (TRIATOMIC, (False, True, False), 4),
        (rattled(TRIATOMIC, 0.5), (True, True, False), 3),
        (rattled(TRIATOMIC, 0.5), CRYSTAL, 3),
    ],
    ids=[
        "atom",
        "linear molecule",
        "linear molecule as relaxed",
        "linear molecule rattled",
        "bent molecule",
        "polymer along x",
        "polymer along z",
        "straight wire",
        "ladder",
        "slab",
        "crystal",
    ],
)
def test_number_of_rigid_motions(positions, pbc, n_rigid):
    masses = tensor([16.0, 12.0, 16.0][: len(positions)])
    basis = rigid_motions(positions, masses, pbc=pbc, cell=6 * torch.eye(3))
    assert basis.shape == (3 * len(positions), n_rigid)
    torch.testing.assert_close(basis.T @ basis, torch.eye(n_rigid, dtype=torch.float64))
    everything = torch.cat([basis, internal_motions(basis)], dim=1)
    torch.testing.assert_close(
        everything @ everything.T, torch.eye(3 * len(positions), dtype=torch.float64)
    )


def random_rotation() -> Tensor:
    q, r = torch.linalg.qr(random_symmetric(3, 3))
    return q * r.diagonal().sign() * torch.linalg.det(q * r.diagonal().sign())


def pair_distances(positions: Tensor) -> Tensor:
    first, second = torch.triu_indices(len(positions), len(positions), offset=1)
    return (positions[first] - positions[second]).norm(dim=1)


def test_rigid_motions_of_a_molecule_leave_all_distances_as_they_are():
    positions, masses = rattled(TRIATOMIC, 0.5), tensor([16.0, 12.0, 16.0])
    for motion in rigid_motions(positions, masses).T:
        velocities = motion.reshape(-1, 3) / masses.sqrt()[:, None]
        _, rates = torch.func.jvp(pair_distances, (positions,), (velocities,))
        assert rates.abs().max() < 1e-12


def zigzag_chain() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hessian, positions, masses and cell of a zigzag polymer along a tilted axis, at rest."""
    rotation = random_rotation()
    cell = tensor([[2.5, 0, 0], [0, 0, 0], [0, 0, 0]]) @ rotation.T
    at_rest = tensor([[0, 0.45, 3.0], [1.3, -0.45, 3.0]]) @ rotation.T

    def bonds(positions: Tensor) -> Tensor:
        first, second = positions
        vectors = [second - first, first + cell[0] - second, *(positions + cell[0] * 2 - first)]
        return torch.stack(vectors).norm(dim=1)

    lengths = bonds(at_rest)
    hessian = torch.func.hessian(lambda p: ((bonds(p) - lengths) ** 2).sum() * 5)(at_rest)
    return hessian, at_rest, tensor([12.0, 14.0]), cell


def test_polymer_turns_freely_about_its_own_axis_only():
    hessian, positions, masses, cell = zigzag_chain()
    pbc = (True, False, False)
    modes = normal_modes(hessian, masses, positions, pbc=pbc, cell=cell)
    assert modes.n_rigid == 4
    assert modes.rigid_residual < 1e-3
    as_molecule = normal_modes(hessian, masses, positions, pbc=MOLECULE)
    assert as_molecule.rigid_residual > 10


def test_crystal_at_gamma_loses_three_translations_and_keeps_its_optical_modes():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    hessian = central_difference_hessian(atoms)
    masses, positions = atoms.get_masses(), tensor(atoms.positions)
    modes = normal_modes(hessian, masses, positions, pbc=CRYSTAL, forces=tensor(atoms.get_forces()))
    expected = VibrationsData(atoms, hessian.numpy()).get_frequencies().real
    assert modes.n_rigid == 3
    # The three translations are the smallest here; zone-boundary modes of fcc remain.
    np.testing.assert_allclose(modes.frequencies, np.sort(expected)[3:], rtol=1e-6)
    assert modes.frequencies.min() > 100
    assert modes.rigid_residual < 1
    assert modes.largest_force < 1e-10


def test_projection_takes_out_rotations_far_from_zero_at_a_rattled_geometry():
    atoms = emt_molecule("H2O", relax=True)
    atoms.rattle(0.1, seed=3)
    hessian, masses = central_difference_hessian(atoms), tensor(atoms.get_masses())
    forces, positions = tensor(atoms.get_forces()), tensor(atoms.positions)
    modes = normal_modes(hessian, masses, positions, pbc=MOLECULE, forces=forces)

    assert modes.largest_force == pytest.approx(np.linalg.norm(atoms.get_forces(), axis=1).max())
    assert modes.largest_force > 1
    assert modes.n_rigid == 6
    # Rotations stand above any sensible threshold: only projection finds them.
    assert modes.rigid_residual > 100
    basis = rigid_motions(positions, masses).T.reshape(6, 3, 3)
    overlaps = torch.einsum("mka,rka->mr", modes.modes, basis)
    assert overlaps.abs().max() < 1e-12
    torch.testing.assert_close(
        torch.einsum("mka,nka->mn", modes.modes, modes.modes), torch.eye(3, dtype=torch.float64)
    )
    # Internal motions are those that keep momentum and angular momentum at zero.
    momenta = modes.displacements * masses[:, None]
    assert momenta.sum(1).abs().max() < 1e-12
    arms = positions - masses @ positions / masses.sum()
    assert torch.linalg.cross(arms.expand_as(momenta), momenta).sum(1).abs().max() < 1e-12


def test_second_derivative_of_energy_along_a_mode_is_its_squared_frequency():
    atoms = emt_molecule("H2O", relax=True)
    hessian, masses = central_difference_hessian(atoms), tensor(atoms.get_masses())
    modes = normal_modes(hessian, masses, tensor(atoms.positions), pbc=MOLECULE)
    assert modes.rigid_residual < 1

    def energy(displacement: np.ndarray) -> float:
        moved = atoms.copy()
        moved.calc = EMT()
        moved.positions += displacement
        return moved.get_potential_energy()

    for frequency, displacement in zip(modes.frequencies, modes.displacements, strict=True):
        step = 2e-3 * displacement.numpy()
        curvature = (energy(step) - 2 * energy(0 * step) + energy(-step)) / 2e-3**2
        found = math.copysign(math.sqrt(abs(curvature)), curvature) * FREQUENCY_UNITS["cm-1"]
        assert frequency.item() == pytest.approx(found, rel=1e-3, abs=0.1)


def test_single_atom_has_no_vibrations():
    modes = normal_modes(torch.zeros(3, 3), [40.0], torch.ones(1, 3), pbc=MOLECULE)
    assert modes.n_rigid == 3
    assert modes.frequencies.shape == (0,)
    assert modes.modes.shape == (0, 1, 3)
    assert modes.n_imaginary == 0


def test_imaginary_modes_and_flaws_of_a_hessian_are_reported():
    hessian = -linear_triatomic_hessian(90.0, 4.5, 1.16)
    masses, positions = [16.0, 12.0, 16.0], linear_triatomic_positions(1.16)
    modes = normal_modes(hessian, masses, positions, pbc=MOLECULE)
    assert modes.n_imaginary == 4
    assert [mode.frequency for mode in modes.imaginary_modes] == modes.frequencies.tolist()
    assert modes.largest_force is None
    hessian[0, 0, 2, 1] += 0.25
    hessian[0, 0, 1, 1] += 0.5
    flawed = normal_modes(hessian, masses, positions, pbc=MOLECULE)
    assert flawed.asymmetry == pytest.approx(0.5)
    assert flawed.acoustic_sum_residual == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frequencies(torch.eye(3), unit="eV"), "unknown unit of frequency 'eV'"),
        (lambda: frequencies(torch.ones(2, 3, 2, 3)), "needs masses"),
        (lambda: frequencies(torch.ones(6, 5)), r"got \(6, 5\)"),
        (lambda: frequencies(torch.ones(2, 3, 3, 3), [1.0, 1.0]), r"got \(2, 3, 3, 3\)"),
        (lambda: frequencies(torch.eye(6), [1.0, 2.0, 3.0]), "one mass for every three rows"),
        (lambda: rigid_motions(torch.ones(2, 3), [1.0]), r"masses \(N,\)"),
        (lambda: rigid_motions(torch.ones(2, 3), [1.0, 0.0]), "must be positive"),
        (lambda: rigid_motions(torch.ones(1, 3), [1.0], pbc=(True,)), "three booleans"),
        (lambda: rigid_motions(torch.ones(1, 3), [1.0], pbc=(True, False, False)), "give the cell"),
        (
            lambda: rigid_motions(
                torch.ones(1, 3), [1.0], pbc=(True, False, False), cell=torch.zeros(3, 3)
            ),
            "zero or NaN",
        ),
        (
            lambda: normal_modes(torch.eye(3) / 0, [1.0], torch.ones(1, 3), pbc=MOLECULE),
            "9 entries that are not finite: look for atoms on top of each other",
        ),
        (
            lambda: normal_modes(torch.ones(2, 3, 3), [1.0], torch.ones(1, 3), pbc=MOLECULE),
            "not a batch",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
