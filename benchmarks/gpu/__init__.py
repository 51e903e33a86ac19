"""The library and what a user could take instead, on a GPU: ``make bench-gpu``; see docs/gpu.md."""
