"""Do standard errors of stochastic_thermo mean what they say? Many seeds against exact values.

    python benchmarks/coverage.py                      quartz, 243 atoms, 200 seeds, 10 to 1000 K
    python benchmarks/coverage.py --structure MOF-5 --repeats 3 --rel-error 1.5e-3
    python benchmarks/coverage.py --probing            errors of colours and of Lanczos steps

The Hessian of n x n x n cells is one of D(q) at the n x n x n wave vectors of the mesh. Products
with it are Fourier transforms and products of small matrices, and its eigenvalues are those of all
D(q). Only the first calculation of D(q) needs the potential. Runs that end with the whole matrix
have no errors, and are counted alone.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from ase import Atoms
from rich.console import Console
from rich.table import Table
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

import mace_functional as mf
from mace_functional.stochastic.hessian import VibrationalHessian
from mace_functional.stochastic.lanczos import Lanczos
from mace_functional.stochastic.passes import bracket
from mace_functional.stochastic.probes import colours, probes
from mace_functional.stochastic.sampling import Sampling
from mace_functional.stochastic.spectral_functions import SpectralFunctions

NAMES = "Cv", "S", "F", "U"
"""Functions in the order of `SpectralFunctions`."""


class PeriodicHessian:
    """The mass-weighted Hessian of n x n x n cells, as D(q) on the mesh of wave vectors.

    Args:
        phonons: Phonons of the primitive cell.
        n: Number of cells in each direction.

    Attributes:
        matrices: D(q), hermitian, (n, n, n, d, d).
        hessian: The same for `Sampling`.
    """

    def __init__(self, potential: mf.Potential, phonons: mf.Phonons, n: int) -> None:
        q = torch.cartesian_prod(*[torch.fft.fftfreq(n, dtype=torch.float64)] * 3)
        d = torch.stack([phonons.dynamical_matrix(wave) for wave in q])
        self.matrices = ((d + d.mH) / 2).reshape(n, n, n, *d.shape[1:])
        self.atoms, self.n = phonons.atoms.repeat(n), n
        self._half = self.matrices[:, :, : n // 2 + 1].contiguous()
        size = 3 * len(self.atoms)
        operator = LinearOperator(
            (size, size), matvec=self._columns, matmat=self._columns, dtype=np.float64
        )
        self.hessian = VibrationalHessian(potential, self.atoms, what="coverage", operator=operator)

    def _columns(self, columns: np.ndarray) -> np.ndarray:
        n, d = self.n, self.matrices.shape[-1]
        x = torch.as_tensor(columns, dtype=torch.float64).reshape(n, n, n, d, -1)
        product = self._half @ torch.fft.rfftn(x, dim=(0, 1, 2))
        back = torch.fft.irfftn(product, s=(n, n, n), dim=(0, 1, 2))
        return back.reshape(columns.shape).numpy()

    def eigenvalues(self) -> Tensor:
        """Return all eigenvalues but those of rigid motions, (3N - r,)."""
        values = torch.linalg.eigvalsh(self.matrices).reshape(-1)
        return values[values.abs().argsort()[self.hessian.n_rigid :]]

    def function(self, functions: SpectralFunctions) -> Tensor:
        """Return the first function of the Hessian, between the first cell and all, (n^3, d, d)."""
        values, vectors = torch.linalg.eigh(self.matrices)
        of_q = (vectors * functions(values)[0][..., None, :]) @ vectors.mH
        return torch.fft.fftn(of_q, dim=(0, 1, 2)).real / self.n**3


def coverage(system: PeriodicHessian, t: float, seeds: int, options: dict) -> list[list[str]]:
    """Return the rows of the table at one temperature."""
    temperatures = torch.tensor([t], dtype=torch.float64)
    exact = SpectralFunctions(temperatures)(system.eigenvalues()).sum(-1)[:4]
    errors, deviations, products = [], [], []
    for seed in range(seeds):
        sampling = Sampling(
            system.hessian, temperatures, seed=seed, path=None, progress=False, **options
        )
        found = sampling.run()
        if found is not None:
            errors.append(found.error()[:4])
            deviations.append(found.value[:4] - exact)
            products.append(float(sampling.n_products))
    if not errors:
        return [[f"{len(system.atoms)}", f"{t:g}", f"0 of {seeds}", *[""] * 7]]
    error, deviation = torch.stack(errors), torch.stack(deviations)
    z = deviation / error
    return [
        [
            f"{len(system.atoms)}",
            f"{t:g}",
            f"{len(z)} of {seeds}",
            f"{np.mean(products):.0f}",
            name,
            f"{100 * float((z[:, k].abs() <= 1).double().mean()):.0f}",
            f"{100 * float((z[:, k].abs() <= 2).double().mean()):.0f}",
            f"{float(z[:, k].square().mean().sqrt()):.2f}",
            f"{float(z[:, k].mean()):+.2f}",
            f"{100 * float((error[:, k] / exact[k].abs()).mean()):.3f}",
        ]
        for k, name in enumerate(NAMES)
    ]


def print_probing(system: PeriodicHessian, t: float, console: Console) -> None:
    """Print what colours and Lanczos steps leave of the heat capacity."""
    functions, n_atoms = (
        SpectralFunctions(torch.tensor([t], dtype=torch.float64)),
        len(system.atoms),
    )
    n, atoms = system.n, system.atoms
    blocks, trace = system.function(functions), float(functions(system.eigenvalues())[0].sum())
    cells = torch.cartesian_prod(*[torch.arange(n)] * 3)
    table = Table("colours", "vectors", "error of Cv times sqrt(N)")
    for count in (1, 2, 3, 4, 6, 8, 12, 16):
        colour = colours(atoms.positions, atoms.cell.array, atoms.pbc, count)
        group = (3 * torch.as_tensor(colour)[:, None] + torch.arange(3)).reshape(n, n, n, -1)
        squares = 0.0
        for cell in cells:
            others = (cells - cell) % n
            mine = group[tuple(cell)]
            f = blocks[tuple(others.T)]  # F(R, R') depends on R' - R
            same = mine[:, None] == group.reshape(len(cells), 1, -1)
            squares += float((f.square() * same).sum())
            squares -= float(blocks[0, 0, 0].diagonal().square().sum())
        error = (2 * squares) ** 0.5 / trace * n_atoms**0.5
        table.add_row(f"{count}", f"{3 * count}", f"{error:.2g}")
    console.print(table)
    start = system.hessian.project(probes(None, n_atoms, torch.Generator().manual_seed(0)))
    lanczos = Lanczos(system.hessian.multiply, start)
    for _ in range(30):
        lanczos.step()
    exact = float(lanczos.gauss().sums(functions)[0])
    table = Table("products", "Gauss", "middle of the bracket")
    for steps in range(3, 9):
        ends = [float(end[0]) for end in bracket(lanczos, functions, steps)]
        table.add_row(
            f"{steps}", f"{ends[0] / exact - 1:.1e}", f"{(ends[0] + ends[1]) / 2 / exact - 1:.1e}"
        )
    console.print(table)


def main() -> None:
    """Compute D(q), run all seeds, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structure", default="quartz")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[10, 100, 300, 1000])
    parser.add_argument("--rel-error", type=float, default=1e-2)
    parser.add_argument("--entropy-error", type=float)
    parser.add_argument("--max-products", type=int, default=1_000_000)
    parser.add_argument("--probing", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    potential = mf.load_model(arguments.model)
    cell = mf.relax(potential, mf.example_structure(arguments.structure), fmax=1e-3).atoms
    cell = Atoms(cell.numbers, cell.positions, cell=cell.cell, pbc=cell.pbc)
    system = PeriodicHessian(potential, mf.phonons_of(potential, cell), arguments.repeats)
    console = Console(width=120)
    if arguments.probing:
        print_probing(system, arguments.temperatures[0], console)
        return
    options = {
        "rel_error": arguments.rel_error,
        "entropy_error": arguments.entropy_error,
        "max_products": arguments.max_products,
    }
    columns = (
        "atoms",
        "K",
        "sampled",
        "products",
        "",
        "in 1 SE, %",
        "in 2 SE, %",
        "rms",
        "mean",
        "SE, %",
    )
    table = Table(*columns)
    for t in arguments.temperatures:
        for row in coverage(system, t, arguments.seeds, options):
            table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
