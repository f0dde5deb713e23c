"""Structures: atoms, cells, neighbours, symmetry, and the files they come from.

neighbours      the neighbour search
graph           structures and their neighbour graphs
batching        structures of one shape, stacked
phase_replicas  three replicas of a cell that hold a wave of any wave vector
cluster         a piece of the crystal around some atoms
lattice         volumes, periodic directions
symmetry        operations of the space group
connectivity    connected parts, and the directions in which they are endless
contacts        atoms that are nearer to each other than bonds are long
selection       which atoms and directions are free to move
reading         files, with checks of what they say
examples        structures that come with the package
"""
