"""Study of heat capacities: the questions of a published study, with results of this package.

    python -m benchmarks.study all --output study-results
    python -m benchmarks.study accuracy --structures quartz sodalite --model embedded
    python -m benchmarks.study notebook --output study-results

Run it from the root of the repository. The tables are in `README.md` of this folder.

Source: Gönnheimer, Reuter, Margraf, J. Chem. Theory Comput. 2025, 21, 4742,
doi:10.1021/acs.jctc.4c01790.
"""
