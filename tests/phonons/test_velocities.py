"""Group velocities against chains, differences of frequencies, elastic waves and phonopy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, graphene
from springs import chain, phonopy_of, salt, silicon, spring_phonons
from torch.func import jvp, vmap

import mace_functional as mf
from mace_functional.phonons import group_velocities, modes_at_q, phonons_of
from mace_functional.phonons.velocities import velocities_of
from mace_functional.units import ANGULAR_FREQUENCY

KM_PER_S = ANGULAR_FREQUENCY * 1e-13
GENERAL = (0.13, -0.29, 0.41)


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def omega(phonons, q) -> torch.Tensor:
    """Signed angular frequencies, sqrt(eV/Å²/amu)."""
    values = torch.linalg.eigvalsh(phonons.dynamical_matrix(q))
    return values.sign() * values.abs().sqrt()


def differences(phonons, q, direction, step: float = 1e-6) -> torch.Tensor:
    """Slopes of frequencies along a Cartesian direction, km/s, from both sides."""
    along = torch.as_tensor(phonons.atoms.cell.array) @ direction / (2 * np.pi)
    up, down = (omega(phonons, q + s * step * along) for s in (1, -1))
    return KM_PER_S * (up - down) / (2 * step)


@pytest.mark.parametrize("x", [0.03, 0.2, -0.37])
def test_monatomic_chain(x):
    spring, mass, step = 2.0, 7.0, 1.5
    found = group_velocities(chain((mass,), spring, step), vector(x, 0, 0))
    speed = KM_PER_S * step * np.sqrt(spring / mass)
    expected = speed * np.cos(np.pi * x) * np.sign(x)
    torch.testing.assert_close(found, torch.tensor([[0, 0, 0], [0, 0, 0], [expected, 0, 0]]))


def test_units():
    found = {
        unit: group_velocities(silicon_phonons(), vector(*GENERAL), unit=unit)
        for unit in ("km/s", "m/s", "THz Å")
    }
    torch.testing.assert_close(found["m/s"], 1000 * found["km/s"])
    torch.testing.assert_close(found["THz Å"], 10 * found["km/s"])


def silicon_phonons():
    return spring_phonons(silicon())


@pytest.mark.parametrize("atoms", [salt(), bulk("Mg"), graphene(a=2.9)])
def test_slopes_are_differences_of_frequencies(atoms):
    if not atoms.pbc[2]:
        atoms.rattle(0.1, seed=1)  # else modes out of plane, and flat ones
    crystal = spring_phonons(atoms)
    q = vector(*GENERAL) * torch.as_tensor(atoms.pbc)
    found = group_velocities(crystal, q)
    for axis in torch.eye(3).double():
        expected = differences(crystal, q, axis)
        torch.testing.assert_close(found @ axis, expected, rtol=0, atol=1e-6)


def test_degenerate_modes_have_the_slopes_of_the_bands_that_meet():
    crystal = silicon_phonons()
    for q in vector(0.5, 0.25, 0.75), vector(0.5, 0, 0.5), vector(0.2, 0, 0.2):  # W, X, Delta
        values = modes_at_q(crystal, q)[0]
        assert (values.diff() < 1e-10).any()
        for direction in vector(1, 2, 3), vector(0.3, -1, 0.2):
            unit = direction / direction.norm()
            found = group_velocities(crystal, q, direction=direction) @ unit
            along = torch.as_tensor(crystal.atoms.cell.array) @ unit / (2 * np.pi)
            step = 1e-6
            expected = KM_PER_S * (omega(crystal, q + step * along) - omega(crystal, q)) / step
            torch.testing.assert_close(
                found.sort().values, expected.sort().values, rtol=0, atol=1e-3
            )


@pytest.mark.parametrize("atoms", [salt(), silicon(), bulk("Mg"), bulk("Mg").repeat((2, 1, 1))])
def test_acoustic_modes_leave_gamma_as_sound(atoms):
    crystal = spring_phonons(atoms)
    for direction in vector(1, 2, 3), vector(-0.3, 0.1, 0.5):
        found = group_velocities(crystal, vector(0, 0, 0), direction=direction)
        assert found.isfinite().all()
        # So close that dispersion is small, so far that rounding is.
        near = torch.as_tensor(atoms.cell.array) @ (direction / direction.norm())
        expected = group_velocities(crystal, 1e-4 * near, direction=direction)
        torch.testing.assert_close(found[:3], expected[:3], rtol=0, atol=1e-4)
        again = group_velocities(crystal, vector(1, 0, -1), direction=3 * direction)
        torch.testing.assert_close(found, again, rtol=0, atol=1e-6)


def test_sound_in_a_cubic_lattice_of_springs():
    """A simple cubic lattice with springs to nearest neighbours alone, in closed form."""
    atoms = bulk("Po", "sc", a=2.9)
    crystal = spring_phonons(atoms)
    stretch, bend, along_face, across_face = 1.8, 0.25, 0.35, 0.02
    (mass,) = atoms.get_masses()
    # Along x: 2 nearest neighbours, and 8 second ones at 45 degrees.
    longitudinal = stretch + 4 * (along_face + across_face) / 2
    transverse = bend + 2 * ((along_face + across_face) / 2 + across_face)
    found = group_velocities(crystal, vector(0, 0, 0), direction=(1, 0, 0))
    for row, constant in ((0, transverse), (1, transverse), (2, longitudinal)):
        speed = KM_PER_S * 2.9 * np.sqrt(constant / mass)
        torch.testing.assert_close(found[row], vector(speed, 0, 0), rtol=0, atol=1e-9)


@pytest.mark.parametrize("atoms", [salt(), silicon()])
@pytest.mark.parametrize("q", [GENERAL, (0.3, 0.1, 0.05), (0.4, 0.1, 0.3)])
def test_agrees_with_phonopy(atoms, q):
    expected = phonopy_of(atoms).get_group_velocity_at_q(q)
    found = group_velocities(spring_phonons(atoms), vector(*q), unit="THz Å")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_imaginary_modes_have_the_slope_of_their_negative_frequency():
    crystal = chain((7.0,), spring=-2.0)
    q = vector(0.2, 0, 0)
    found = group_velocities(crystal, q)
    assert found[0, 0] < 0
    torch.testing.assert_close(
        found[0, 0], differences(crystal, q, vector(1, 0, 0))[0], rtol=1e-6, atol=0
    )


def test_slabs_at_gamma():
    atoms = graphene(a=2.9)
    found = group_velocities(spring_phonons(atoms), vector(0, 0, 0), direction=(1, 0.2, 5.0))
    assert found.isfinite().all()
    assert (found[:, 2].abs() < 1e-9).all()
    assert (found[:3, 0] > 1e-3).all()
    with pytest.raises(ValueError, match="component along which the crystal is periodic"):
        group_velocities(spring_phonons(atoms), vector(0, 0, 0), direction=(0, 0, 1.0))


def test_rods_twist_and_bend():
    """At Gamma a rod has four rigid motions: two bend, one is sound, one is torsion."""
    angles = 2 * np.pi / 3 * np.arange(6)
    positions = np.stack([0.9 * np.arange(6), 1.2 * np.cos(angles), 1.2 * np.sin(angles)], 1)
    atoms = Atoms("C6", positions, cell=[5.4, 0, 0], pbc=[True, False, False])
    crystal = spring_phonons(atoms, springs=((3.0, 1.8, 0.0), (4.2, 0.35, 0.0)))
    found = group_velocities(crystal, vector(0, 0, 0))
    near = group_velocities(crystal, vector(1e-3, 0, 0))
    assert (modes_at_q(crystal, vector(0, 0, 0))[0][:4] == 0).all()
    torch.testing.assert_close(found[:2], torch.zeros(2, 3).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(found[2:4], near[2:4], rtol=1e-3, atol=0)
    assert (found[2:4, 0] > 1).all()


def test_embedded_model():
    crystal = phonons_of(mf.load_model("embedded"), salt())
    q = vector(*GENERAL)
    found = group_velocities(crystal, q)
    direction = vector(0.6, -0.8, 0.0)
    expected = differences(crystal, q, direction, step=1e-4)
    torch.testing.assert_close(found @ direction, expected, rtol=0, atol=1e-6)
    at_gamma = group_velocities(crystal, vector(0, 0, 0), direction=direction)
    near = torch.as_tensor(crystal.atoms.cell.array) @ direction / (2 * np.pi)
    sound = KM_PER_S * omega(crystal, 1e-3 * near)[:3] / 1e-3
    torch.testing.assert_close(at_gamma[:3] @ direction, sound, rtol=1e-4, atol=0)


def test_vmap_over_wave_vectors():
    crystal = silicon_phonons()
    points = torch.tensor([GENERAL, (0.2, 0, 0.2), (0.5, 0, 0.5)], dtype=torch.float64)
    to_lattice = torch.as_tensor(crystal.atoms.cell.array) / (2 * np.pi)
    direction = vector(1, 2, 3)

    def velocities(q):
        slopes = [jvp(crystal.dynamical_matrix, (q,), (axis,))[1] for axis in to_lattice.mT]
        return velocities_of(crystal.dynamical_matrix(q), torch.stack(slopes), direction)[1]

    found = KM_PER_S * vmap(velocities)(points)
    for q, one in zip(points, found, strict=True):
        torch.testing.assert_close(one, group_velocities(crystal, q), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: group_velocities(p, torch.zeros(2, 3)), r"shape \(3,\)"),
        (lambda p: group_velocities(p, vector(0, 0, 0), unit="mph"), "unknown unit of velocity"),
        (lambda p: group_velocities(p, vector(0, 0, 0), direction=(0, 0, 0)), "the direction must"),
        (lambda p: group_velocities(p, vector(0, 0, 0), direction=(0, 1)), "the direction must"),
    ],
)
def test_bad_input_is_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call(silicon_phonons())


def test_molecules_are_refused():
    molecule = silicon_phonons()
    molecule.atoms.pbc = False
    with pytest.raises(ValueError, match="a group velocity needs a crystal"):
        group_velocities(molecule, vector(0, 0, 0))
