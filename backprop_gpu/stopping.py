"""Early stopping: the rule, and what watches the losses for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from backprop_gpu.arrays import Array
from backprop_gpu.errors import DomainError, check_count
from backprop_gpu.network import MLP


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the loss has not fallen for a while.

    The validation loss is watched, or without validation data the training loss.

    Parameters
    ----------
    patience : int
        How many epochs in a row without a new best end the training.
    min_delta : float
        By how much a new best has to be lower than the last.
    restore_best : bool
        Whether the network gets back the parameters it had at the end of the best epoch.
    """

    patience: int = 10
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        check_count("patience", self.patience)
        if not 0 <= self.min_delta < math.inf:
            raise DomainError(f"min_delta is {self.min_delta!r}; expected 0 or a number above it")


class Watch:
    """The best loss so far, when it was, and the parameters that had it."""

    def __init__(self, rule: EarlyStopping, net: MLP) -> None:
        self.rule, self.net = rule, net
        self.best, self.best_epoch = math.inf, 0
        self._parameters: Array | None = None

    def wants_to_stop(self, epoch: int, loss: float) -> bool:
        """Look at an epoch's loss; return whether patience is at an end."""
        if loss < self.best - self.rule.min_delta:
            self.best, self.best_epoch = loss, epoch
            if self.rule.restore_best:
                self._parameters = self.net.parameters.copy()
        return epoch - self.best_epoch >= self.rule.patience

    def restore(self) -> None:
        """Give the network its best parameters back, if the rule says so."""
        if self._parameters is not None:
            self.net.parameters[...] = self._parameters
