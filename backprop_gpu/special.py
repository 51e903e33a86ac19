"""A function that NumPy lacks."""

from __future__ import annotations

import math

from backprop_gpu.arrays import Array, ArrayModule

# log(erfc(x) / t) + x^2 as a Chebyshev series in 2t - 1, where t = 2/(2 + x), x >= 0: erfc to
# float64's rounding. NumPy has no erf. Fitted with 60 digits; tests/test_activations.py holds it
# to an independent one.
ERFC = (
    -0.6513268598908547,
    0.6419697923564902,
    0.019476473204185836,
    -0.009561514786808632,
    -0.0009465953444820369,
    0.00036683949785276145,
    4.252332480690777e-05,
    -2.0278578112534242e-05,
    -1.6242900046470256e-06,
    1.3036558355805232e-06,
    1.5626441722066142e-08,
    -8.523809591492654e-08,
    6.5290544390988515e-09,
    5.059343495551469e-09,
    -9.91364156493033e-10,
    -2.273651222931836e-10,
    9.646791102015527e-11,
    2.3940380830391146e-12,
    -6.886027526497553e-12,
    8.944879273090725e-13,
    3.130921399342958e-13,
    -1.1270822361367252e-13,
    3.810905255189232e-16,
    7.106097613609237e-15,
    -1.5230282014571043e-15,
    -9.457494571291233e-17,
    1.210237189224279e-16,
    -2.816663087747177e-17,
    2.3281042579529253e-18,
)


def normal_cdf(xp: ArrayModule, z: Array) -> Array:
    """Return the standard normal distribution's cumulative probability at z."""
    x = xp.abs(z) * math.sqrt(0.5)
    t = 2 / (2 + x)
    u = 4 * t - 2
    b0 = b1 = xp.zeros_like(z)
    for c in reversed(ERFC[1:]):  # Clenshaw's recurrence
        b0, b1 = u * b0 - b1 + c, b0
    upper = 0.5 * t * xp.exp(0.5 * u * b0 - b1 + ERFC[0] - x * x)
    return xp.where(z < 0, upper, 1 - upper)
