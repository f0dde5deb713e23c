"""Utilities without physics that the whole package uses.

validation         checks of arguments of public functions
defaults           defaults and choices that functions share with the command line
atomic_write       files that are written completely or not at all
checkpoint_arrays  checkpoints as files of arrays, with the identity of their calculation
unsupported        error for models that are not supported
moved_modules      old names of modules, for one release
renamed            old public names, for one release

callable_frequencies  frequencies that can still be called like the former method, for one release
"""
