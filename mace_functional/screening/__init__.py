"""Many structures, one after the other or side by side: records, workers, tables and reports.

run               a screening from beginning to end
screen_settings   what is computed for every structure
screen_checks     what is refused before anything is computed
sources           the structures
keys              what a result belongs to: structure, potential and settings
evaluate          one structure from beginning to end
saved_structures  the structure that results are for, in a file
saved_eigenvectors  eigenvectors of a structure, in a file
provenance        date, versions and digest of the model
record            what is known of one structure, as it is kept in files
workers           workers, and how tasks come to them
dask_workers      workers of Dask
progress          what is shown while it runs

rows              structures with their results and references
references        heat capacities of others, from a table
changes           what a relaxation did to a structure
missing           what is missing at Gamma alone
findings          what needs a person's eye
table             the table of all results
parity            predicted against reference heat capacities
report            the report: data of the page
page              the page, from a template
report_figures    its figures
drawing           figures as images
formula_units     formulas as chemists write them
wording           numbers, counts and times in words
"""
