"""The student: a small MACE, its answers for a batch, and how far they are from the teacher's.

The energy E of a batch is a function of the edge vectors r alone, so that two derivatives by r give
everything that is fitted:

    g = dE/dr,  F_i = sum of g over edges at i,  dE/d(strain) = sum r (x) g,  H v from d(g.dr)/dr.

A third one, of the loss by the parameters, is `backward`. All three are reverse mode by
`torch.autograd`, which records once what nested `torch.func` transforms compute at each level: a
step takes a third of the time of `grad(loss)` with `jvp(grad(E))` in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from mace import modules
from e3nn import o3
from samples import CUTOFF, ELEMENTS, Answers, Batch, Sample
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import huber_loss

import mace_functional as mf
from mace_functional.structure.graph import Graph
from mace_functional.structure.species import gather

SCALES = (0.005, 0.05, 0.003, 0.5)
"""Errors of the four answers beyond which the loss grows linearly: eV per atom, eV/Å, eV/Å³,
eV/Å²."""


def new_student(
    samples: Sequence[Sample], *, channels: int, max_ell: int, seed: int
) -> torch.nn.Module:
    """A mace-torch module with random weights, in torch's default dtype.

    Reference energies of the elements are those that fit the samples best without interaction.

    Args:
        samples: Give reference energies, number of neighbours, and the scale of the energies.
        channels: Width of the network.
        max_ell: Highest degree of the spherical harmonics.
        seed: Of the weights.
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


def answers(model: mf.MaceModel, params: dict[str, Tensor], batch: Batch) -> Answers:
    """Energies, forces, stresses and Hessian-vector products of a batch."""
    graph, origin = batch.graph, batch.graph.reference_positions
    vectors = batch.vectors.detach().requires_grad_()
    here = replace(graph, unit_shifts=vectors)
    arguments = (here, origin, graph.reference_cell)
    energies = functional_call(model.module, params, arguments, tie_weights=False)
    (pulls,) = torch.autograd.grad(energies.sum(), vectors, create_graph=True)
    nodes = batch.directions[graph.order]
    along = (nodes[:, None] - gather(nodes, graph.senders)) * graph.edge_mask[..., None]
    (changes,) = torch.autograd.grad((pulls * along).sum(), vectors, create_graph=True)
    virials = (vectors * graph.edge_mask[..., None]).transpose(1, 2) @ pulls
    zero = torch.zeros_like(batch.sizes)
    strains = (
        zero[:, None].repeat(1, 9).index_add(0, batch.sample, virials.flatten(1)[graph.inverse])
    )
    return Answers(
        energies=zero.index_add(0, batch.sample, energies),
        forces=-_on_atoms(pulls, graph),
        stresses=strains.view(-1, 3, 3) / batch.volumes[:, None, None],
        curvatures=_on_atoms(changes, graph),
    )


def _on_atoms(edges: Tensor, graph: Graph) -> Tensor:
    """From derivatives by `x_i - x_j` (nodes, K, 3) to derivatives by atoms (atoms, 3)."""
    edges = edges * graph.edge_mask[..., None]
    nodes = edges.sum(1).index_add(0, graph.senders.flatten(), -edges.flatten(0, 1))
    return nodes[graph.inverse]


def errors(found: Answers, batch: Batch) -> Answers:
    """Student minus teacher; energies per atom, and stresses of crystals only."""
    wanted, crystal = batch.answers, torch.isfinite(batch.volumes)
    return Answers(
        energies=(found.energies - wanted.energies) / batch.sizes,
        forces=found.forces - wanted.forces,
        stresses=(found.stresses - wanted.stresses)[crystal],
        curvatures=found.curvatures - wanted.curvatures,
    )


def losses(found: Answers, batch: Batch) -> Tensor:
    """Huber losses of the four kinds of answers in units of `SCALES`, (4,)."""
    parts = []
    for error, scale in zip(errors(found, batch), SCALES, strict=True):
        loss = huber_loss(error / scale, torch.zeros_like(error), reduction="sum")
        parts.append(loss / max(1, error.numel()))
    return torch.stack(parts)
