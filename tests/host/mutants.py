"""Kernels with something missing: a test that passes with them does not test for it."""

from __future__ import annotations

from typing import Any

from .launcher import HostLauncher


class MutantLauncher(HostLauncher):
    """Replaces the first, second, ... of something in every source that has so many of it.

    With `kernel` only in the source of that one, which has to have it.
    """

    def __init__(
        self, seed: int | None, old: str, new: str, which: int, kernel: str | None = None
    ) -> None:
        super().__init__(seed)
        self.old, self.new, self.which, self.kernel = old, new, which, kernel

    def launch(self, source: str, name: str, *rest: Any) -> None:
        if self.kernel in (None, name):
            pieces = source.split(self.old)
            head, tail = pieces[: self.which + 1], pieces[self.which + 1 :]
            assert tail or self.kernel is None
            if tail:
                source = self.old.join(head) + self.new + self.old.join(tail)
        super().launch(source, name, *rest)
