"""What every part of the package uses, and nothing about atoms.

validation     checks of numbers and devices at the border of the package
defaults       defaults and choices that functions share with the command line
atomic_write   files that are whole or not there
unsupported    the error of models that are refused
moved_modules  modules under their old names, for a release
renamed        public names under their old names, for a release

callable_frequencies  frequencies that can be called as the old method of their name
"""
