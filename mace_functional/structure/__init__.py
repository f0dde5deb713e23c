"""Structures: atoms, cells, neighbours, symmetry, and the files they come from.

structure        positions, cell and masses, and the topology on which the energy is computed
topology         protocols of topologies, with and without edges
graph            neighbour graph of a cell
phase_replicas   replicas of a cell at up to three phases of a Bloch wave
stars            every atom of a cell with copies of its neighbours that belong to it alone
hops             atoms of a crystal around some of them, in the order of the edges that lead there
batching         structures padded to one shape and stacked

neighbours       the neighbour search
remaining_skin   distance that atoms may still move before a neighbour list is too short
species          elements of nodes, and values of neighbours
arrays           conversion between numpy arrays and tensors
lattice          volumes and periodic directions
symmetry         operations of the space group
symmetry_number  rotations of a molecule that map it onto itself
connectivity     connected parts, and the directions in which they are infinite
contacts         pairs of atoms that are closer than a bond length
selection        atoms and directions that are free to move
reading          structure files, with checks of their contents
examples         structures that come with the package
"""
