"""What a user could take instead: ``make bench-peers``. docs/performance.md says more."""
