"""Structures: atoms, cells, neighbours, symmetry, and the files they come from.

structure       positions, cell and masses, and the topology for which an energy holds
topology        what a topology is, and what potentials with edges compute on
graph           neighbour graphs, the topology of a cell
phase_replicas  three replicas of a cell that hold a wave of any wave vector
cluster         a piece of a crystal around some atoms
batching        structures padded to one shape and stacked

neighbours      the neighbour search
remaining_skin  how far atoms may move before a neighbour list is too short
species         elements of nodes, and values of neighbours
arrays          between numpy arrays and tensors
lattice         volumes and periodic directions
symmetry        operations of the space group
connectivity    connected parts, and the directions in which they are endless
contacts        atoms that are nearer to each other than bonds are long
selection       which atoms and directions are free to move
reading         files, with checks of what they say
examples        structures that come with the package
"""
