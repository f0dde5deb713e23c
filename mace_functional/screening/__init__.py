"""Screenings: the same calculation for many structures, with records, workers and reports.

run                 a screening from beginning to end
screen_settings     settings, which are the same for all structures
screen_checks       checks before anything is computed
sources             the structures
keys                keys of results, from structure, potential and settings
task                a structure to be computed, and the checkpoints in its folder
evaluate            one structure from beginning to end
structure_modes     modes of one structure, at Gamma or on a mesh
sampled_thermo      thermodynamics of one large structure, by random vectors
saved_structures    files of structures
saved_eigenvectors  files of eigenvectors
tensor_files        files of tensors, as spectra and eigenvectors are kept
provenance          date, versions and digest of the model
record              files of results
progress            the progress bar

rows                structures with their results
references          heat capacities from elsewhere, from a table
constant_pressure   heat capacity of one structure at constant pressure
changes             changes of a structure in its relaxation
missing             heat capacity that is missing at Gamma alone
findings            results that a person should look at, with advice
table               the table of all results
parity              predicted against reference heat capacities
report              the report: its data and figures, put together
report_facts        its first table: structures, model and settings in words
report_comparison   its comparison with one reference
report_structures   its table of all structures
page                the page of the report, from a template
report_figures      figures of the report
drawing             figures as images
formula_units       formulas as chemists write them
wording             numbers, counts and times in words
"""
