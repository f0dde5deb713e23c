"""Losses are those of mace-torch, and products estimate the error of the whole Hessian."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from energies import MODELS, crystal, load
from helpers import assert_close, mostly_slow
from mace.modules.loss import WeightedEnergyForcesStressLoss
from mace.tools.torch_geometric.batch import Batch
from models import build, molecule
from torch import Tensor
from torch.func import grad

import mace_functional as mf
from mace_functional.training import Curvature, LabelledStructure, labelled_by
from mace_functional.training.label_batches import Example, LabelBatch, batches_of, counts_of
from mace_functional.training.losses import LossTerms, LossWeights, huber, weighted_loss
from mace_functional.training.predictions import predictions_fn


@pytest.fixture(scope="module")
def model() -> mf.MaceModel:
    return mf.load_model(build())


def structures() -> list[Atoms]:
    """Two crystals of one composition, a smaller cell and two molecules."""
    large, other = crystal().repeat((2, 1, 1)), crystal().repeat((2, 1, 1))
    other.rattle(0.05, seed=8)
    moved = molecule()
    moved.rattle(0.05, seed=9)
    return [large, molecule(), crystal(), other, moved]


def labels(model: mf.MaceModel, directions: int | None = 2) -> list[LabelledStructure]:
    """Labels of another model, with a weight each."""
    other = mf.load_model(build(seed=7))
    found = labelled_by(other, structures(), directions=directions)
    return [
        LabelledStructure(k.atoms, k.energy, k.forces, k.stress, k.curvature, weight=0.5 + n)
        for n, k in enumerate(found)
    ]


def sums(
    model: mf.MaceModel, params: dict[str, Tensor], batches: list[LabelBatch], loss: LossWeights
) -> LossTerms:
    terms = [b.squares(model, params, loss) for b in batches]
    return LossTerms(*(torch.stack(column).sum() for column in zip(*terms, strict=True)))


@pytest.mark.parametrize("name", mostly_slow(MODELS, ["default"]))
def test_predictions_are_those_of_the_transforms(name):
    model, atoms = load(name), crystal()
    s = mf.from_ase(atoms, model)
    energy, args = mf.energy_fn(model, s.graph), (s.positions, s.cell, model.params)
    v = torch.sin(torch.arange(s.positions.numel(), dtype=s.positions.dtype)).view_as(s.positions)
    found = predictions_fn(energy, stress=True, product=True)(*args, v)
    assert_close(found["energy"], energy(*args))
    assert_close(found["forces"], mf.forces(energy)(*args), 1e-11)
    assert_close(found["stress"], mf.stress(energy)(*args), 1e-11)
    assert_close(found["product"], mf.hvp(energy)(*args, v), 1e-11)
    alone = predictions_fn(energy)(*args)
    assert alone.keys() == {"energy", "forces"}
    assert_close(alone["forces"], found["forces"], 1e-11)


def test_loss_is_that_of_mace_torch(model):
    data = labels(model, directions=0)
    weights = LossWeights(energy=3.0, forces=7.0, stress=11.0, products=0.0)
    examples = [Example.of(labelled, model) for labelled in data]
    batches = batches_of(examples, np.random.default_rng(0), products=False)
    assert sorted(b.atoms for b in batches) == [(2, 4, 4), (8, 8)]
    found = weighted_loss(sums(model, model.params, batches, weights), counts_of(examples), weights)

    crystals = [e for e in examples if e.labelled.stress is not None]
    predicted: dict[str, list[Tensor]] = {"energy": [], "forces": [], "stress": []}
    for e in examples:
        s = e.structure
        p = predictions_fn(mf.energy_fn(model, s.graph), stress=bool(e.labelled.atoms.pbc.all()))
        values = p(s.positions, s.cell, model.params)
        for name, value in values.items():
            predicted[name].append(value)

    def reference(chosen: list[Example]) -> Batch:
        sizes = torch.tensor([len(e.labelled.atoms) for e in chosen])
        ones = torch.ones(len(chosen), dtype=torch.float64)
        stresses = [
            np.zeros((3, 3)) if e.labelled.stress is None else e.labelled.stress for e in chosen
        ]
        return Batch(
            ptr=torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]),
            batch=torch.repeat_interleave(torch.arange(len(chosen)), sizes),
            energy=torch.tensor([e.labelled.energy for e in chosen], dtype=torch.float64),
            forces=torch.as_tensor(np.concatenate([e.labelled.forces for e in chosen])),
            stress=torch.as_tensor(np.array(stresses)),
            weight=torch.tensor([e.labelled.weight for e in chosen], dtype=torch.float64),
            energy_weight=ones,
            forces_weight=ones,
            stress_weight=ones,
        )

    def theirs(chosen: list[Example], **terms: float) -> Tensor:
        names = ("energy_weight", "forces_weight", "stress_weight")
        loss = WeightedEnergyForcesStressLoss(**{n: terms.get(n, 0.0) for n in names})
        stress = torch.stack(predicted["stress"]) if chosen is crystals else torch.zeros(5, 3, 3)
        energy = torch.stack(predicted["energy"])
        forces = torch.cat(predicted["forces"])
        if chosen is crystals:
            n = [len(e.labelled.atoms) for e in crystals]
            energy, forces = torch.zeros(len(n)), torch.zeros(sum(n), 3)
        return loss(reference(chosen), {"energy": energy, "forces": forces, "stress": stress})

    expected = theirs(examples, energy_weight=3.0, forces_weight=7.0)
    expected = expected + theirs(crystals, stress_weight=11.0)  # mace-torch would count molecules
    assert_close(found, expected, 1e-10)


def test_batches_give_the_sums_and_gradients_of_single_structures(model):
    data = labels(model)
    weights = LossWeights(energy=3.0, forces=7.0, stress=11.0, products=0.5, forces_threshold=0.1)
    examples = [Example.of(labelled, model) for labelled in data]
    batches = batches_of(examples, np.random.default_rng(0), products=True)
    assert max(len(b.atoms) for b in batches) > 1
    rng = np.random.default_rng(0)
    singles = [b for e in examples for b in batches_of([e], rng, products=True)]

    def loss(params: dict[str, Tensor], parts: list[LabelBatch]) -> Tensor:
        return weighted_loss(sums(model, params, parts, weights), counts_of(examples), weights)

    assert_close(loss(model.params, batches), loss(model.params, singles), 1e-11)
    one, other = (grad(loss)(model.params, parts) for parts in (batches, singles))
    for name in model.weights:
        assert_close(one[name], other[name], 1e-9)


def test_a_random_product_is_an_unbiased_estimate_of_the_error_of_the_hessian(model):
    """The mean over all signs is the squared Frobenius norm, whatever the directions."""
    atoms = crystal()
    s = mf.from_ase(atoms, model)
    energy = mf.energy_fn(model, s.graph)
    hessian = mf.hessian(energy)(s.positions, s.cell, model.params).reshape(6, 6)
    wrong = hessian.numpy() + np.diag([0.3, 0.1, 0.4, 0.1, 0.5, 0.9])
    error = ((wrong - hessian.numpy()) ** 2).sum()
    with pytest.warns(UserWarning, match="sum to"):
        whole = Curvature.of_hessian(wrong)
    columns = wrong.reshape(6, 2, 3)[3:].reshape(1, 3, 2, 3)
    with pytest.warns(UserWarning, match="sum to"):
        atom = Curvature.of_columns([1], columns)
    of_atom = 2 * (0.1**2 + 0.5**2 + 0.9**2)  # scaled to as many columns as the whole has

    class AllSigns:
        def __init__(self) -> None:
            self.left = iter(())

        def choice(self, values: list[float], n: int) -> np.ndarray:
            if (signs := next(self.left, None)) is None:
                self.left = itertools.product([-1.0, 1.0], repeat=n)
                signs = next(self.left)
            return np.array(signs)

    for curvature, expected in (whole, error), (atom, of_atom):
        example = Example.of(LabelledStructure(atoms, curvature=curvature), model)
        rng, total, n = AllSigns(), 0.0, 2 ** len(curvature.directions)
        for _ in range(n):
            (batch,) = batches_of([example], rng, products=True)
            total += float(batch.squares(model, model.params, LossWeights()).products)
        assert total / n == pytest.approx(expected, rel=1e-10)


def test_labels_that_are_missing_do_not_count(model):
    atoms = structures()
    full = labelled_by(mf.load_model(build(seed=7)), atoms, directions=1)
    parts = [
        LabelledStructure(full[0].atoms, energy=full[0].energy),
        LabelledStructure(full[3].atoms, forces=full[3].forces),
        LabelledStructure(full[2].atoms, stress=full[2].stress, forces=full[2].forces),
    ]
    examples = [Example.of(p, model) for p in parts]
    assert [float(n) for n in counts_of(examples)] == [1, 18, 9, 0]
    batches = batches_of(examples, np.random.default_rng(0), products=True)
    found = sums(model, model.params, batches, LossWeights())
    alone = [
        sums(
            model,
            model.params,
            batches_of([e], np.random.default_rng(0), products=True),
            LossWeights(),
        )
        for e in (Example.of(full[k], model) for k in (0, 3, 2))
    ]
    assert_close(found.energy, alone[0].energy, 1e-11)
    assert_close(found.forces, alone[1].forces + alone[2].forces, 1e-11)
    assert_close(found.stress, alone[2].stress, 1e-11)
    assert float(found.products) == 0


def test_hubers_function_is_a_square_and_then_its_tangent():
    x = torch.tensor([-3.0, -0.5, 0.0, 0.2, 0.5, 2.0], dtype=torch.float64)
    theirs = torch.nn.functional.huber_loss(x, torch.zeros_like(x), reduction="none", delta=0.5)
    assert_close(huber(x, 0.5), 2 * theirs)
    assert_close(huber(x, None), x**2)
    assert torch.isfinite(grad(lambda y: huber(y, 0.5).sum())(x)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy": -1.0}, "weight of energy must be 0 or more"),
        ({"forces": float("nan")}, "weight of forces"),
        (
            {"energy": 0, "forces": 0, "stress": 0, "products": 0},
            "all weights of the loss are zero",
        ),
        ({"forces_threshold": 0.0}, "forces_threshold"),
    ],
)
def test_weights_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LossWeights(**options)
