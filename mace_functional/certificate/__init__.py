"""Checks of a potential: are its derivatives, its symmetries and its phonons what they should be?

| file | what it has |
| --- | --- |
| `checking.py` | `check_potential`, which runs all checks |
| `certificate.py` | the result: `Certificate`, `Check`s with errors, bounds and verdicts |
| `subject.py` | what is checked: the potential, a structure without symmetry, directions |
| `comparison.py` | one comparison, and how verdicts follow from errors and bounds |
| `richardson.py` | differences extrapolated to a step of zero, with their uncertainty |
| `repeats.py` | nested transforms, called four times |
| `differences.py` | forces, stress, Hessian products and a third derivative against differences |
| `invariances.py` | rotation, permutation, periodic images and what else changes no energy |
| `precision.py` | single against double precision |
| `parts.py` | sums of potentials |
| `dynamical_matrices.py` | D(q) against a supercell |
"""
