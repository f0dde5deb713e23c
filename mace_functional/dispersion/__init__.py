"""Grimme's D3 dispersion correction, a potential to be added to another.

d3_potential  D3 as a potential
d3            its energy as a pure function
bloch_sums    its force constants at a wave vector, in closed form
image_sum     sums over the periodic images of pairs
images        pairs of atoms, each in a row with all its periodic images
pairs         pairs and data of a structure, the topology of D3
reference     data of elements and functionals, from tad-dftd3
"""
