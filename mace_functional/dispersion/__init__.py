"""Grimme's D3 dispersion correction, a potential that is added to another one.

d3_potential  D3 as a potential
d3            the energy as a pure function
bloch_sums    the force constants at a wave vector, in closed form
image_sum     sums over the periodic images of pairs
images        rows of all periodic images of each pair of atoms
pairs         topology of D3: the pairs and the element data of a structure
reference     data of elements and functionals, from tad-dftd3
"""
