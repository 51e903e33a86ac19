"""The trained network, and its parameters as scikit-learn shows them: lists that can be assigned.

The network holds the parameters. `coefs_` and `intercepts_` are made when they are first looked
at: views of the network's arrays on the CPU, copies of those on a GPU. From then on, and if they
are assigned, they say what the parameters are, and are copied into the network before it is used.
So whatever is changed in them counts, and a network on a GPU whose parameters nobody looks at
never leaves it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from backprop_gpu.activations import Activation
from backprop_gpu.arrays import Array
from backprop_gpu.backends import Backend, Precision, choose_backend
from backprop_gpu.errors import ShapeError, brief
from backprop_gpu.estimators.learner import Progress
from backprop_gpu.mlp import MLP
from backprop_gpu.parameters import split

LISTS = ("coefs_", "intercepts_")


class FittedNetwork(BaseEstimator):  # type: ignore[misc]
    """An estimator whose fitted parameters are those of a network."""

    device: str | Backend
    precision: Precision
    threads: int | None
    path_: str
    _net: MLP | None = None
    _unpickled: MLP | None = None
    _before: dict[str, Any] | None = None
    _checked: Sequence[Any] = ()
    _best: Array = None
    _optimizer: Progress | None = None
    _no_improvement_count: int
    loss_: float
    loss_curve_: list[float]
    best_loss_: Any
    validation_scores_: Any
    best_validation_score_: Any

    @property
    def network_(self) -> MLP:
        """The network: for `save`, `explain`, `check_gradients` and whatever takes an `MLP`."""
        check_is_fitted(self)
        if self._unpickled is not None:
            copied = self._unpickled.copy(device=self.device, precision=self.precision)
            self._net, self._unpickled = copied, None
        net, shown = self._net, not set(LISTS).isdisjoint(vars(self))
        sizes = () if net is None else net.layer_sizes
        if shown:
            try:
                sizes = (len(self.coefs_[0]), *(np.shape(W)[1] for W in self.coefs_))
            except (TypeError, ValueError, LookupError) as error:
                raise ShapeError(
                    f"coefs_ is {brief(self.coefs_)}; expected a list of the layers' weights, "
                    "each of shape (inputs, nodes)"
                ) from error
        activations = self._activations(len(sizes) - 2)
        if net is None or (net.layer_sizes, net.activations) != (sizes, activations):
            shown, dtype = True, np.result_type(*self.coefs_)
            backend = self._choose_backend()
            net = MLP(sizes, activations, device=backend, dtype=dtype, precision=self.precision)
        if shown and not self._shows_views_of(net):
            net.set_parameters([np.transpose(W) for W in self.coefs_], self.intercepts_)
        if net.device == "cpu" and isinstance(self.device, str) and net.threads != self.threads:
            net._compute_by(choose_backend("cpu", self.threads)[0])
        self._net = net
        return net

    @cached_property
    def coefs_(self) -> list[NDArray[Any]]:
        """The weights of every layer, shape (inputs, nodes)."""
        return [W.T for W in self._split()[0]]

    @cached_property
    def intercepts_(self) -> list[NDArray[Any]]:
        """The biases of every layer, shape (nodes,)."""
        return list(self._split()[1])

    def _split(self) -> tuple[Sequence[NDArray[Any]], Sequence[NDArray[Any]]]:
        if self._net is None and self._unpickled is None:
            raise AttributeError(f"this {type(self).__name__} is not fitted yet; call fit first")
        net = self._net or self.network_
        return split(net.backend.to_numpy(net.parameters), net.layer_sizes)

    def _shows_views_of(self, net: MLP) -> bool:
        if not hasattr(self.intercepts_, "__len__"):
            return False
        own = [*(W.T for W in net.weights), *net.biases]
        shown = [*self.coefs_, *self.intercepts_]
        return len(own) == len(shown) and all(map(_is_same_view, own, shown))

    def _choose_backend(self) -> Backend:
        """Return where a network is to live that is made anew."""
        return choose_backend(self.device, self.threads, self.precision)[0]

    def _is_trained(self) -> bool:
        return any(name in vars(self) for name in ("_net", "_unpickled", "coefs_"))

    @contextmanager
    def _unchanged_unless_it_learns(self) -> Generator[None, None, None]:
        """Take back what a call has changed if it raises before its first step.

        scikit-learn's checks note what they see at once, and the later ones build on that.
        """
        self._before = dict(vars(self))
        try:
            yield
        except BaseException:
            if self._before is not None:
                self.__dict__ = self._before
            raise
        finally:
            self.__dict__.pop("_before", None)

    def _learns_now(self) -> None:
        """Note that a step is made, which can't be taken back."""
        self._before = None

    def _take(self, net: MLP) -> None:
        """Hold a network whose parameters are new; the lists are made anew."""
        self._net, self._unpickled = net, None
        for name in LISTS:
            self.__dict__.pop(name, None)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: a network on the CPU, so that every machine can read it."""
        state: dict[str, Any] = dict(super().__getstate__())
        if not self._is_trained():
            return state
        to_numpy = self.network_.backend.to_numpy
        for name in ("_net", *LISTS):
            state.pop(name, None)
        state["_unpickled"] = self.network_.copy(device="cpu")
        if self._best is not None:
            state["_best"] = to_numpy(self._best)
        if self._optimizer is not None:
            slots = [to_numpy(slot) for slot in self._optimizer.state]
            state["_optimizer"] = replace(self._optimizer, state=slots)
        return state

    @abstractmethod
    def _activations(self, hidden: int) -> tuple[Activation, ...]:
        """Return the activations of so many hidden layers, and of the last."""

    @abstractmethod
    def _output_activation(self) -> str:
        """Return the name of the last layer's activation."""


def _is_same_view(one: Array, other: Array) -> bool:
    """Return whether these are the same entries of the same memory."""
    interface = getattr(one, "__array_interface__", None)
    return interface is not None and interface == getattr(other, "__array_interface__", None)
