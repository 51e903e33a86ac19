"""Every derivative against three judges that share nothing with the library.

50 digits, by sums over nodes and samples as a book writes them; HIPS autograd, for everything
that goes with everything and for hundreds of random networks; finite differences.
"""

import itertools

import numpy as np
import pytest

import backprop_gpu as bp
from backprop_gpu.activations import ACTIVATIONS
from backprop_gpu.losses import LOSSES

try:
    import mpmath
except ImportError:
    mpmath = None
try:
    import autograd
    import autograd.numpy as anp
except ImportError:
    autograd = None
try:
    from autograd.scipy.special import erfc
except ImportError:
    erfc = None

# Where there is a GPU, and little else, finite differences judge alone.
needs_mpmath = pytest.mark.skipif(mpmath is None, reason="mpmath is not installed")
needs_autograd = pytest.mark.skipif(autograd is None, reason="autograd is not installed")

EVERY = [*(name for name in ACTIVATIONS if name != "leaky_relu"), *map(bp.LeakyReLU, (0.1, 2, -1))]
BETWEEN_0_AND_1 = ("sigmoid", "softmax")
PAIRS = [
    pytest.param(g, loss, id=f"{g}-{loss}")
    for g, loss in itertools.product(EVERY, LOSSES)
    if g in BETWEEN_0_AND_1 or LOSSES[loss].output_range is None
]


def network(sizes, activations, seed, backend="cpu", dtype="float64"):
    net = bp.MLP(sizes, activations, device=backend, dtype=dtype)
    random = np.random.default_rng(seed)
    net.set_parameters(
        [random.normal(0, 1 / np.sqrt(W.shape[1]), W.shape) for W in net.weights],
        [random.normal(0, 0.5, b.shape) for b in net.biases],
    )
    return net


def data(n, net, loss, seed=0):
    """Return x, and y from the interior of the loss's domain."""
    random = np.random.default_rng([n, seed])
    m = net.layer_sizes[-1]
    if m > 1:
        y = random.dirichlet(np.ones(m), n)
    elif str(net.activations[-1]) == "softmax" or "categorical" in loss:
        y = np.ones((n, 1))  # all there is to say of one class
    else:
        y = random.uniform(size=(n, 1))
    return random.normal(size=(n, net.layer_sizes[0])), y


def terms(net, x, y, loss):
    """All that backward gives, as NumPy arrays by name."""
    trace = net.forward(x)
    grads = net.backward(trace, y, loss)
    groups = {
        "z": trace.z,
        "a": trace.a,
        "dC/dW": grads.weights,
        "dC/db": grads.biases,
        "delta": grads.deltas,
        "dC/da": grads.activations,
        "C": (grads.C,),
    }
    return {name: [net.backend.to_numpy(a) for a in arrays] for name, arrays in groups.items()}


def assert_agree(actual, expected, tolerance):
    """Every entry is off by no more than `tolerance` times its array's largest entry."""
    for name, arrays in expected.items():
        for l, array in enumerate(arrays):
            np.testing.assert_allclose(
                actual[name][l],
                array,
                rtol=0,
                atol=tolerance * max(np.abs(array).max(), 1e-300),
                err_msg=f"{name}, index {l}",
            )


# ---- 50 digits -----------------------------------------------------------------------------------

LEAKY = bp.LeakyReLU(0.1)
BOOK_G = {
    LEAKY: (
        lambda z: z if z > 0 else mpmath.mpf(0.1) * z,
        lambda z: 1 if z > 0 else mpmath.mpf(0.1),
    ),
    "sigmoid": (lambda z: 1 / (1 + mpmath.exp(-z)), lambda z: 1 / (2 + 2 * mpmath.cosh(z))),
    "tanh": (lambda z: mpmath.tanh(z), lambda z: mpmath.sech(z) ** 2),
}
BOOK_C = {
    "mse": (
        lambda a, y: sum((p - q) ** 2 for p, q in zip(a, y, strict=True)) / len(a),
        lambda a, y, m: 2 * (a - y) / m,
    ),
    "sse": (
        lambda a, y: sum((p - q) ** 2 for p, q in zip(a, y, strict=True)),
        lambda a, y, m: 2 * (a - y),
    ),
    "binary_cross_entropy": (
        lambda a, y: (
            -sum(q * mpmath.log(p) + (1 - q) * mpmath.log(1 - p) for p, q in zip(a, y, strict=True))
        ),
        lambda a, y, m: (a - y) / (a * (1 - a)),
    ),
}


def by_the_book(net, x, y, loss):
    """One sample after the other, one node after the other, in 50 digits: no matrix anywhere."""
    n, L = len(x), len(net.layers)
    W = [[[mpmath.mpf(float(w)) for w in row] for row in W] for W in net.weights]
    b = [[mpmath.mpf(float(v)) for v in b] for b in net.biases]
    g = [BOOK_G[g if g == LEAKY else g.name] for g in net.activations]
    C_i, dC_i = BOOK_C[loss]
    book = {"a": [[] for _ in range(L + 1)], "dC/da": [[] for _ in range(L + 1)], "C": [[0]]}
    book |= {"z": [[] for _ in range(L)], "delta": [[] for _ in range(L)]}
    book["dC/dW"] = [[[0 for _ in row] for row in layer] for layer in W]
    book["dC/db"] = [[0 for _ in layer] for layer in b]

    for x_i, y_i in zip(x, y, strict=True):
        target = [mpmath.mpf(float(v)) for v in y_i]
        a, z = [[mpmath.mpf(float(v)) for v in x_i]], []
        for l in range(L):
            z.append(
                [
                    sum(W[l][j][k] * a[l][k] for k in range(len(a[l]))) + b[l][j]
                    for j in range(len(b[l]))
                ]
            )
            a.append([g[l][0](v) for v in z[l]])
        book["C"][0][0] += C_i(a[L], target) / n

        dC_da = [dC_i(a[L][j], target[j], len(target)) / n for j in range(len(target))]
        book["dC/da"][L].append(dC_da)
        for l in reversed(range(L)):
            delta = [dC_da[j] * g[l][1](z[l][j]) for j in range(len(z[l]))]
            for j in range(len(delta)):
                book["dC/db"][l][j] += delta[j]
                for k in range(len(a[l])):
                    book["dC/dW"][l][j][k] += delta[j] * a[l][k]
            # Every node of the next layer hears from node k.
            dC_da = [
                sum(delta[j] * W[l][j][k] for j in range(len(delta))) for k in range(len(a[l]))
            ]
            book["delta"][l].append(delta)
            book["dC/da"][l].append(dC_da)
        for l in range(L):
            book["z"][l].append(z[l])
        for l in range(L + 1):
            book["a"][l].append(a[l])
    return {name: [np.array(array, float) for array in arrays] for name, arrays in book.items()}


@needs_mpmath
@pytest.mark.parametrize("loss", BOOK_C)
@pytest.mark.parametrize("n", [1, 3])
def test_everything_agrees_with_50_digits(loss, n, backend, dtype):
    sizes = (2, 3, 4, 2)
    net = network(sizes, [LEAKY, "tanh", "sigmoid"], 5, backend, dtype)
    x, y = (array.astype(dtype) for array in data(n, net, loss, 2))
    exact = net.copy(device="cpu")
    with mpmath.workdps(50):
        book = by_the_book(exact, x, y, loss)
    assert (book["z"][0] < 0).any()  # or the leak would not be tested
    assert (book["z"][0] > 0).any()
    assert_agree(terms(net, x, y, loss), book, 8 * np.finfo(dtype).eps)


@needs_mpmath
def test_the_leak_is_seen_where_z_is_negative(backend):
    """On the textbook's own sample no z is negative, so on another."""
    net, x, y = bp.textbook(device=backend)
    x = x - 1
    with mpmath.workdps(50):
        book = by_the_book(net.copy(device="cpu"), x, y, "mse")
    assert (book["z"][0] < 0).all()
    assert_agree(terms(net, x, y, "mse"), book, 8 * np.finfo(float).eps)


# ---- autograd ------------------------------------------------------------------------------------


def forward(g, z):
    """g(z) of an activation entry, in operations that autograd differentiates."""
    match g.name:
        case "leaky_relu":
            return anp.where(z > 0, z, g.parameters["leak"] * z)
        case "relu":
            return anp.where(z > 0, z, 0.0)
        case "sigmoid":
            return 0.5 * (anp.tanh(0.5 * z) + 1)
        case "tanh":
            return anp.tanh(z)
        case "identity":
            return z
        case "exp":
            return anp.exp(z)
        case "softplus":
            return anp.logaddexp(z, 0.0)
        case "silu":
            return z * 0.5 * (anp.tanh(0.5 * z) + 1)
        case "gelu":
            if erfc is None:
                pytest.skip("without scipy, autograd has no erfc")
            return 0.5 * z * erfc(-z / np.sqrt(2))
        case "softmax":
            e = anp.exp(z - anp.max(z, 1, keepdims=True))
            return e / anp.sum(e, 1, keepdims=True)


def cost(loss, a, y):
    match loss:
        case "mse":
            return anp.mean((a - y) ** 2)
        case "sse":
            return anp.sum((a - y) ** 2) / len(y)
        case "binary_cross_entropy":
            other = 0.0 if (y == 1).all() else (1 - y) * anp.log(1 - a)
            return -anp.sum(y * anp.log(a) + other) / len(y)
        case "categorical_cross_entropy":
            return -anp.sum(y * anp.log(a)) / len(y)


def by_autograd(net, x, y, loss):
    """Differentiate the loss by W, b, and by what could be added to every z and a."""

    def C(W, b, z_added, a_added):
        a = x + a_added[0]
        for l, g in enumerate(net.activations):
            z = anp.dot(a, W[l].T) + b[l] + z_added[l]
            a = forward(g, z) + a_added[l + 1]
        return cost(loss, a, y)

    nothing = [np.zeros((len(x), nodes)) for nodes in net.layer_sizes]
    given = (list(net.weights), list(net.biases), nothing[1:], nothing)
    value, gradient = autograd.differential_operators.value_and_grad(C, (0, 1, 2, 3))(*given)
    names = ("dC/dW", "dC/db", "delta", "dC/da")
    return dict(zip(names, gradient, strict=True)) | {"C": [np.array([value])]}


@needs_autograd
@pytest.mark.parametrize("n", [1, 2, 3, 5, 31])
@pytest.mark.parametrize("outputs", [1, 2, 5])
@pytest.mark.parametrize(("g", "loss"), PAIRS)
def test_everything_agrees_with_autograd(g, loss, outputs, n):
    sizes = (3, 5, 2, outputs)  # batches as large as a layer is wide, and not
    before = "tanh" if str(g) == "exp" else g  # e^e^e^z has few digits left
    net = network(sizes, [before, before, g], n)
    x, y = data(n, net, loss)
    assert_agree(terms(net, x, y, loss), by_autograd(net, x, y, loss), 1e-12)


@needs_autograd
@pytest.mark.parametrize("seed", range(300))
def test_random_networks_agree_with_autograd(seed):
    random = np.random.default_rng(seed)
    depth = random.integers(1, 6)
    sizes = [int(size) for size in random.integers(1, 10, depth + 1)]
    every = [*EVERY, bp.LeakyReLU(random.uniform(-2, 2)), bp.LeakyReLU(0)]
    activations = [every[i] for i in random.integers(len(every), size=depth)]
    suitable = [
        loss
        for loss in LOSSES
        if LOSSES[loss].output_range is None or activations[-1] in BETWEEN_0_AND_1
    ]
    loss = suitable[random.integers(len(suitable))]
    net = network(sizes, activations, seed)
    x, y = data(int(random.integers(1, 10)), net, loss, seed)
    assert_agree(terms(net, x, y, loss), by_autograd(net, x, y, loss), 1e-11)


# ---- finite differences --------------------------------------------------------------------------


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("g", "loss"), PAIRS)
def test_everything_agrees_with_finite_differences(g, loss, weight_decay):
    for outputs, n in ((1, 3), (2, 2), (5, 1)):
        sizes = (2, 3, outputs)
        net = network(sizes, [g, g], 11 + n)
        x, y = data(n, net, loss)
        report = bp.check_gradients(
            net, x, y, loss, weight_decay=weight_decay, max_entries=4, directions=1
        )
        assert all(term.checked for term in report.terms)


@pytest.mark.parametrize(("g", "loss"), PAIRS)
def test_every_backend_agrees_with_finite_differences(g, loss, backend, dtype):
    sizes = (3, 4, 2)
    net = network(sizes, [g, g], 3, backend, dtype)
    x, y = data(5, net, loss)
    bp.check_gradients(net, x, y, loss, max_entries=2, directions=1)


# ---- the full Jacobian ---------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_softmax_goes_with_every_loss(loss, backend, dtype):
    """delta = J^T dC/da, with J[j, k] = a_j ([j = k] - a_k), whatever shortcut is taken."""
    net = network((3, 4), ["softmax"], 1, backend, dtype)
    x, y = data(6, net, loss)
    found = terms(net, x, y, loss)
    a, dC_da = found["a"][1].astype(float), found["dC/da"][1].astype(float)
    J = np.einsum("ij,jk->ijk", a, np.eye(4)) - np.einsum("ij,ik->ijk", a, a)
    delta = np.einsum("ijk,ij->ik", J, dC_da)
    assert_agree(found, {"delta": [delta]}, 64 * np.finfo(dtype).eps)
