"""Band structures against chains that are known in closed form, and phonopy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import seekpath
import torch
from ase import Atoms
from ase.build import graphene
from springs import chain, phonopy_of, salt, silicon, spring_phonons

import mace_functional as mf
from mace_functional.phonons import band_structure, phonons_of
from mace_functional.units import frequency_factor

CM = frequency_factor("cm-1")


def test_monatomic_chain():
    spring, step, mass = 2.0, 1.5, 7.0
    bands = band_structure(chain((mass,), spring, step), [("G", [0, 0, 0]), ("X", [0.5, 0, 0])])
    wave = bands.distance.numpy()
    expected = CM * 2 * np.sqrt(spring / mass) * abs(np.sin(wave * step / 2))
    np.testing.assert_allclose(bands.frequencies[:, 2], expected, rtol=0, atol=1e-4)
    assert bands.distance[-1] == pytest.approx(np.pi / step)
    assert bands.labels == ((0, "Γ"), (100, "X"))


def test_diatomic_chain():
    spring, step, (light, heavy) = 2.0, 1.5, (3.0, 11.0)
    bands = band_structure(chain((light, heavy), spring, step), "GX", unit="meV", points=30)
    inverse = 1 / light + 1 / heavy
    sine = np.sin(bands.distance.numpy() * step) ** 2
    root = np.sqrt(inverse**2 - 4 * sine / (light * heavy))
    for column, sign in (4, -1), (5, 1):
        expected = frequency_factor("meV") * np.sqrt(
            np.maximum(spring * (inverse + sign * root), 0)
        )
        np.testing.assert_allclose(bands.frequencies[:, column], expected, rtol=0, atol=1e-5)
    assert bands.unit == "meV"


@pytest.mark.parametrize("atoms", [salt(), silicon()])
def test_frequencies_are_those_of_phonopy(atoms):
    reference = phonopy_of(atoms)
    bands = band_structure(spring_phonons(atoms), "GXWKGL,UX", points=60, unit="THz")
    reference.run_qpoints(bands.q.numpy())
    expected = reference.get_qpoints_dict()["frequencies"]
    away = (bands.q != 0).any(1).numpy()  # there phonopy has rounding, of 1e-6 THz
    np.testing.assert_allclose(bands.frequencies[away], expected[away], rtol=2e-7, atol=1e-7)
    np.testing.assert_allclose(bands.frequencies, expected, rtol=2e-7, atol=1e-4)


def test_embedded_model_at_commensurate_waves_is_phonopy_with_its_hessian_of_a_supercell():
    pytest.importorskip("phonopy")
    model, atoms = mf.load_model("embedded"), salt()
    reference = phonopy_of(atoms, (2, 2, 2))
    cell = reference.supercell
    s = mf.from_ase(Atoms(cell.symbols, cell.positions, cell=cell.cell, pbc=True), model)
    hessian = mf.hessian(mf.energy_fn(model, s.graph))(s.positions, s.cell, model.params)
    reference.force_constants = hessian.transpose(1, 2).numpy()
    q = np.array([[0.5, 0, 0], [0.5, 0.5, 0], [0.5, 0.5, 0.5], [0.5, 0, 0.5]])
    reference.run_qpoints(q)
    expected = reference.get_qpoints_dict()["frequencies"]
    bands = band_structure(phonons_of(model, atoms), q, unit="THz")
    np.testing.assert_allclose(bands.frequencies, expected, rtol=2e-7, atol=1e-7)


def test_standard_path_is_that_of_seekpath_for_the_cell_as_it_is():
    atoms = salt()
    bands = band_structure(spring_phonons(atoms), points=50)
    found = seekpath.get_path_orig_cell(
        (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    )
    names = [name for name, _ in found["path"]] + [found["path"][-1][1]]
    corners = dict(found["point_coords"])
    assert [label for _, label in bands.labels] == ["Γ", "X", "U", "K", "Γ", "L", "W", "X"]
    assert set(names) == {"GAMMA", "X", "K", "L", "W"}
    for index, label in bands.labels:
        corner = corners["GAMMA" if label == "Γ" else label]
        np.testing.assert_allclose(bands.q[index], corner, rtol=0, atol=1e-12)
    jump = bands.starts[1]
    assert bands.starts[0] == 0
    assert [label for index, label in bands.labels if index in (jump - 1, jump)] == ["U", "K"]
    assert bands.distance[jump] == bands.distance[jump - 1]
    assert (bands.frequencies[0, :3] == 0).all()


def test_primitive_and_conventional_cell_have_the_same_frequencies():
    from ase.build import bulk

    large = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    with pytest.warns(UserWarning, match="supercell"):
        folded = band_structure(spring_phonons(large), points=20)
    plain = band_structure(spring_phonons(salt()), points=20)
    np.testing.assert_allclose(folded.distance, plain.distance, rtol=1e-9)
    for one, many in zip(plain.frequencies, folded.frequencies, strict=True):
        assert (one[:, None] - many).abs().min(1).values.max() < 1e-4


def test_slabs_have_paths_in_their_plane():
    phonons = spring_phonons(graphene(a=2.9))
    bands = band_structure(phonons, points=30)
    assert [label for _, label in bands.labels] == ["Γ", "M", "K", "Γ"]
    assert (bands.q[:, 2] == 0).all()
    named = band_structure(phonons, "GMKG", points=30)
    torch.testing.assert_close(named.frequencies, bands.frequencies)


def test_an_array_is_taken_as_it_is():
    phonons = spring_phonons(salt())
    named = band_structure(phonons, "GXW", points=20)
    for path in named.q, named.q.numpy(), named.q.tolist():
        given = band_structure(phonons, path)
        assert given.labels == ()
        assert torch.equal(given.q, named.q)
        torch.testing.assert_close(given.distance, named.distance)
        torch.testing.assert_close(given.frequencies, named.frequencies)


def crossing():
    """Three bands that cross, of modes that do not mix, in axes where that is not seen."""
    atoms = Atoms("X", [[0, 0, 0]], cell=[2.0, 0, 0], pbc=[True, False, False])
    atoms.set_masses([1.0])
    axes = torch.linalg.qr(torch.arange(9.0).view(3, 3).double() + 3 * torch.eye(3)).Q

    def dynamical_matrix(q):
        cosine = torch.cos(2 * torch.pi * q[0])
        squares = torch.stack([3 - 2 * cosine, 3 + cosine, 2.5 + 0 * cosine])
        return (axes @ torch.diag(squares) @ axes.mT).to(torch.complex128)

    return replace(
        chain((1.0,)), atoms=atoms, masses=torch.ones(1).double(), dynamical_matrix=dynamical_matrix
    )


def test_connected_bands_cross():
    path = [("A", [0.1, 0, 0]), ("B", [0.4, 0, 0])]
    sorted_bands = band_structure(crossing(), path, points=61)
    bands = band_structure(crossing(), path, points=61, connected=True)
    assert not sorted_bands.connected
    assert bands.connected
    cosine = torch.cos(2 * torch.pi * bands.q[:, 0])
    expected = torch.stack([3 - 2 * cosine, 2.5 + 0 * cosine, 3 + cosine], 1).sqrt() * CM
    torch.testing.assert_close(bands.frequencies, expected)
    torch.testing.assert_close(sorted_bands.frequencies, expected.sort(1).values)
    torch.testing.assert_close(bands.eigenvectors, bands.eigenvectors[:1].expand(62, 3, 1, 3))


def test_connected_bands_go_straight_through_degenerate_points():
    # The crossing of the first two bands, at cos = 0, is one of the points.
    bands = band_structure(crossing(), [("A", [0.1, 0, 0]), ("B", [0.4, 0, 0])], connected=True)
    middle = 50
    assert bands.q[middle, 0] == pytest.approx(0.25)
    assert bands.frequencies[middle, 0] == pytest.approx(bands.frequencies[middle, 2])
    torch.testing.assert_close(bands.eigenvectors, bands.eigenvectors[:1].expand(101, 3, 1, 3))
    assert (bands.frequencies[:, 0].diff() > 0).all()
    assert (bands.frequencies[:, 2].diff() < 0).all()


def test_imaginary_modes_are_reported_with_their_waves():
    chained = chain((1.0,), spring=-2.0)
    bands = band_structure(chained, [("G", [0, 0, 0]), ("X", [0.5, 0, 0])], points=10)
    assert len(bands.imaginary_modes) == 10
    worst = bands.imaginary_modes[0]
    assert worst.frequency == pytest.approx(-CM * 2 * np.sqrt(2.0))
    assert worst.frequency == bands.frequencies.min()
    assert worst.q.tolist() == [0.5, 0, 0]
    torch.testing.assert_close(worst.eigenvector.abs(), torch.tensor([[1.0, 0, 0]]).double())
    assert not band_structure(spring_phonons(salt()), "GXWKGL").imaginary_modes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "GQ"}, r"unknown special points \['Q'\]: this lattice has G, K, L, U, W, X"),
        ({"path": "G"}, "at least two corners"),
        ({"path": [("G", [0, 0, 0])]}, "at least two corners"),
        ({"path": [("G", [0, 0, 0]), ("G", [0, 0, 0])]}, "the same point"),
        ({"path": [("G", [0, 0, 0]), ("X", [0, 0])]}, "a label and a wave vector"),
        ({"path": [[0, 0, 0.0, 0]]}, r"must be \(P, 3\)"),
        ({"path": torch.zeros(3)}, r"must be \(P, 3\)"),
        ({"path": {"G": 0}}, "a path is a string"),
        ({"path": "GX", "points": 1}, "at least 2"),
        ({"path": "GX", "unit": "Hz"}, "unknown unit of frequency"),
    ],
)
def test_bad_input_is_explained(options, message):
    with pytest.raises(ValueError, match=message):
        band_structure(spring_phonons(salt()), **options)


def test_molecules_and_structures_that_are_not_at_rest():
    loose = spring_phonons(salt(), largest_force=0.2)
    with pytest.warns(UserWarning, match=r"largest force is 0.2 eV/Å"):
        band_structure(loose, "GX", points=2)
    loose.atoms.pbc = False
    with pytest.raises(ValueError, match="a band structure needs a crystal"):
        band_structure(loose, "GX")
    with pytest.raises(ValueError, match="not periodic"):
        band_structure(spring_phonons(graphene(a=2.9)), [("G", [0, 0, 0]), ("A", [0, 0, 0.5])])
