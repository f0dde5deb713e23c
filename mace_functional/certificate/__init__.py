"""Numerical checks of a potential: its derivatives, its symmetries and its phonons.

| file | content |
| --- | --- |
| `checking.py` | `check_potential`, which runs all checks |
| `certificate.py` | the result: `Certificate`, `Check`s with errors, bounds and verdicts |
| `subject.py` | the potential, a structure without symmetry, directions of derivatives |
| `comparison.py` | one comparison, and its verdict from error and bound |
| `richardson.py` | finite differences extrapolated to a step of zero, with their uncertainty |
| `repeats.py` | nested transforms, called four times |
| `differences.py` | forces, stress, Hessian products and a third derivative against differences |
| `invariances.py` | rotation, permutation, periodic images and other invariances of the energy |
| `precision.py` | single against double precision |
| `parts.py` | sums of potentials |
| `dynamical_matrices.py` | D(q) against a supercell |
"""
