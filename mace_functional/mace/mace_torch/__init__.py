"""Readers and writers of mace-torch's modules, checkpoints and foundation models.

`module` reads settings and tensors of a module. `checkpoint` reads files that hold a pickled
module. `foundation` finds foundation models by name, in mace-torch's cache or on its servers.
`export` writes a checkpoint, in a module that it is given or that `built_module` makes. Only this
folder imports mace-torch.
"""

import contextlib
import io
import warnings

# Import mace-torch before e3nn: it allows e3nn to load its constants. Both print on import.
with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mace.calculators  # noqa: F401
