"""The student: a small MACE, its results for a batch, and its loss.

The energy E of a batch depends only on the edge vectors r. Two derivatives by r give all fitted
quantities:

    g = dE/dr,  F_i = sum of g over edges at i,  dE/d(strain) = sum r (x) g,  H v from d(g.dr)/dr.

A third derivative, of the loss by the parameters, is `backward`. All three use the reverse mode of
`torch.autograd`, which records the graph once, while nested `torch.func` transforms recompute it at
each level. A step takes a third of the time of `grad(loss)` with `jvp(grad(E))`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from mace import modules
from e3nn import o3
from samples import CUTOFF, ELEMENTS, Batch, Results, Sample
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import huber_loss

import mace_functional as mf
from mace_functional.structure.graph import Graph
from mace_functional.structure.species import gather

SCALES = (0.005, 0.05, 0.003, 0.5)
"""Errors above which the Huber losses are linear.

They are those of energies, eV per atom, forces, eV/Å, stresses, eV/Å³, and curvatures, eV/Å².
"""


def new_student(
    samples: Sequence[Sample], *, channels: int, max_ell: int, seed: int
) -> torch.nn.Module:
    """Return a mace-torch module with random weights, in torch's default dtype.

    Reference energies of the elements are fitted to the energies of the samples by least squares.

    Args:
        samples: Source of reference energies, mean number of neighbours, and scale of the energies.
        channels: Number of channels.
        max_ell: Highest degree of the spherical harmonics.
        seed: Seed of the weights.
    """
    composition = np.array([[(s.numbers == z).sum() for z in ELEMENTS] for s in samples])
    atoms = composition.sum(1, keepdims=True)
    energies = np.array([[s.energy] for s in samples])
    references, *_ = np.linalg.lstsq(composition / atoms, energies / atoms, rcond=None)
    forces = np.concatenate([s.forces for s in samples])
    torch.manual_seed(seed)
    return modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=max_ell,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=2,
        num_elements=len(ELEMENTS),
        hidden_irreps=o3.Irreps(f"{channels}x0e"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=references[:, 0],
        avg_num_neighbors=sum(len(s.edges.vector) for s in samples) / atoms.sum(),
        atomic_numbers=list(ELEMENTS),
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64],
        atomic_inter_scale=float(np.sqrt((forces**2).mean())),
        atomic_inter_shift=0.0,
    )


def evaluate(model: mf.MaceModel, params: dict[str, Tensor], batch: Batch) -> Results:
    """Compute energies, forces, stresses and Hessian-vector products of a batch."""
    graph, origin = batch.graph, batch.graph.reference_positions
    r = batch.vectors.detach().requires_grad_()
    arguments = (replace(graph, unit_shifts=r), origin, graph.reference_cell)
    energies = functional_call(model.module, params, arguments, tie_weights=False)
    (g,) = torch.autograd.grad(energies.sum(), r, create_graph=True)
    v = batch.directions[graph.order]
    dr = (v[:, None] - gather(v, graph.senders)) * graph.edge_mask[..., None]
    (dg,) = torch.autograd.grad((g * dr).sum(), r, create_graph=True)
    virials = (r * graph.edge_mask[..., None]).transpose(1, 2) @ g
    zero = torch.zeros_like(batch.sizes)
    by_strain = (
        zero[:, None].repeat(1, 9).index_add(0, batch.sample, virials.flatten(1)[graph.inverse])
    )
    return Results(
        energies=zero.index_add(0, batch.sample, energies),
        forces=-_on_atoms(g, graph),
        stresses=by_strain.view(-1, 3, 3) / batch.volumes[:, None, None],
        curvatures=_on_atoms(dg, graph),
    )


def _on_atoms(edges: Tensor, graph: Graph) -> Tensor:
    """Return derivatives by positions (atoms, 3), given those by `x_i - x_j` (nodes, K, 3)."""
    edges = edges * graph.edge_mask[..., None]
    nodes = edges.sum(1).index_add(0, graph.senders.flatten(), -edges.flatten(0, 1))
    return nodes[graph.inverse]


def errors(results: Results, batch: Batch) -> Results:
    """Return student minus teacher; energies per atom, and stresses of crystals only."""
    labels, crystal = batch.labels, torch.isfinite(batch.volumes)
    return Results(
        energies=(results.energies - labels.energies) / batch.sizes,
        forces=results.forces - labels.forces,
        stresses=(results.stresses - labels.stresses)[crystal],
        curvatures=results.curvatures - labels.curvatures,
    )


def losses(results: Results, batch: Batch) -> Tensor:
    """Return the Huber losses of the four quantities in units of `SCALES`, (4,)."""
    parts = []
    for error, scale in zip(errors(results, batch), SCALES, strict=True):
        loss = huber_loss(error / scale, torch.zeros_like(error), reduction="sum")
        parts.append(loss / max(1, error.numel()))
    return torch.stack(parts)
