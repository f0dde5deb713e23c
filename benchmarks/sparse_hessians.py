"""Sparse Hessians: errors and bounds of truncated ones, products, time and memory of large cells.

    python benchmarks/sparse_hessians.py bounds      nine structures, embedded model
    python benchmarks/sparse_hessians.py large       MOF-5, 848 atoms, embedded model

Structures are read from `../shared`, or from `$MACE_FUNCTIONAL_SHARED`.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms

import mace_functional as mf
from mace_functional.sparse.colouring import coloured
from mace_functional.sparse.hop_graph import one_hop, within_hops
from mace_functional.units import FREQUENCY_UNITS, K_B, vibrational_quantum

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MACE_FUNCTIONAL_SHARED", ROOT.parent / "shared"))
FRAMEWORKS = SHARED / "heatcapacity"
TEMPERATURE = 300.0


def structures(model: mf.MaceModel) -> Iterator[tuple[str, Atoms]]:
    """Return the structures of `bounds`; MOF-5 is relaxed, the others are as published."""
    yield "quartz 2x2x2", ase.io.read(SHARED / "awkward/quartz_4digits.vasp").repeat((2, 2, 2))
    yield "AFI", ase.io.read(FRAMEWORKS / "structures/AFI.cif")
    yield "RSM0010 3x1x1", ase.io.read(FRAMEWORKS / "relaxed/RSM0010.xyz").repeat((3, 1, 1))
    yield "RSM0062 2x1x1", ase.io.read(FRAMEWORKS / "structures/RSM0062.cif").repeat((2, 1, 1))
    yield "13180N3", ase.io.read(FRAMEWORKS / "structures/13180N3.cif")
    yield "ZnO 3x3x2", ase.io.read(SHARED / "awkward/zno_4digits.cif").repeat((3, 3, 2))
    yield "corundum 2x2x1", ase.io.read(SHARED / "awkward/corundum_good.cif").repeat((2, 2, 1))
    yield "sodalite 2x1x1", mf.example_structure("sodalite").repeat((2, 1, 1))
    yield "MOF-5", relaxed_mof(model)


def relaxed_mof(model: mf.MaceModel) -> Atoms:
    """Return the primitive cell of MOF-5 at its minimum."""
    return mf.relax(model, mf.example_structure("MOF-5"), fmax=1e-3).atoms


def heat_capacity(matrix: np.ndarray, rigid: np.ndarray) -> float:
    """Return Cv in k_B; c(y) is continued by its tangent where modes are imaginary."""
    inner = matrix - rigid @ (rigid.T @ matrix)
    inner = inner - (inner @ rigid) @ rigid.T
    values = np.linalg.eigvalsh((inner + inner.T) / 2)
    values = np.delete(values, np.argsort(np.abs(values))[: rigid.shape[1]])
    quantum = vibrational_quantum("meV") * FREQUENCY_UNITS["meV"] / (K_B * TEMPERATURE)
    x = quantum * np.sqrt(np.maximum(values, 1e-12))
    above = (x / 2 / np.sinh(x / 2)) ** 2
    return float(np.where(values > 0, above, 1 - quantum**2 * values / 12).sum())


def bounds() -> None:
    """Print the error of the heat capacity and its bound for one to three hops."""
    model = mf.load_model("embedded")
    print("| | atoms | k | from | products | 3N | error | bound | holds |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | --- |")
    for name, atoms in structures(model):
        exact = mf.sparse_hessian(model, atoms, method="products")
        full, step = exact.mass_weighted().toarray(), one_hop(exact.structure.topology)
        expected = heat_capacity(full, exact.rigid)
        for hops in (1, 2, 3):
            if within_hops(step, hops).nnz == exact.matrix.data.shape[0]:
                break
            for method in ("products", "local"):
                result = mf.sparse_hessian(model, atoms, hops=hops, method=method)
                found = heat_capacity(result.mass_weighted().toarray(), result.rigid)
                bound = result.truncation.heat_capacity(TEMPERATURE).bound / K_B
                print(
                    f"| {name} | {len(atoms)} | {hops} | {method} | {result.n_products} | "
                    f"{3 * len(atoms)} | {1e3 * (found / expected - 1):+.4f} ‰ | "
                    f"{1e3 * bound / expected:.3f} ‰ | {abs(found - expected) <= bound} |",
                    flush=True,
                )


def large(repeat: int) -> None:
    """Print colours, processor time and memory for MOF-5, and the difference to products."""
    model = mf.load_model("embedded")
    atoms = relaxed_mof(model).repeat(repeat)
    step = one_hop(model.structure(atoms).topology)
    for hops in (1, 2, 3, 4):
        pattern = within_hops(step, hops)
        share = pattern.nnz / len(atoms) ** 2
        products = 3 * (int(coloured(pattern).max()) + 1)
        print(f"{hops} hops: {100 * share:.1f} % of the blocks, {products} products", flush=True)

    started = time.process_time()
    result = mf.sparse_hessian(model, atoms)
    print(result)
    print(f"{time.process_time() - started:.0f} s of one core, {peak_memory():.2f} GiB", flush=True)

    started = time.process_time()
    print(result.lowest_modes(10), f"{time.process_time() - started:.1f} s", flush=True)

    exact = mf.HessianOperator.from_potential(model, atoms, mass_weighted=False)
    vectors = torch.randn(3 * len(atoms), 18, dtype=torch.float64)
    first = exact @ vectors[:, 0]
    started = time.process_time()
    products = torch.cat([first[:, None], exact @ vectors[:, 1:]], dim=1).numpy()
    seconds = (time.process_time() - started) / 17
    difference = np.abs(result.matrix @ vectors.numpy() - products).max() / np.abs(products).max()
    print(f"relative difference to 18 products of random vectors: {difference:.1e}")
    print(f"{3 * len(atoms) * seconds:.0f} s for all columns by products, {peak_memory():.2f} GiB")


def peak_memory() -> float:
    """Return the largest memory that this process has taken, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["bounds", "large"])
    parser.add_argument("--repeat", type=int, default=2, help="cells along each lattice vector")
    options = parser.parse_args()
    bounds() if options.what == "bounds" else large(options.repeat)
