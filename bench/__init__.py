"""How fast the engine is, against ordinary PyTorch loops that compute the same thing.

`make bench` runs every case, `make bench CASES="linear-b1 jobs"` some of them. `cases` holds the problems and
the loops that are timed, `__main__` the clock. Only ratios of numbers measured side by side mean anything.
"""
