"""Defaults and choices that functions share with the command line.

A help text does not wait for what computes: nothing but the standard library is imported here.
"""

from __future__ import annotations

from typing import Literal

TEMPERATURES = (250.0, 275.0, 300.0, 325.0, 350.0, 375.0, 400.0)
"""Temperatures of a table of heat capacities where none are given, K."""

DTYPES = ("float64", "float32")
"""Names of the precisions that can be computed in; `validation.floating_type` has torch's types."""

PhononMethod = Literal["auto", "force-constants", "replicas"]
"""How D(q) is computed: see `phonons_of`."""

SYMPREC = 1e-3
"""Tolerance of symmetry that is not given, Å. Coordinates with four digits are up to 5e-4 Å off in
a cell of 10 Å, and relaxations to 1e-3 eV/Å leave 1e-4 Å: below that, quartz is monoclinic.
Operations are imposed on what is computed: in quartz with atoms moved at random by up to 1e-4, 1e-3
and 1e-2 Å, frequencies change by 0.08, 0.8 and 9 cm-1 at most, the heat capacity by 2e-6, 2e-5 and
2e-4 of itself at 100 K (embedded model, mesh of 3 x 3 x 3)."""

SKIN = 0.1
"""Skin of the neighbour lists of all that moves atoms, Å: a list is made again after atoms have
moved by half of it, and a wider one has more pairs for every energy to compute. `from_ase` has
none, because its structure stays where it is."""

MESH_SPACING = 0.2
"""Largest distance of neighbours in a mesh that is not given, 1/Å: densities of states are smooth,
and heat capacities at 300 K converged to 1e-3, for cells from two atoms on. Half of it takes eight
times the wave vectors."""

MESH_TOLERANCE = 1e-3
"""Relative error of a heat capacity that `converged_mesh_thermo` asks for: a tenth of the errors
of potentials. Each factor of ten less takes ten times the wave vectors."""

CHECK_DISPLACEMENT = 0.05
"""Å. Displaced so far, symmetric structures have forces of 0.5 eV/Å, and none is torn apart."""

LARGEST_CHECK_DISPLACEMENT = 0.3
"""Å; atoms displaced further may meet."""
