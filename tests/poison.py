"""A task that kills its worker.

Worker processes import it by name. The tests themselves have no such name: mace-torch installs a
package `tests` of its own.
"""

from __future__ import annotations

import os
import signal

from mace_functional.screening.evaluate import evaluate


def dies_of_poison(task):
    if task.name == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(task)
