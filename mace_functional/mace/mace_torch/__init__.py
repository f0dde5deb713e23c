"""mace-torch: its modules, checkpoints and foundation models. Nothing else imports it.

`module` reads settings and tensors of a module, `checkpoint` files that hold a pickled module, and
`foundation` finds foundation models by name, in mace-torch's cache or on its servers.
"""

import contextlib
import io
import warnings

# Before e3nn, which mace-torch lets load its own constants; both speak up on import.
with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mace.calculators  # noqa: F401
