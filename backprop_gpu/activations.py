"""Activation functions: one entry carries everything that is known about one of them.

The NumPy path, the CUDA kernels, the formulas of an explanation and the points that a gradient
check steps around all come from the entry. To add one, see `register_activation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Literal

import numpy as np

from backprop_gpu.arrays import Array, ArrayModule, check_result, untouched
from backprop_gpu.errors import (
    DomainError,
    DtypeError,
    UnknownNameError,
    check_entry,
    check_name,
    check_number,
)
from backprop_gpu.special import normal_cdf

Elementwise = Callable[..., Array]


@dataclass(frozen=True)
class Activation:
    """An activation function g and its derivative g'.

    Parameters
    ----------
    name : str
        The name in the table.
    function : callable (xp, z) -> a
        a = g(z), a new array. `xp` is `numpy` or `cupy`; samples are rows.
    derivative : callable (xp, t) -> g'
        The slope at every entry, a new array in the dtype of t. `t` is a or z, as
        `derivative_from` says.
    derivative_from : {"a", "z"}
        What the derivative is computed from. With "a", z need not be kept.
    latex, latex_derivative : str
        g(z), and g' in terms of z or a.
    cuda, cuda_derivative : str, optional
        The same two as CUDA C++ expressions of ``z``, and of ``z`` or ``a``, as `derivative_from`
        says; ``real`` is float or double. Without them the GPU runs `function` and `derivative` on
        CuPy arrays.
    kinks : tuple of float
        Every z at which g' jumps.
    output_range : (float, float)
        The closed interval that holds every a.
    initializer : str
        The initializer with which the signals keep their variance through such a layer.
    jacobian_product : callable (xp, dC_da, a) -> delta, optional
        dC/dz, where it is not dC/da * g': every output of a softmax depends on its whole row.
    cuda_rows : str, optional
        With a `jacobian_product`, the NAME of the kernels ``bias_NAME`` and ``NAME_delta`` in
        NAME.cu, which work on whole rows.
    onnx : str, optional
        ``a = g(z)`` in ONNX's textual syntax, of operators up to opset 17: one or more nodes, with
        ``real`` for float or double. `export_onnx` needs it.
    parameters : mapping
        What `name` was built with, for example ``{"leak": 0.1}``.
    """

    name: str
    function: Elementwise
    derivative: Elementwise
    derivative_from: Literal["a", "z"]
    latex: str = r"g(z)"
    latex_derivative: str = r"g'(z)"
    cuda: str | None = None
    cuda_derivative: str | None = None
    kinks: tuple[float, ...] = ()
    output_range: tuple[float, float] = (-math.inf, math.inf)
    initializer: str = "glorot_uniform"
    jacobian_product: Callable[[ArrayModule, Array, Array], Array] | None = None
    cuda_rows: str | None = None
    onnx: str | None = None
    parameters: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_entry("activation", self.name, (self.function, self.derivative), ("xp", "z"))
        if self.derivative_from not in ("a", "z"):
            raise DomainError(f"derivative_from is {self.derivative_from!r}; expected 'a' or 'z'")
        for name in ("kinks", "output_range"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def is_built_in(self) -> bool:
        """Whether it is one of the library's, as it is."""
        return self.name in BUILT_IN and is_registered(self)

    @property
    def in_place(self) -> bool:
        """Whether `function` and `derivative` can fill an array that they are given.

        They then do nothing but call array functions with ``out=``. So training allocates nothing
        for them, and NumPy's backend can record the calls and repeat them.
        """
        return all(hasattr(f, "fills") for f in (self.function, self.derivative))

    def apply(self, xp: ArrayModule, z: Array, out: Array) -> None:
        """out = a = g(z); `out` may be z."""
        if self.in_place:
            self.function(xp, z, out)
        else:
            out[...] = self._checked(self.function(xp, z), "function", z)

    def delta(self, xp: ArrayModule, dC_da: Array, reference: Array, out: Array) -> None:
        """out = delta = dC/dz = dC/da * g', equation 2; `reference` is a or z."""
        if self.jacobian_product is not None:
            delta = self.jacobian_product(xp, dC_da, reference)
            out[...] = self._checked(delta, "jacobian_product", reference)
        elif self.in_place:
            xp.multiply(dC_da, self.derivative(xp, reference, xp.empty_like(out)), out=out)
        else:
            slope = self._checked(self.derivative(xp, reference), "derivative", reference)
            xp.multiply(dC_da, slope, out=out)

    def _checked(self, result: Any, which: str, given: Array) -> Array:
        """Return a function's result; raise unless it is an array like the one it was given."""
        check_result(result, given.shape, f"the {which} of the activation {self.name!r}", given)
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        # By name if the functions can't be pickled; another process may not know the name.
        functions = self.function, self.derivative, self.jacobian_product or self.function
        is_local = any("<" in getattr(f, "__qualname__", "<") for f in functions)
        if (is_local or self.name in BUILT_IN) and is_registered(self):
            return find_activation, (self.name, dict(self.parameters))
        values = tuple(getattr(self, f.name) for f in fields(self))
        return Activation, values

    def __repr__(self) -> str:
        values = ", ".join(f"{value:g}" for value in self.parameters.values())
        return f"{self.name}({values})" if values else self.name


def LeakyReLU(leak: float = 0.01) -> Activation:
    """Leaky ReLU: z where z > 0, leak * z elsewhere; g'(0) = leak.

    Parameters
    ----------
    leak : float
        The slope for z <= 0, any finite number: 0 is ReLU.

    Raises
    ------
    DomainError
        If leak is not a finite number.
    """
    return _leaky_relu(check_number("leak", leak, "a finite number, for example 0.1"))


def _in_place(function: Callable[[ArrayModule, Array, Array], None]) -> Elementwise:
    """Let a function that fills `out` be called without it: it then returns a new array."""

    def elementwise(xp: ArrayModule, t: Array, out: Array | None = None) -> Array:
        out = xp.empty_like(t) if out is None else out
        function(xp, t, out)
        return out

    elementwise.fills = True  # type: ignore[attr-defined]
    return elementwise


@cache  # one entry a slope, so that two networks with the same slope have equal activations
def _leaky_relu(leak: float) -> Activation:
    @_in_place
    def function(xp: ArrayModule, z: Array, out: Array) -> None:
        if leak == 0:  # 0 * inf would be NaN
            xp.maximum(z, 0, out=out)
            return
        leaked = xp.empty_like(z) if out is z else out
        xp.multiply(z, leak, out=leaked)
        (xp.maximum if leak <= 1 else xp.minimum)(z, leaked, out=out)

    @_in_place
    def derivative(xp: ArrayModule, t: Array, out: Array) -> None:
        above = xp.empty_like(t, dtype=bool)
        xp.greater(t, 0, out=above)
        xp.copyto(out, above)  # 1 or 0
        if 0 <= leak <= 1:  # exact, and many times faster than where
            xp.maximum(out, leak, out=out)
        else:
            leaked = xp.empty_like(out)
            xp.subtract(1, out, out=leaked)
            xp.multiply(leaked, leak, out=leaked)
            xp.add(out, leaked, out=out)

    # For a leak >= 0, a has the sign of z: a > 0 exactly where z > 0.
    t: Literal["a", "z"] = "a" if leak >= 0 else "z"
    return Activation(
        name="leaky_relu",
        # Not LeakyRelu, whose slope is a float32 in float64 too.
        onnx=f"slope = Constant <value = real {{{leak!r}}}> () a = PRelu (z, slope)",
        function=function,
        derivative=derivative,
        derivative_from=t,
        latex=rf"\begin{{cases}} z & z > 0 \\ {leak:g}\,z & z \le 0 \end{{cases}}",
        latex_derivative=rf"\begin{{cases}} 1 & z > 0 \\ {leak:g} & z \le 0 \end{{cases}}",
        cuda=f"z > real(0) ? z : {_leaked(leak)}",
        cuda_derivative=f"{t} > real(0) ? real(1) : real({leak!r})",
        kinks=() if leak == 1 else (0.0,),
        output_range=(-math.inf if leak > 0 else 0.0, math.inf),
        initializer="he_normal",
        parameters={"leak": leak},
    )


def _leaked(leak: float) -> str:
    return f"real({leak!r}) * z" if leak else "(z == z ? real(0) : z)"  # NaN stays NaN


@_in_place
def _identity(xp: ArrayModule, z: Array, out: Array) -> None:
    if out is not z:
        xp.copyto(out, z)


@_in_place
def _ones(xp: ArrayModule, a: Array, out: Array) -> None:
    xp.copyto(out, 1)


@_in_place
def _sigmoid(xp: ArrayModule, z: Array, out: Array) -> None:
    # exp may overflow to infinity for z << 0, and 1/(1 + inf) is the right 0.
    xp.negative(z, out=out)
    xp.exp(out, out=out)
    xp.add(out, 1, out=out)
    xp.divide(1, out, out=out)


@_in_place
def _sigmoid_derivative(xp: ArrayModule, a: Array, out: Array) -> None:
    xp.subtract(1, a, out=out)
    xp.multiply(out, a, out=out)


@_in_place
def _tanh(xp: ArrayModule, z: Array, out: Array) -> None:
    xp.tanh(z, out=out)


@_in_place
def _tanh_derivative(xp: ArrayModule, a: Array, out: Array) -> None:
    xp.multiply(a, a, out=out)
    xp.subtract(1, out, out=out)


@_in_place
def _exp(xp: ArrayModule, z: Array, out: Array) -> None:
    xp.exp(z, out=out)


@_in_place
def _softplus(xp: ArrayModule, z: Array, out: Array) -> None:
    xp.logaddexp(z, 0, out=out)


@_in_place
def _softplus_derivative(xp: ArrayModule, a: Array, out: Array) -> None:
    xp.negative(a, out=out)
    xp.expm1(out, out=out)
    xp.negative(out, out=out)


def _softmax(xp: ArrayModule, z: Array) -> Array:
    a = xp.exp(z - z.max(axis=-1, keepdims=True))
    a /= a.sum(axis=-1, keepdims=True)
    return a


def _softmax_derivative(xp: ArrayModule, a: Array) -> Array:
    """Return the diagonal of the Jacobian: da_j/dz_j = a_j (1 - a_j)."""
    return _sigmoid_derivative(xp, a)


def _softmax_jacobian_product(xp: ArrayModule, dC_da: Array, a: Array) -> Array:
    """delta_j = a_j (dC/da_j - sum_k a_k dC/da_k)."""
    return a * (dC_da - (a * dC_da).sum(axis=-1, keepdims=True))


def _silu_derivative(xp: ArrayModule, z: Array) -> Array:
    s = _sigmoid(xp, z)
    return s * (1 + z * (1 - s))


def _gelu(xp: ArrayModule, z: Array) -> Array:
    return z * normal_cdf(xp, z)


def _gelu_derivative(xp: ArrayModule, z: Array) -> Array:
    return normal_cdf(xp, z) + z * xp.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


# Node by node what runtimes look for to compute a GELU in one piece.
GELU_ONNX = """
    root = Constant <value = real {1.4142135623730951}> ()
    one = Constant <value = real {1.0}> ()
    half = Constant <value = real {0.5}> ()
    scaled = Div (z, root)
    erf = Erf (scaled)
    sum = Add (erf, one)
    double = Mul (z, sum)
    a = Mul (double, half)
"""

ACTIVATIONS: dict[str, Callable[..., Activation]] = {"leaky_relu": LeakyReLU}
"""Every activation that can be named, as a function that builds it."""

BUILT_IN: set[str] = set()
"""The names that can't be registered again."""


def register_activation(activation: Activation, *, replace: bool = False) -> Activation:
    """Make an activation known by its name, on every backend; return it.

    `function` and `derivative` need nothing but what NumPy and CuPy share. With `cuda` and
    `cuda_derivative` as well, the GPU fuses the activation as it does the built-in ones.

    Parameters
    ----------
    activation : Activation
    replace : bool
        Whether it may replace one that was registered by this name, as when a cell of a notebook
        is run again. Built-in ones can't be replaced. Networks keep the activations they have.

    Raises
    ------
    DtypeError, ShapeError, DomainError
        If it does not keep to what `Activation` says, or its name is taken.

    Examples
    --------
    >>> import backprop_gpu as bp
    >>> softsign = bp.register_activation(bp.Activation(
    ...     "softsign",
    ...     function=lambda xp, z: z / (1 + xp.abs(z)),
    ...     derivative=lambda xp, z: 1 / (1 + xp.abs(z)) ** 2,
    ...     derivative_from="z",
    ... ))
    >>> net = bp.MLP([2, 3, 1], activations=["softsign", "identity"], device="cpu")
    """
    if not isinstance(activation, Activation):
        raise DtypeError(f"activation is {activation!r}; expected an Activation")
    check_activation(activation)
    check_name("an activation", activation.name, ACTIVATIONS, BUILT_IN, replace=replace)

    def build(**parameters: float) -> Activation:
        if parameters and parameters != dict(activation.parameters):
            raise DomainError(
                f"the activation {activation.name!r} is registered with the parameters "
                f"{dict(activation.parameters)}, not {parameters}"
            )
        return activation

    ACTIVATIONS[activation.name] = build
    return activation


@cache
def check_activation(activation: Activation) -> None:
    """Raise if the functions of an activation don't keep to what `Activation` says.

    They are called once, on an array of two rows and three columns.
    """
    name = f"the activation {activation.name!r}"
    z = np.linspace(-0.5, 0.75, 6, dtype=np.float32).reshape(2, 3)
    with np.errstate(all="ignore"):
        with untouched(f"the function of {name}", np, z) as (given,):
            a = activation.function(np, given)
        check_result(a, z.shape, f"the function of {name}", z)
        reference = z if activation.derivative_from == "z" else a.astype(z.dtype)
        if activation.jacobian_product is None:
            which, function, arguments = "derivative", activation.derivative, [reference]
        else:
            which, function = "jacobian_product", activation.jacobian_product
            arguments = [np.ones_like(z), reference]
        with untouched(f"the {which} of {name}", np, *arguments) as copies:
            result = function(np, *copies)
        check_result(result, z.shape, f"the {which} of {name}", z)


def find_activation(entry: str | Activation, parameters: Mapping[str, float] = {}) -> Activation:
    """Return an entry of the table by its name, or the entry itself.

    Raises
    ------
    UnknownNameError
        If no activation has this name; the near misses are suggested.
    """
    if isinstance(entry, Activation):
        check_activation(entry)
        return entry
    given: object = entry
    if given is LeakyReLU:
        raise DtypeError("activation is the function LeakyReLU; call it, LeakyReLU()")
    if not isinstance(entry, str) or entry not in ACTIVATIONS:
        remedy = "; make an Activation of your own functions" if callable(given) else ""
        raise UnknownNameError("activation", entry, ACTIVATIONS, remedy)
    return ACTIVATIONS[entry](**parameters)


def is_registered(g: Activation) -> bool:
    """Return whether the table has this entry, by its name and parameters."""
    with suppress(TypeError, DomainError):  # raised where the table's takes other parameters
        return g.name in ACTIVATIONS and find_activation(g.name, g.parameters) == g
    return False


for _entry in (
    Activation(
        name="identity",
        onnx="a = Identity (z)",
        function=_identity,
        derivative=_ones,
        derivative_from="a",
        latex=r"z",
        latex_derivative=r"1",
        cuda="z",
        cuda_derivative="real(1)",
    ),
    Activation(
        name="sigmoid",
        onnx="a = Sigmoid (z)",
        function=_sigmoid,
        derivative=_sigmoid_derivative,
        derivative_from="a",
        latex=r"\frac{1}{1 + e^{-z}}",
        latex_derivative=r"a\,(1 - a)",
        cuda="real(1) / (real(1) + exp(-z))",
        cuda_derivative="a * (real(1) - a)",
        output_range=(0.0, 1.0),
    ),
    Activation(
        name="tanh",
        onnx="a = Tanh (z)",
        function=_tanh,
        derivative=_tanh_derivative,
        derivative_from="a",
        latex=r"\tanh z",
        latex_derivative=r"1 - a^2",
        cuda="tanh(z)",
        cuda_derivative="real(1) - a * a",
        output_range=(-1.0, 1.0),
    ),
    Activation(
        name="relu",
        onnx="a = Relu (z)",
        function=LeakyReLU(0.0).function,
        derivative=LeakyReLU(0.0).derivative,
        derivative_from="a",
        latex=r"\max(0, z)",
        latex_derivative=r"\begin{cases} 1 & z > 0 \\ 0 & z \le 0 \end{cases}",
        cuda=LeakyReLU(0.0).cuda,
        cuda_derivative=LeakyReLU(0.0).cuda_derivative,
        kinks=(0.0,),
        output_range=(0.0, math.inf),
        initializer="he_normal",
    ),
    Activation(
        name="softplus",
        onnx="a = Softplus (z)",
        function=_softplus,
        derivative=_softplus_derivative,
        derivative_from="a",
        latex=r"\ln(1 + e^{z})",
        latex_derivative=r"1 - e^{-a}",
        cuda="(z > real(0) ? z : real(0)) + log1p(exp(-fabs(z)))",
        cuda_derivative="-expm1(-a)",
        output_range=(0.0, math.inf),
        initializer="he_normal",
    ),
    Activation(
        name="silu",
        onnx="sigma = Sigmoid (z) a = Mul (z, sigma)",
        function=lambda xp, z: z * _sigmoid(xp, z),
        derivative=_silu_derivative,
        derivative_from="z",
        latex=r"z\,\sigma(z)",
        latex_derivative=r"\sigma(z)\,\bigl(1 + z\,(1 - \sigma(z))\bigr)",
        cuda="z / (real(1) + exp(-z))",
        cuda_derivative=(
            "(real(1) + z * (real(1) - real(1) / (real(1) + exp(-z)))) / (real(1) + exp(-z))"
        ),
        output_range=(-0.2784645427610738, math.inf),
        initializer="he_normal",
    ),
    Activation(
        name="gelu",
        onnx=GELU_ONNX,
        function=_gelu,
        derivative=_gelu_derivative,
        derivative_from="z",
        latex=r"z\,\Phi(z)",
        latex_derivative=r"\Phi(z) + z\,\varphi(z)",
        cuda="z * real(0.5) * erfc(real(-0.7071067811865476) * z)",
        cuda_derivative=(
            "real(0.5) * erfc(real(-0.7071067811865476) * z)"
            " + z * real(0.3989422804014327) * exp(real(-0.5) * z * z)"
        ),
        output_range=(-0.16997120747990369, math.inf),
        initializer="he_normal",
    ),
    Activation(
        name="exp",
        function=_exp,
        derivative=_identity,
        derivative_from="a",
        latex=r"e^{z}",
        latex_derivative=r"a",
        cuda="exp(z)",
        cuda_derivative="a",
        onnx="a = Exp (z)",
        output_range=(0.0, math.inf),
    ),
    Activation(
        name="softmax",
        onnx="a = Softmax <axis = -1> (z)",
        function=_softmax,
        derivative=_softmax_derivative,
        derivative_from="a",
        latex=r"\frac{e^{z_j}}{\sum_k e^{z_k}}",
        latex_derivative=r"a_j\,([j = k] - a_k)",
        output_range=(0.0, 1.0),
        jacobian_product=_softmax_jacobian_product,
        cuda_rows="softmax",
    ),
):
    register_activation(_entry)
BUILT_IN |= set(ACTIVATIONS)
