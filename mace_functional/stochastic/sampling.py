"""Sampling: passes are added until the errors are as small as asked for.

The first short pass takes Lanczos steps until the bracket of the heat capacity is narrow enough, up
to `SHORT_STEPS`. Where it then is not, or that of the entropy, a second stage of long iterations
from single vectors corrects the short ones. Passes are added to the stage where a product reduces
the variance of the least accurate result most, as many as its error so far asks for, until all
errors are small enough, or until the columns of the Hessian would take fewer products.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.status import Status
from torch import Tensor

from mace_functional.stochastic.hessian import VibrationalHessian
from mace_functional.stochastic.passes import Bracket, Estimate, Stage
from mace_functional.stochastic.probes import colours
from mace_functional.stochastic.saved_stages import read_stages, write_stages
from mace_functional.stochastic.spectral_functions import SpectralFunctions
from mace_functional.units import K_B

SCATTER = {1: 0.39, 2: 0.17, 3: 0.081, 4: 0.048, 6: 0.022, 8: 0.012, 12: 0.0062, 16: 0.0035}
"""Relative standard error of Cv after one pass, times sqrt(N), for each number of colours.

Measured on MOF-5 at 300 K (embedded model, 2 862 atoms). It only chooses the number of colours of
the first passes: the errors that are reported are measured in each run.
"""

SPARE = 0.8
"""Share of the error that two passes are meant to have by `SCATTER`."""

SHORT_STEPS = 12
"""Largest number of Lanczos steps of the short iterations.

Functions that need more are corrected by the long ones. In MOF-5, 12 steps are enough for Cv above
100 K.
"""

LONG_STEPS = 400
"""Largest number of Lanczos steps of the long iterations.

The entropy of MOF-5 at 300 K has errors of 1 % after 40 and 0.3 % after 60 steps.
"""

BRACKET_SHARE = 0.5
"""Largest half-width of the bracket of a quadrature, in units of the error that is asked for."""

SMALLEST = 1e-4
"""Share of k_B per mode below which heat capacities and entropies have no error of their own.

Their error is relative to this share then.
"""

MOST_PASSES = 4
"""Number of short passes above which as many passes with twice the colours replace them.

Twice the colours halve the variance at least, and usually divide it by 8.
"""

DENSE_ROWS = 6000
"""Largest number of rows of a Hessian that is computed where this takes fewer products.

A matrix of 6 000 rows takes 0.3 GB.
"""

LEAST_STEPS = 4
"""Number of Lanczos steps that short passes take at least, to estimate what they cost."""


class Sampling:
    """The passes of one calculation.

    Args:
        hessian: The mass-weighted Hessian.
        temperatures: Temperatures in K, (T,).
        rel_error: Largest relative standard error of the heat capacities.
        entropy_error: The same of the entropies; None for any.
        max_products: Largest number of products.
        seed: Seed of the random signs.
        path: Checkpoint, or None.
        progress: Show a line of progress.

    Attributes:
        stages: The stage of short passes, and that of long ones if it was needed.
        converged: True if the errors are as small as asked for.
    """

    def __init__(
        self,
        hessian: VibrationalHessian,
        temperatures: Tensor,
        *,
        rel_error: float,
        entropy_error: float | None,
        max_products: int,
        seed: int,
        path: Path | None,
        progress: bool,
    ) -> None:
        self._hessian, self._functions = hessian, SpectralFunctions(temperatures)
        self._max_products, self._seed, self._path = max_products, seed, path
        self._progress = progress
        n, warm = len(temperatures), temperatures > 0
        self._n_temperatures = n
        self._shares = torch.full((self._functions.count,), torch.inf, dtype=torch.float64)
        self._shares[:n][warm] = rel_error
        if entropy_error is not None:
            self._shares[n : 2 * n][warm] = entropy_error
        spared = SPARE * rel_error * (2 * hessian.n_atoms) ** 0.5
        wanted = next((c for c, s in SCATTER.items() if s <= spared), max(SCATTER))
        self._n_colours = max(1, min(wanted, max_products // (2 * 3 * LEAST_STEPS)))
        self._identity = {
            "positions": hessian.positions,
            "cell": hessian.cell,
            "numbers": hessian.numbers,
            "masses": hessian.masses,
            "temperatures": temperatures.numpy(),
            "rel_error": np.array(rel_error),
            "entropy_error": np.array(-1.0 if entropy_error is None else entropy_error),
            "seed": np.array(seed),
        }
        self._n_discarded = 0
        self._planned = 0.0
        self.stages: list[Stage] = []
        self.converged = False

    @property
    def n_products(self) -> int:
        """Number of products of all passes."""
        return self._n_discarded + sum(stage.n_products for stage in self.stages)

    def run(self) -> Estimate | None:
        """Make the passes that are needed.

        Returns:
            The traces of all functions, or None if the Hessian takes fewer products.

        Raises:
            ValueError: If `max_products` is too small for two passes, or the checkpoint belongs to
                another calculation.
        """
        if self._hessian.n_modes == 0:
            return None
        short = self._stage(0)
        if self._dense_pays(2 * LEAST_STEPS * short.n_vectors):
            return None
        most_steps = min(SHORT_STEPS, self._max_products // (2 * short.n_vectors))
        if most_steps < LEAST_STEPS:
            raise ValueError(
                f"max_products must be at least {2 * LEAST_STEPS * short.n_vectors}: two passes "
                f"with {short.n_vectors} vectors of {LEAST_STEPS} Lanczos steps each"
            )
        self.stages = [short]
        self._read()
        with Console(stderr=True, quiet=not self._progress).status("first pass") as status:
            while self.stages[0].n_passes < 2:
                self._add_pass(self.stages[0], most_steps, status)
            if self._needs_long_passes():
                if self._dense_pays(self.n_products + self.stages[0].steps):
                    return None
                self._add_long_pass(status)
            while True:
                totals = self._totals()
                targets = self._targets_of(totals.value)
                ratios = totals.error() / targets
                worst = int(ratios.argmax())
                self.converged = bool(ratios[worst] <= 1)
                hopeless = totals.systematic[worst].abs() > 3**0.5 * targets[worst]
                if self.converged or hopeless:
                    return totals
                if not self._improve(worst, float(targets[worst]), status):
                    return None if self._dense_pays(self._planned) else totals

    def _add_long_pass(self, status: Status) -> None:
        """Make a long pass, if the products allow more steps than those of short passes."""
        base = self.stages[0].steps
        if len(self.stages) == 1:
            self.stages.append(self._stage(base))
        long = self.stages[1]
        most_steps = min(LONG_STEPS, self._max_products - self.n_products)
        if most_steps <= base and not long.n_passes:
            self.stages.pop()
            return
        if not long.n_passes:
            self._add_pass(long, most_steps, status)

    def _improve(self, worst: int, target: float, status: Status) -> bool:
        """Make the passes that a function needs; False if none is allowed, or the Hessian pays.

        Their number is planned from the errors so far, and made without a look at errors between:
        stopping as soon as an error happens to look small would favour errors that are too small.
        """
        stage = max(self.stages, key=lambda s: self._gain(s, worst))
        short = self.stages[0]
        variance = float(stage.estimate().variance[worst])
        others = float(self._totals().error()[worst]) ** 2 - variance
        needed = stage.n_passes * variance / max(target**2 - others, target**2 / 2)
        cost = stage.n_vectors * stage.steps
        more = max(1, math.ceil(needed) - stage.n_passes)
        self._planned = self.n_products + more * cost
        if self._dense_pays(self._planned):
            return False
        left = self._max_products - self.n_products
        if stage is short and needed > MOST_PASSES and self._n_colours < self._hessian.n_atoms:
            self._n_colours = min(2 * self._n_colours, self._hessian.n_atoms)
            finer = self._stage(0)
            finer.steps = short.steps
            if 2 * finer.n_vectors * finer.steps <= left:
                self._n_discarded += short.n_products
                self.stages[0] = finer
                for _ in range(2):
                    self._add_pass(finer, finer.steps, status)
                return True
            self._n_colours = short.n_colours
        more = min(more, left // cost)
        for _ in range(more):
            self._add_pass(stage, stage.steps, status)
        return more > 0

    def _stage(self, base: int) -> Stage:
        """Return the stage of short passes, or that of long ones which correct `base` steps."""
        h = self._hessian
        return Stage(
            h.multiply,
            h.project,
            self._functions,
            n_modes=h.n_modes,
            colour=None if base else colours(h.positions, h.cell, h.pbc, self._n_colours),
            n_atoms=h.n_atoms,
            seed=2 * self._seed + (base > 0),
            base=base,
        )

    def _add_pass(self, stage: Stage, most_steps: int, status: Status) -> None:
        """Make a pass, report the error, and write the checkpoint."""
        done = self.n_products

        text = self._error_text() if self._progress else ""

        def report(n_products: int) -> None:
            status.update(f"{done + n_products} Hessian-vector products{text}")

        def enough(ends: Bracket) -> bool:
            """Return True if the brackets that the stage has to narrow are as narrow as asked."""
            gauss, other = (end.cpu() for end in ends)
            allowed = BRACKET_SHARE * self._targets_of((gauss + other) / 2)
            narrow = (other - gauss).abs() / 2 <= allowed
            return bool((narrow if stage.base else narrow[: self._n_temperatures]).all())

        stage.run(enough=enough, most_steps=most_steps, report=report)
        if self._path is not None:
            states = [s.state() for s in self.stages]
            states[0]["discarded"] = np.array(self._n_discarded)
            write_stages(self._path, self._full_identity(), states)

    def _error_text(self) -> str:
        if self.stages[0].n_passes < 2:
            return ""
        used = [s for s in self.stages if s.n_passes]
        totals = _joined(used)
        relative = totals.error() / totals.value.abs()
        n = self._n_temperatures
        warm = self._shares[:n].isfinite()
        if not warm.any():
            return ""
        cv, entropy = relative[:n][warm].max(), relative[n : 2 * n][warm].max()
        return f", error {float(cv):.1e} of Cv and {float(entropy):.1e} of S"

    def _needs_long_passes(self) -> bool:
        short = self.stages[0].estimate()
        allowed = BRACKET_SHARE * self._targets_of(short.value)
        return bool((short.systematic.abs() > allowed).any())

    def _totals(self) -> Estimate:
        return _joined(self.stages)

    def _targets_of(self, values: Tensor) -> Tensor:
        """Return the largest standard error of each function, for its values, (F,)."""
        return self._shares * values.abs().clamp(min=SMALLEST * K_B * self._hessian.n_modes)

    def _gain(self, stage: Stage, quantity: int) -> float:
        """Return by how much a further pass reduces a variance, per product."""
        variance = float(stage.estimate().variance[quantity])
        return variance / (stage.n_passes + 1) / (stage.n_vectors * stage.steps)

    def _dense_pays(self, n_products: float) -> bool:
        """Return True if the Hessian takes fewer products than these, and is allowed."""
        rows = 3 * self._hessian.n_atoms
        return rows <= min(n_products, self._max_products - self.n_products, DENSE_ROWS)

    def _full_identity(self) -> dict[str, np.ndarray]:
        return {**self._identity, "energy": np.array(self._hessian.energy)}

    def _read(self) -> None:
        """Continue from the checkpoint, if there is one."""
        if self._path is None:
            return
        for state in read_stages(self._path, self._full_identity()):
            if int(state["base"]):
                self.stages.append(self._stage(int(state["base"])))
            else:
                self._n_colours = int(state["n_colours"])
                self._n_discarded = int(state["discarded"])
                self.stages = [self._stage(0)]
            self.stages[-1].restore(state)


def _joined(stages: list[Stage]) -> Estimate:
    """Return the traces of the short passes, corrected by those of the long ones."""
    short, *long = stages
    return short.uncorrected().corrected(long[0].estimate()) if long else short.estimate()
