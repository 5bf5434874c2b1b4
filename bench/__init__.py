"""Benchmarks: our jobs beside other ways to the same result, on generated data, in one run. `python -m bench`.

What each figure means, and what was seen: docs/benchmarks.md. Not part of the installed package.
"""
