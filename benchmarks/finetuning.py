"""Fine-tuning of the embedded model: with Hessian products, and with forces alone.

    python benchmarks/finetuning.py label --output FOLDER      structures, and the teacher's labels
    python benchmarks/finetuning.py train --output FOLDER      both trainings, of one time
    python benchmarks/finetuning.py test --output FOLDER       errors on structures held out
    python benchmarks/finetuning.py test --of calibration ...  errors that choices are made by
    python benchmarks/finetuning.py bars --output FOLDER       error bars beside these errors

The teacher is MACE-MP-0 small. `--family` chooses the structures of `finetuning_structures`. Both
trainings start from `--start`, see the same rattled and strained structures, and take the same
time: the one without products has more epochs. Seconds are processor times of one thread.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from finetuning_structures import FAMILIES, SHARED, Family

import mace_functional as mf
from mace_functional.support.atomic_write import atomic_write
from mace_functional.training import FineTuned, LabelledStructure, LossWeights
from mace_functional.uncertainty import (
    WeightPosterior,
    fit_posterior,
    uncertain_frequencies,
    uncertain_thermo,
)

TEACHER = SHARED / "weights" / "MACE-MP-0_small.model"
RATTLES = (0.02, 0.05, 0.1)
"""Standard deviations of random displacements, Å."""

STRAIN = 0.02
"""Standard deviation of the entries of random strains."""

TEMPERATURE = 300.0
"""Temperature of heat capacities, K."""

TESTED = 4
"""Number of rattled configurations of each structure held out."""

TRAININGS = "products", "forces"
"""The two trainings."""


def relaxed(model: mf.MaceModel, atoms: Atoms, seed: int) -> Atoms:
    """Relax positions and cell from a rattled structure, without symmetry."""
    atoms = atoms.copy()
    atoms.calc = None
    atoms.rattle(0.05, seed=seed)
    found = mf.relax(model, atoms, fmax=1e-4, relax_cell=True).atoms
    found.calc = None
    found.wrap()
    return found


def rattled(atoms: Atoms, sigma: float, strain: float, rng: np.random.Generator) -> Atoms:
    """Return a copy with random displacements and a random strain."""
    new = atoms.copy()
    random = strain * rng.normal(size=(3, 3))
    new.set_cell(atoms.cell.array @ (np.eye(3) + (random + random.T) / 2), scale_atoms=True)
    new.positions += sigma * rng.normal(size=new.positions.shape)
    return new


def label(folder: Path, family: Family) -> None:
    """Relax all structures with the teacher, and label configurations of them."""
    teacher = mf.load_model(TEACHER)
    single = teacher.to(dtype="float32")
    for kind, structures, n in (
        ("training", family.training(), family.configurations),
        ("held-out", family.held_out(), TESTED),
        ("calibration", family.calibration(), TESTED),
    ):
        for seed, (name, atoms) in enumerate(structures):
            path = folder / f"{kind}-{name}.pt"
            if path.exists():
                continue
            started, rng = time.perf_counter(), np.random.default_rng([seed, kind == "training"])
            rest = relaxed(teacher, atoms, seed)
            cells = [rattled(rest, RATTLES[k % len(RATTLES)], STRAIN, rng) for k in range(n)]
            labelled = mf.labelled_by(single, [rest, *cells], directions=4, seed=seed)
            modes = None
            if kind != "training":
                modes = mf.gamma_modes(teacher, rest).frequencies.tolist()
            with atomic_write(path) as partial:
                torch.save((labelled, modes), partial)
            seconds = time.perf_counter() - started
            print(f"{kind} {name}: {len(atoms)} atoms, {seconds:.0f} s", flush=True)


def labels(folder: Path, kind: str) -> dict[str, tuple[list[LabelledStructure], Any]]:
    """Read the labelled structures and the teacher's frequencies, by name."""
    paths = sorted(folder.glob(f"{kind}-*.pt"))
    return {p.stem.removeprefix(f"{kind}-"): torch.load(p, weights_only=False) for p in paths}


def train(folder: Path, model: str, epochs: int, rate: float, products: float) -> None:
    """Train with products, and without them for the same time."""
    data = [labelled for group, _ in labels(folder, "training").values() for labelled in group]
    start, exact = mf.load_model(model, dtype="float32"), mf.load_model(model)
    losses = dict(zip(TRAININGS, (LossWeights(products=w) for w in (products, 0.0)), strict=True))
    each = {name: seconds_per_epoch(start, data, loss) for name, loss in losses.items()}
    for name, loss in losses.items():
        n = round(epochs * each["products"] / each[name])
        print(f"{name}: {len(data)} structures, {n} epochs of {each[name]:.2f} s", flush=True)
        found = finetuned(start, data, loss, n, rate, folder / f"{name}-state.pt")
        weights = {k: found.potential.params[k].double() for k in found.weights}
        mf.save_model(exact.with_params(exact.params | weights), folder / f"{name}.safetensors")


def seconds_per_epoch(
    start: mf.MaceModel, data: list[LabelledStructure], loss: LossWeights
) -> float:
    """Return the processor time of an epoch, without what comes before the first."""
    times = []
    for epochs in 1, 3:
        begun = time.process_time()
        finetuned(start, data, loss, epochs, 1e-30)
        times.append(time.process_time() - begun)
    return (times[1] - times[0]) / 2


def finetuned(
    start: mf.MaceModel,
    data: list[LabelledStructure],
    loss: LossWeights,
    epochs: int,
    rate: float,
    state: Path | None = None,
) -> FineTuned:
    """Train without a validation set, so that all time is spent on steps."""
    return mf.finetune(
        start, data, validation=0, epochs=epochs, rate=rate, loss=loss, checkpoint=state
    )


def test(folder: Path, start: str, kind: str) -> None:
    """Print the errors of all models on the structures of a kind."""
    models = {Path(start).stem: mf.load_model(start)}
    models |= {name: mf.load_model(folder / f"{name}.safetensors") for name in TRAININGS}
    columns = [f"{m}: {c}" for m in models for c in ("meV", "meV/Å", "cm-1", "relaxed")]
    print(f"\n| | atoms | {' | '.join(columns)} |\n| --- |" + " ---: |" * (len(columns) + 1))
    totals: dict[str, list[np.ndarray]] = {}
    for name, (labelled, reference) in labels(folder, kind).items():
        cells = []
        for key, model in models.items():
            squares = errors(model, labelled, np.array(reference))
            totals.setdefault(key, []).append(squares)
            cells += [f"{1000 * x:.1f}" for x in np.sqrt(squares[:2])]
            cells += [f"{x:.1f}" for x in np.sqrt(squares[2:])]
        print(f"| {name} | {len(labelled[0].atoms)} | {' | '.join(cells)} |", flush=True)
    cells = []
    for squares in totals.values():
        rms = np.sqrt(np.mean(squares, axis=0))
        cells += [f"{1000 * x:.1f}" for x in rms[:2]] + [f"{x:.1f}" for x in rms[2:]]
    print(f"| all | | {' | '.join(cells)} |")


def errors(
    model: mf.MaceModel, labelled: list[LabelledStructure], reference: np.ndarray
) -> np.ndarray:
    """Return mean squared errors of energies per atom, forces, and frequencies.

    Frequencies are compared at the teacher's minimum, and at the minimum of each model.
    """
    energies, forces = [], []
    for one in labelled:
        s = mf.from_ase(one.atoms, model)
        energy, args = mf.energy_fn(model, s.graph), (s.positions, s.cell, model.params)
        energies.append((float(energy(*args)) - (one.energy or 0.0)) / len(one.atoms))
        forces.append(np.square(mf.forces(energy)(*args).numpy() - one.forces).mean())
    rest = labelled[0].atoms
    squares = []
    for atoms in rest, minimum(model, rest):
        found = mf.gamma_modes(model, atoms).frequencies.numpy()
        squares.append(np.square(found - reference).mean())
    return np.array([np.square(energies).mean(), np.mean(forces), *squares])


def bars(folder: Path) -> None:
    """Print how error bars of the last layers cover the errors on the structures held out.

    Scale and prior are those of the forces of the structures for calibration. Minima are predicted
    better than displaced structures, so the bars are scaled by the frequencies of the former.
    """
    model = mf.load_model(folder / "products.safetensors")
    data = [labelled for group, _ in labels(folder, "training").values() for labelled in group]
    held = [labelled for group, _ in labels(folder, "calibration").values() for labelled in group]
    loss = LossWeights(products=0)
    started = time.process_time()
    posterior, calibration = fit_posterior(model, data, held, loss=loss)
    print(f"{posterior}, {time.process_time() - started:.0f} s\n{calibration}", flush=True)
    scale = coverage(folder, "calibration", model, posterior)
    posterior = posterior.scaled(scale)
    posterior.save(folder / "posterior.npz")
    print(f"\nbars times {scale:.3f}:", flush=True)
    coverage(folder, "held-out", model, posterior)


def coverage(folder: Path, kind: str, model: mf.MaceModel, posterior: WeightPosterior) -> float:
    """Print errors of frequencies and heat capacities in units of their error bars.

    Returns:
        The root mean square of those of frequencies.
    """
    print(f"\n| {kind} | cm-1, error | bar | within 1, 2 | Cv, J/(g K) | error | bar | s |")
    print("| --- |" + " ---: |" * 7)
    all_z: dict[str, list[torch.Tensor]] = {"frequencies": [], "Cv": []}
    for name, (labelled, reference) in labels(folder, kind).items():
        started = time.process_time()
        rest = minimum(model, labelled[0].atoms)
        options = {"response": "cell"}
        found = uncertain_frequencies(model, rest, posterior, **options)
        error = found.frequencies - torch.tensor(reference, dtype=torch.float64)
        z = (error / found.spread).abs()
        thermo = uncertain_thermo(model, rest, posterior, TEMPERATURE, **options)
        masses = rest.get_masses().tolist()
        theirs = mf.harmonic_thermo(reference, [TEMPERATURE]).specific_heat_capacity(masses)[0]
        cv, spread = (t.specific_heat_capacity() for t in (thermo.thermo, thermo.spread))
        all_z["frequencies"].append(z)
        all_z["Cv"].append(((cv - theirs) / spread).abs().reshape(1))
        shares = [f"{float((z < k).double().mean()):.0%}" for k in (1, 2)]
        rms = [float(t.square().mean().sqrt()) for t in (error, found.spread)]
        cells = [f"{rms[0]:.1f}", f"{rms[1]:.1f}", ", ".join(shares), f"{float(cv):.4f}"]
        cells += [f"{float(cv - theirs):+.4f}", f"{float(spread):.4f}"]
        seconds = time.process_time() - started
        print(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)
    rms_z = {}
    for name, parts in all_z.items():
        z = torch.cat(parts)
        shares = [f"{float((z < k).double().mean()):.1%}" for k in (1, 2)]
        rms_z[name] = float(z.square().mean().sqrt())
        print(f"{name}: {len(z)}, within 1, 2 bars {', '.join(shares)}, rms z {rms_z[name]:.2f}")
    return rms_z["frequencies"]


def minimum(model: mf.MaceModel, atoms: Atoms) -> Atoms:
    """Return the minimum of a model that is near that of the teacher."""
    found = mf.relax(model, atoms, fmax=1e-3, relax_cell=True).atoms
    found.calc = None
    return found


def main() -> None:
    """Run from the command line."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=["label", "train", "test", "bars"])
    parser.add_argument("--family", choices=list(FAMILIES), default="polytypes")
    parser.add_argument("--output", type=Path, required=True, help="folder for all results")
    parser.add_argument("--start", default="embedded", help="model to train (%(default)s)")
    parser.add_argument("--products", type=float, default=1.0, help="their weight (%(default)s)")
    parser.add_argument("--of", choices=["held-out", "calibration"], default="held-out")
    parser.add_argument("--epochs", type=int, default=60, help="with products (%(default)s)")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate (%(default)s)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if options.part == "label":
        label(options.output, FAMILIES[options.family])
    elif options.part == "train":
        train(options.output, options.start, options.epochs, options.rate, options.products)
    elif options.part == "test":
        test(options.output, options.start, options.of)
    else:
        bars(options.output)


if __name__ == "__main__":
    main()
