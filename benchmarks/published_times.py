"""Published times of the vibrations of large cells, and ours, with the hardware of both.

Both are stored numbers. `benchmarks/README.md` has the commands of ours.
"""

from __future__ import annotations

PUBLISHED = """\
| published | atoms | s, exact | s, truncated after two hops |
| --- | ---: | ---: | ---: |
| MIL-101 | 3 604 | 1 327 | 265 |
| MOF-177 | 6 464 | 1 698 | 312 |
| framework of 22 atoms, supercell | 7 700 | 38 950 | 5 622 |
"""
"""Times of a study of 2026: all modes at Gamma from sparse Hessians."""

OURS = """\
| ours | atoms | s | model | what |
| --- | ---: | ---: | --- | --- |
| MOF-5, 27 cells | 2 862 | 90 | embedded | heat capacity at 300 K, standard error 0.11 % |
| MOF-5, 27 cells | 2 862 | 534 | MACE-MP-0 small | heat capacity at 300 K, standard error 0.11 % |
| RSM0010, 22 atoms, 10x7x5 mesh | 7 700 | 61 | MACE-MP-0 small | all modes, exact |
"""
"""Times of this package."""

DIFFERENCES = """\
Published: MACE-MP-0 medium, JAX, one NVIDIA H100 (7 700 atoms in single precision). Ours: double
precision, PyTorch, one thread of an AMD EPYC (virtual).

What differs besides: the published times are for every mode at the Gamma point. A heat capacity
from products has an error bar, and no modes. The mesh has every mode of the supercell, because the
supercell is a crystal repeated; a large cell that is no repeated crystal has no mesh. The models
and the structures are not the same, and MACE-MP-0 medium is dearer than small.
"""


def print_published_times() -> None:
    """Print the stored tables, and what differs between them."""
    print("Published times beside ours\n", PUBLISHED, OURS, DIFFERENCES, sep="\n")
