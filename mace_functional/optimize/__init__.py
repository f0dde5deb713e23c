"""Relaxation, saddle points and lowest modes of any potential.

relax, relaxation                 minima of positions and cell
saddle, saddle_search             first-order saddle points
follow_mode                       the way down from a saddle point
lowest_modes, stability           the lowest modes of a Hessian; whether a structure is a minimum
outcome                           why a search ended

optimizer_run, search_loop        what all searches have in common; their loop
search_checkpoint                 files to go on from
trust_region_state                the state of a search, and how an evaluation changes it
descend, climb_mode               the two strategies: down, and up along one mode
dense_hessian, quasi_newton       the Hessian that a search keeps, and its update
trust_region                      steps within a trust radius
bond_springs                      the part of the energy model that follows bonds that turn
coordinates, surface              free coordinates; energy and derivatives by them
valence_hessian, first_hessian    the Hessian of a valence force field
negative_curvature                a search for negative curvature where forces vanish
davidson, modal_frame             the method behind the lowest modes
"""
