"""Derivatives of interatomic potentials, MACE first of all, by composable function transforms.

A potential and a structure give a pure function `E(positions, cell, params)`; everything else is a
transform of it.

    model = mf.load_model("embedded")
    s = mf.from_ase(atoms, model)
    E = mf.energy_fn(model, s.topology)
    H = mf.hessian(E)(s.positions, s.cell, model.params)
"""

import lazy_loader

from mace_functional.autodiff.forked import compute_with_one_thread_when_forked
from mace_functional.support.moved_modules import find_moved_modules
from mace_functional.support.renamed import with_old_names

_present, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = with_old_names(__name__, _present)

__version__ = "0.2.0"

compute_with_one_thread_when_forked()
find_moved_modules()
