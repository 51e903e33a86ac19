"""The benchmarks: ``python -m benchmarks``, or ``make bench``. docs/benchmarks.md says more."""
