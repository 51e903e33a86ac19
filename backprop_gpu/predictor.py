"""Predictions with the parameters of one moment, by the fastest way there is."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal, get_args

from backprop_gpu.arrays import Array
from backprop_gpu.backends import NumpyBackend
from backprop_gpu.checks import check_inputs
from backprop_gpu.compiled import CompileError
from backprop_gpu.compiled.agreement import check_agreement
from backprop_gpu.compiled.forward import CompiledForward, why_not, worth_it
from backprop_gpu.compiled.threads import cores
from backprop_gpu.errors import DomainError, UnknownNameError

if TYPE_CHECKING:
    from backprop_gpu.mlp import MLP

PredictionPath = Literal["auto", "steps", "compiled"]


class Predictor:
    """Predicts as a network did when this was made: `net.predictor()` makes one.

    The parameters are copied; what becomes of the network does not reach them. Threads may use one
    predictor at once. It can be pickled.

    Parameters
    ----------
    net : MLP
    path : {"auto", "steps", "compiled"}
        Which way to go. "auto" takes the faster one.

    Attributes
    ----------
    path : {"steps", "compiled"}
        "compiled": all layers in one call of C++, compiled for this network on first use; on the
        CPU, but for products that MKL makes as fast. "steps": what `net(x)` does, operation by
        operation.
    why : str
        Why this one, and what stands against the other.

    Raises
    ------
    UnknownNameError, NonFiniteError
    DomainError
        If the path that is asked for can't compute this network: with the reason.
    CompileError
        If it is "compiled", with what the compiler says.

    Examples
    --------
    >>> import numpy as np, backprop_gpu as bp
    >>> net = bp.MLP([2, 3, 1], activations=["tanh", "sigmoid"], device="cpu", seed=1)
    >>> predict = net.predictor()
    >>> x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> np.allclose(predict(x), net(x), atol=1e-6)
    True
    """

    path: Literal["steps", "compiled"]
    why: str

    def __init__(self, net: MLP, path: PredictionPath = "auto") -> None:
        if path not in get_args(PredictionPath):
            raise UnknownNameError("path", path, get_args(PredictionPath))
        self._net, self._asked = net.copy(), path
        self._forward: CompiledForward | None = None
        self.path, self.why = _choice(net, path)
        if self.path == "compiled":
            try:
                check_agreement(net.activations, net.layer_sizes[-1], None, None, net.dtype)
                self._forward = CompiledForward(
                    net.layer_sizes, net.activations, self._net.parameters, net.threads or cores()
                )
            except CompileError as error:
                if path == "compiled":
                    raise
                warnings.warn(f"{error}; NumPy predicts instead", stacklevel=3)
                self.path, self.why = "steps", f"{error}"

    def __call__(self, x: Any) -> Array:
        """Return the prediction for x.

        Parameters
        ----------
        x : array_like, shape (n, inputs)
            One sample a row, and at least one; converted to the network's dtype.

        Returns
        -------
        array, shape (n, outputs)
            New, of NumPy; for an array on a network's GPU, of CuPy.

        Raises
        ------
        DtypeError, ShapeError, NonFiniteError, DeviceError
            As the network does.
        """
        if self._forward is None:
            return self._net(x)
        prediction = self._forward.run(x)
        if prediction is None:  # x has to be converted, or refused
            prediction = self._forward.run(check_inputs(self._net, x))
        return prediction

    def __reduce__(self) -> tuple[Any, ...]:
        return Predictor, (self._net, self._asked)

    def __repr__(self) -> str:
        return f"Predictor({self._net}, path={self.path!r})"


def _choice(net: MLP, path: PredictionPath) -> tuple[Literal["steps", "compiled"], str]:
    if path == "steps":
        return "steps", "asked for"
    obstacle = (
        why_not(net.layer_sizes, net.activations, net.dtype)
        if type(net.backend) is NumpyBackend
        else f"the network is on {net.device}"
    )
    if path == "compiled" and obstacle is not None:
        raise DomainError(f"path='compiled' can't predict with this network: {obstacle}")
    if path == "compiled":
        return "compiled", "asked for"
    if obstacle is not None:
        return "steps", f"there is no compiled forward pass, for {obstacle}"
    mkl = getattr(net.backend, "mkl", None) is not None
    if not worth_it(net.layer_sizes, net.dtype, mkl=mkl):
        return "steps", "MKL is as fast as the compiled pass on products as large"
    return "compiled", "all layers in one call"
