"""Defaults and choices that functions share with the command line.

This module imports only the standard library, so that help texts appear at once.
"""

from __future__ import annotations

from typing import Literal

TEMPERATURES = (250.0, 275.0, 298.15, 300.0, 325.0, 350.0, 375.0, 400.0)
"""Default temperatures of a table of heat capacities, K.

They are those of the published study, and 298.15 K, for which measured values are tabulated.
"""

DTYPES = ("float64", "float32")
"""Names of the supported precisions; `validation.floating_type` returns the torch dtype."""

PhononMethod = Literal["auto", "force-constants", "replicas"]
"""Method of computing D(q); `phonons_of` describes them."""

ElasticSolver = Literal["auto", "dense", "cg"]
"""Method of computing how ions follow a strain; `elastic_constants` describes them."""

ConductivityMethod = Literal["relaxation-time", "direct"]
"""Solution of the Boltzmann equation of phonons; `conductivity_of` describes them."""

CONDUCTIVITY_MESH_SPACING = 0.15
"""Default distance of neighbouring wave vectors in a mesh for conductivities, 1/Å."""

CONDUCTIVITY_TEMPERATURES = (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0)
"""Default temperatures of a table of thermal conductivities, K."""

SYMPREC = 1e-3
"""Default tolerance of symmetry, Å.

Coordinates with four digits are up to 5e-4 Å off in a cell of 10 Å, and relaxations to 1e-3 eV/Å
leave 1e-4 Å. With a smaller tolerance, quartz would be monoclinic. A larger one imposes operations
that do not hold: in quartz with random displacements of up to 1e-4, 1e-3 and 1e-2 Å, frequencies
change by at most 0.08, 0.8 and 9 cm-1, and the heat capacity at 100 K by relative amounts of 2e-6,
2e-5 and 2e-4 (embedded model, mesh of 3 x 3 x 3).
"""

MOLECULE_TOLERANCE = 0.02
"""Default tolerance of the symmetry of a molecule, Å.

Coordinates with two digits after the point are up to 0.01 Å off. Benzene and methane, relaxed to
1e-3 eV/Å with the embedded model after random displacements of 0.05 Å, are symmetric to 7e-5 Å.
"""

FMAX = 1e-4
"""Default largest force at which `relax` and searches for saddle points end, eV/Å."""

QUICK_FMAX = 1e-3
"""Largest force on an atom at which relaxations of screenings and of the command line stop, eV/Å.

It is accurate enough for heat capacities. With the embedded model in double precision, MOF-5 takes
23 gradients to 1e-3 eV/Å and 44 to `FMAX`: the heat capacity at 300 K changes by a relative 1e-6,
the lowest frequency by 0.003 cm-1. In single precision, 1e-3 eV/Å takes 23 gradients too, and
rounding stops the relaxation to `FMAX` at 9.5e-4 eV/Å. Quartz takes 8 gradients to either.
"""

MAX_STEPS = 1000
"""Default largest number of gradients of a relaxation or of a search for a saddle point."""

SKIN = 0.1
"""Default skin of neighbour lists in functions that move atoms, Å.

A list is rebuilt after an atom has moved by half the skin. A wider skin adds pairs to every energy.
The default of `from_ase` is no skin, because it does not move atoms.
"""

MESH_SPACING = 0.2
"""Default distance of neighbouring wave vectors in a mesh, 1/Å.

For cells of two or more atoms, densities of states are smooth and heat capacities at 300 K are
converged to 1e-3. Half the distance takes eight times the wave vectors.
"""

MESH_TOLERANCE = 1e-3
"""Default relative error of the heat capacity of `converged_mesh_thermo`.

It is a tenth of the errors of potentials. A tenth of it takes ten times the wave vectors.
"""

REL_ERROR = 1e-3
"""Default relative standard error of the heat capacity of `stochastic_thermo`.

It is a tenth of the errors of potentials.
"""

ENTROPY_ERROR = 1e-2
"""Default relative standard error of the entropy of `stochastic_thermo`.

The entropy of MOF-5 with 2 862 atoms at 300 K takes one iteration of 85 products to 1e-2, beside
the 90 products of a heat capacity to 1.5e-3.
"""

CHECK_DISPLACEMENT = 0.05
"""Default of the largest random displacement along each axis in `check_potential`, Å.

It gives symmetric structures forces of 0.5 eV/Å, and breaks no bonds.
"""

LARGEST_CHECK_DISPLACEMENT = 0.3
"""Largest `displacement` that `check_potential` accepts, Å; beyond it atoms may collide."""

VALIDATION = 0.1
"""Default fraction of the structures that `finetune` keeps for validation."""

EPOCHS = 100
"""Default number of passes of `finetune` through its structures."""

BATCH_SIZE = 8
"""Default number of structures of a step of `finetune`."""

RATE = 1e-3
"""Default learning rate of `finetune`."""

AVERAGE = 0.99
"""Default decay of the average of the weights in `finetune`."""

ENERGY_WEIGHT, FORCES_WEIGHT, STRESS_WEIGHT, PRODUCTS_WEIGHT = 25.0, 100.0, 100.0, 1.0
"""Default weights of the terms of a loss, which `LossWeights` describes."""

LOCAL = "local"
"""Word in place of the address of a Dask scheduler, for processes of Dask on this machine."""

LABEL_KINDS = ("energy", "forces", "stress", "product")
"""Kinds of labels of a structure; a product is that of its Hessian with a direction."""
