"""Relaxation, saddle points and lowest modes of any potential.

relax, relaxation                 minima of positions and cell
saddle, saddle_search             first-order saddle points
follow_mode                       relaxation from a saddle point, along a mode
lowest_modes, stability           lowest modes of a Hessian; test for a minimum
outcome                           reasons why a search ended

optimizer_run, search_loop        state and loop that all searches share
search_checkpoint                 checkpoint files
trust_region_state                state of a search, and its update after an evaluation
descend, climb_mode               the two strategies: to minima, and to saddle points
dense_hessian, quasi_newton       approximate Hessian, and its quasi-Newton update
limited_hessian, sparse_factors   approximate Hessian of large cells, and its preconditioner
trust_region                      steps within a trust radius
subspace_step, atom_limit         such steps of large cells, and the limit of each atom's step
bond_springs                      part of the energy model that describes rotating bonds
coordinates, surface              free coordinates; energy and derivatives by them
valence_hessian, first_hessian    Hessian of a valence force field
negative_curvature                search for negative curvature at a stationary point
davidson                          method of the search for the lowest modes
modal_frame, sparse_frame         coordinates of this search, with a model; those of large cells
free_structure                    a structure with the displacements that are free in it
"""
