"""Losses: one entry carries the value, the gradient and the output activation that suits it.

A loss says what one sample costs, C_i. No entry divides by n: `output_delta`, a backend's or
`Loss`'s, takes the average over the batch, C = (1/n) sum_i C_i.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

from backprop_gpu.activations import Activation, find_activation
from backprop_gpu.arrays import Array, ArrayModule, check_result, untouched
from backprop_gpu.errors import DomainError, DtypeError, UnknownNameError, check_entry, check_name

LossFunction = Callable[[ArrayModule, Array, Array], Array]

# (xp, a, y, share, C, out): C[0] = share * sum_i C_i, and out = share * dC_i/da, by nothing but
# array functions with ``out=``, so that the NumPy backend can record the calls.
InPlace = Callable[[ArrayModule, Array, Array, float, Array, Array], None]


@dataclass(frozen=True)
class Loss:
    """A loss C_i of one sample's outputs.

    Parameters
    ----------
    name : str
        The name in the table.
    value : callable (xp, a, y) -> C_i
        The loss of every sample, shape (n,), from the outputs a and the targets y, both (n, m). It
        leaves them as they are, as all of these functions do.
    gradient : callable (xp, a, y) -> dC_i/da
        Its derivative with respect to every output, shape (n, m).
    latex, latex_gradient : str
        C_i and dC_i/da_j.
    canonical : str, optional
        The output activation for which delta_i = dC_i/dz is a - y. Nothing is then divided by a
        or 1 - a, which may be 0, so saturated outputs are exact.
    canonical_value : callable (xp, z, y) -> C_i, optional
        C_i from the input z of the canonical activation, finite where a is 0 or 1.
    canonical_gradient : callable (xp, z, y) -> dC_i/da, optional
        dC_i/da from z, where it is more exact than from an a that is nearly 0 or 1.
    targets : {"any", "unit interval", "distribution"}
        What y may hold: anything; 0 to 1; rows of 0 to 1 that sum to 1.
    output_range : (float, float), optional
        The outputs for which the loss is defined.
    cuda, cuda_gradient, cuda_canonical : str, optional
        What one output adds to `value`, its entry of `gradient`, and what it adds to
        `canonical_value`, as CUDA C++ expressions of ``a``, ``y`` and the number of outputs
        ``m``; the last one of ``z``, too. Without them the GPU runs the functions above on CuPy
        arrays.
    cuda_canonical_gradient : str, optional
        The same for `canonical_gradient`.
    cuda_canonical_rows : str, optional
        In place of `cuda_canonical`, the name of a kernel that takes whole rows, in the file of
        the activation's row kernels.
    """

    name: str
    value: LossFunction
    gradient: LossFunction
    latex: str = r"C_i"
    latex_gradient: str = r"\partial C_i / \partial a_j"
    canonical: str | None = None
    canonical_value: LossFunction | None = None
    canonical_gradient: LossFunction | None = None
    targets: Literal["any", "unit interval", "distribution"] = "any"
    output_range: tuple[float, float] | None = None
    cuda: str | None = None
    cuda_gradient: str | None = None
    cuda_canonical: str | None = None
    cuda_canonical_gradient: str | None = None
    cuda_canonical_rows: str | None = None

    def __repr__(self) -> str:
        return self.name

    def __post_init__(self) -> None:
        check_entry("loss", self.name, (self.value, self.gradient), ("xp", "a", "y"))
        if self.targets not in ("any", "unit interval", "distribution"):
            raise DomainError(
                f"targets is {self.targets!r}; expected 'any', 'unit interval' or 'distribution'"
            )
        if self.canonical is None:
            unused = [
                f.name for f in fields(self) if "canonical" in f.name and getattr(self, f.name)
            ]
            if unused:
                raise DomainError(
                    f"the loss {self.name!r} has {' and '.join(unused)}, and no canonical, the "
                    "activation for which that is: 'sigmoid', say"
                )

    @property
    def is_built_in(self) -> bool:
        """Whether it is one of the library's, as it is."""
        return self in OF_THE_LIBRARY

    @property
    def in_place(self) -> InPlace | None:
        """A function that computes value and gradient at once and allocates nothing, or None."""
        return IN_PLACE.get((self.value, self.gradient))

    def is_canonical_for(self, activation: Activation) -> bool:
        """Return whether delta = a - y for this output activation."""
        return self.canonical is not None and activation == find_activation(self.canonical)

    def keeps_z(self, activations: Sequence[Activation]) -> list[bool]:
        """Return for each layer whether training reads z: g' or C may be computed from it."""
        kept = [g.derivative_from == "z" for g in activations]
        kept[-1] |= self.is_canonical_for(activations[-1])
        return kept

    def output_delta(
        self,
        xp: ArrayModule,
        activation: Activation,
        z: Array,
        a: Array,
        y: Array,
        C: Array,
        dC_da: Array | None,
        delta: Array | None,
        n: int | None = None,
    ) -> None:
        """Do what `Backend.output_delta` says, with array functions.

        The rows may be a part of a batch of `n` samples; C is then their share of the batch's C.
        """
        n = n or len(a)
        canonical = self.is_canonical_for(activation)
        if canonical and self.canonical_value is not None:
            C_i = self._call("canonical_value", xp, z, y)
        else:
            C_i = self._call("value", xp, a, y)
        check_result(C_i, (len(a),), f"the value of the loss {self.name!r}", a)
        C[0] = C_i.sum() / n

        if delta is dC_da:
            dC_da = None  # delta takes its place
        gradient = None
        if dC_da is not None or (delta is not None and not canonical):
            if canonical and self.canonical_gradient is not None:
                gradient = self._call("canonical_gradient", xp, z, y)
            else:
                gradient = self._call("gradient", xp, a, y)
            check_result(gradient, a.shape, f"the gradient of the loss {self.name!r}", a)
            gradient = gradient / n
        if dC_da is not None:
            dC_da[...] = gradient
        if delta is not None and canonical:
            xp.subtract(a, y, out=delta)
            delta /= n
        elif delta is not None:
            reference = z if activation.derivative_from == "z" else a
            activation.delta(xp, gradient, reference, delta)

    @cached_property
    def _tried(self) -> set[str]:
        """The functions that have left their arguments as they were."""
        return {f.name for f in fields(self)} if self.is_built_in else set()

    def _call(self, which: str, xp: ArrayModule, t: Array, y: Array) -> Array:
        """Call a function; raise if it writes to its arguments, which the first call shows."""
        function: LossFunction = getattr(self, which)
        if which in self._tried:
            return function(xp, t, y)
        with untouched(f"the {which} of the loss {self.name!r}", xp, t, y) as copies:
            result = function(xp, *copies)
        self._tried.add(which)
        return result

    def check_output(self, activation: Activation) -> None:
        """Raise DomainError if outputs of this activation can leave the loss's domain."""
        if self.output_range is None:
            return
        low, high = self.output_range
        if activation.output_range[0] < low or activation.output_range[1] > high:
            raise DomainError(
                f"the loss {self.name!r} needs outputs between {low:g} and {high:g}, and "
                f"{str(activation)!r} can leave them; use {self.canonical!r} in the last layer"
            )

    def check_targets(self, y: Array, xp: ArrayModule, name: str = "y") -> None:
        """Raise DomainError if y holds targets that the loss is not defined for."""
        if self.targets == "any":
            return
        low, high = float(y.min()), float(y.max())
        if low < 0 or high > 1:
            raise DomainError(
                f"{name} holds targets from {low:g} to {high:g}; the loss {self.name!r} is "
                "defined for targets between 0 and 1"
            )
        if self.targets == "distribution":
            # Where the sum is off by more than rounding, so is a - y from the gradient.
            off = float(xp.abs(y.sum(axis=1) - 1).max())
            if off > 1e-5:
                remedy = (
                    "for probabilities, float16 ones too, write y / y.sum(axis=1, keepdims=True, "
                    f"dtype='float64'); for class labels one_hot(labels, {y.shape[1]})"
                )
                if y.shape[1] == 1:
                    remedy = "one output is for two classes with 'binary_cross_entropy'"
                raise DomainError(
                    f"the rows of {name} have to sum to 1 for the loss {self.name!r}, and one is "
                    f"off by {off:g}; {remedy}"
                )


def _squared_errors(xp: ArrayModule, a: Array, y: Array) -> Array:
    error = a - y
    error *= error
    return error.sum(axis=1)


def _squared_errors_gradient(xp: ArrayModule, a: Array, y: Array) -> Array:
    return 2 * (a - y)


def _squared_errors_in_place(
    xp: ArrayModule, a: Array, y: Array, share: float, C: Array, out: Array
) -> None:
    xp.subtract(a, y, out=out)
    errors = out.reshape(-1)
    xp.dot(errors, errors, out=C.reshape(()))
    xp.multiply(C, share, out=C)
    xp.multiply(out, 2 * share, out=out)


def _mean_squared_errors(xp: ArrayModule, a: Array, y: Array) -> Array:
    return _squared_errors(xp, a, y) / a.shape[1]


def _mean_squared_errors_gradient(xp: ArrayModule, a: Array, y: Array) -> Array:
    return (2 / a.shape[1]) * (a - y)


def _mean_squared_errors_in_place(
    xp: ArrayModule, a: Array, y: Array, share: float, C: Array, out: Array
) -> None:
    _squared_errors_in_place(xp, a, y, share / a.shape[1], C, out)


IN_PLACE: dict[tuple[LossFunction, LossFunction], InPlace] = {
    (_squared_errors, _squared_errors_gradient): _squared_errors_in_place,
    (_mean_squared_errors, _mean_squared_errors_gradient): _mean_squared_errors_in_place,
}


def _binary_cross_entropy(xp: ArrayModule, a: Array, y: Array) -> Array:
    # 0 * log(0) is 0: where y is 0 or 1, the other term is left out.
    one = xp.where(y > 0, y * xp.log(a), 0)
    zero = xp.where(y < 1, (1 - y) * xp.log1p(-a), 0)
    return -(one + zero).sum(axis=1)


def _binary_cross_entropy_gradient(xp: ArrayModule, a: Array, y: Array) -> Array:
    return xp.where(y < 1, (1 - y) / (1 - a), 0) - xp.where(y > 0, y / a, 0)


def _binary_cross_entropy_gradient_of_z(xp: ArrayModule, z: Array, y: Array) -> Array:
    # 1 / (1 - a) is 1 + e^z, and 1 / a is 1 + e^-z.
    zero = xp.where(y < 1, (1 - y) * (1 + xp.exp(z)), 0)
    return zero - xp.where(y > 0, y * (1 + xp.exp(-z)), 0)


def _binary_cross_entropy_of_z(xp: ArrayModule, z: Array, y: Array) -> Array:
    return (xp.maximum(z, 0) - y * z + xp.log1p(xp.exp(-xp.abs(z)))).sum(axis=1)


def _categorical_cross_entropy(xp: ArrayModule, a: Array, y: Array) -> Array:
    return -xp.where(y > 0, y * xp.log(a), 0).sum(axis=1)


def _categorical_cross_entropy_gradient(xp: ArrayModule, a: Array, y: Array) -> Array:
    return -xp.where(y > 0, y / a, 0)


def _categorical_cross_entropy_of_z(xp: ArrayModule, z: Array, y: Array) -> Array:
    shifted = z - z.max(axis=1, keepdims=True)
    log_sum = xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
    return xp.where(y > 0, y * (log_sum - shifted), 0).sum(axis=1)


LOSSES: dict[str, Loss] = {}
"""Every loss that can be named."""

ALIASES = {"bce": "binary_cross_entropy", "cce": "categorical_cross_entropy"}

BUILT_IN: set[str] = set()
"""The names that can't be registered again."""

OF_THE_LIBRARY: list[Loss] = []
"""Those of the table, and of the estimators: tests compare their expressions."""


def register_loss(loss: Loss, *, replace: bool = False) -> Loss:
    """Make a loss known by its name, on every backend; return it.

    Parameters
    ----------
    loss : Loss
    replace : bool
        Whether it may replace one that was registered by this name. Built-in ones can't be.

    Raises
    ------
    DtypeError, DomainError
        If it is no Loss, or its name is taken.

    Examples
    --------
    >>> import backprop_gpu as bp
    >>> absolute = bp.register_loss(bp.Loss(
    ...     "absolute",
    ...     value=lambda xp, a, y: xp.abs(a - y).sum(axis=1),
    ...     gradient=lambda xp, a, y: xp.sign(a - y),
    ... ))
    """
    if not isinstance(loss, Loss):
        raise DtypeError(f"loss is {loss!r}; expected a Loss")
    check_name("a loss", loss.name, {*LOSSES, *ALIASES}, BUILT_IN, replace=replace)
    LOSSES[loss.name] = loss
    return loss


def find_loss(entry: str | Loss, others: Iterable[str] = ()) -> Loss:
    """Return an entry of the table by its name or alias, or the entry itself.

    `others` are further names that could have been given, for the message.

    Raises
    ------
    UnknownNameError
        If no loss has this name; the near misses are suggested.
    """
    if isinstance(entry, Loss):
        return entry
    name = ALIASES.get(entry, entry) if isinstance(entry, str) else entry
    if not isinstance(name, str) or name not in LOSSES:
        remedy = "; make a Loss of your own functions" if callable(entry) else ""
        raise UnknownNameError("loss", entry, [*LOSSES, *ALIASES, *others], remedy)
    return LOSSES[name]


for _entry in (
    Loss(
        name="sse",
        value=_squared_errors,
        gradient=_squared_errors_gradient,
        latex=r"\sum_j (a_j - y_j)^2",
        latex_gradient=r"2\,(a_j - y_j)",
        cuda="(a - y) * (a - y)",
        cuda_gradient="real(2) * (a - y)",
    ),
    Loss(
        name="mse",
        value=_mean_squared_errors,
        gradient=_mean_squared_errors_gradient,
        latex=r"\frac{1}{m} \sum_j (a_j - y_j)^2",
        latex_gradient=r"\frac{2}{m}\,(a_j - y_j)",
        cuda="(a - y) * (a - y) / m",
        cuda_gradient="real(2) / m * (a - y)",
    ),
    Loss(
        name="binary_cross_entropy",
        value=_binary_cross_entropy,
        gradient=_binary_cross_entropy_gradient,
        latex=r"-\sum_j \bigl(y_j \ln a_j + (1 - y_j) \ln (1 - a_j)\bigr)",
        latex_gradient=r"\frac{1 - y_j}{1 - a_j} - \frac{y_j}{a_j}",
        canonical="sigmoid",
        canonical_value=_binary_cross_entropy_of_z,
        canonical_gradient=_binary_cross_entropy_gradient_of_z,
        targets="unit interval",
        output_range=(0.0, 1.0),
        cuda=(
            "-((y > real(0) ? y * log(a) : real(0))"
            " + (y < real(1) ? (real(1) - y) * log1p(-a) : real(0)))"
        ),
        cuda_gradient=(
            "(y < real(1) ? (real(1) - y) / (real(1) - a) : real(0))"
            " - (y > real(0) ? y / a : real(0))"
        ),
        cuda_canonical_gradient=(
            "(y < real(1) ? (real(1) - y) * (real(1) + exp(z)) : real(0))"
            " - (y > real(0) ? y * (real(1) + exp(-z)) : real(0))"
        ),
        cuda_canonical="(z > real(0) ? z : real(0)) - y * z + log1p(exp(-fabs(z)))",
    ),
    Loss(
        name="categorical_cross_entropy",
        value=_categorical_cross_entropy,
        gradient=_categorical_cross_entropy_gradient,
        latex=r"-\sum_j y_j \ln a_j",
        latex_gradient=r"-\frac{y_j}{a_j}",
        canonical="softmax",
        canonical_value=_categorical_cross_entropy_of_z,
        targets="distribution",
        output_range=(0.0, 1.0),
        cuda_canonical_rows="softmax_cross_entropy",
        cuda="y > real(0) ? -y * log(a) : real(0)",
        cuda_gradient="y > real(0) ? -y / a : real(0)",
    ),
):
    register_loss(_entry)
BUILT_IN |= {*LOSSES, *ALIASES}
OF_THE_LIBRARY.extend(LOSSES.values())
