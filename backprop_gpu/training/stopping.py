"""Early stopping: the rule, and the best epoch so far."""

from __future__ import annotations

import math
from dataclasses import dataclass

from backprop_gpu.arrays import Array
from backprop_gpu.errors import check_count, check_not_negative
from backprop_gpu.mlp import MLP


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
        Whether the network gets back the parameters that had the best loss: those at the end of
        the best epoch, or at its beginning if the training loss is watched.
    """

    patience: int = 10
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        check_count("patience", self.patience)
        check_not_negative("min_delta", self.min_delta)


class BestEpoch:
    """The best loss so far, when it was, and the parameters that had it."""

    def __init__(self, rule: EarlyStopping) -> None:
        self.rule = rule
        self.loss, self.epoch = math.inf, 0
        self.parameters: Array | None = None

    def is_too_old(self, epoch: int, loss: float, parameters: Array) -> bool:
        """Look at an epoch's loss and the parameters that had it; return whether to stop."""
        if loss < self.loss - self.rule.min_delta:
            self.loss, self.epoch = loss, epoch
            if self.rule.restore_best and self.parameters is None:
                self.parameters = parameters.copy()
            elif self.parameters is not None:
                self.parameters[...] = parameters
        return self.gave_up_at(epoch)

    def gave_up_at(self, epoch: int) -> bool:
        """Return whether the best loss is too old in an epoch."""
        return epoch - self.epoch >= self.rule.patience

    def restore(self, net: MLP) -> None:
        """Give the network its best parameters back, if the rule says so."""
        if self.parameters is not None:
            net.parameters[...] = self.parameters
