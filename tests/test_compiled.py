"""The compiled training loop: step by step what NumPy computes, whatever the sizes."""

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from cases import HEADS, OPTIMIZERS, SOFTSIGN, TOLERANCE, TrainingCase
from host.needs import needs_compiler

import backprop_gpu as bp
from backprop_gpu import kernels
from backprop_gpu.compiled import (
    CompiledLoop,
    CompileError,
    compiler,
    seconds_worth_compiling,
    why_not,
)
from backprop_gpu.losses import find_loss
from backprop_gpu.shuffle import shuffled

pytestmark = pytest.mark.usefixtures("compiled_soon")


class Case(TrainingCase):
    """A training by NumPy, and by the compiled loop."""

    def __init__(self, *args, threads=1, **options):
        super().__init__(*args, **options)
        self.threads, self.start = threads, self.net.parameters.copy()

    def by_numpy(self):
        """Losses, parameters and state after the steps."""
        net, state, losses = self.net, [slot.copy() for slot in self.state], []
        net.parameters[...] = self.start
        for step, numbers in zip(self.steps, self.numbers, strict=True):
            epoch, batch = divmod(step, self.batches)
            order = np.arange(len(self.x))
            if self.seed is not None:
                order = shuffled(len(self.x), epoch, self.seed)
            rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            grads = net.backward(net.forward(self.x[rows]), self.y[rows], self.loss)
            losses.append(grads.loss)
            numbers = numbers.astype(net.dtype)
            self.optimizer.update(
                np, net.parameters, grads.flat.copy(), state, numbers, net.weight_count
            )
        return np.array(losses), net.parameters.copy(), *state

    def loop(self):
        net = self.net
        return CompiledLoop(
            net.layer_sizes,
            net.activations,
            self.loss,
            self.optimizer,
            net.dtype,
            self.batch_size,
            self.threads,
        )

    def by_loop(self, loop=None):
        parameters, state = self.start.copy(), [slot.copy() for slot in self.state]
        losses = np.full(len(self.steps), np.nan, self.net.dtype)
        ran = (loop or self.loop()).run(
            parameters,
            state,
            self.x,
            self.y,
            first_step=self.steps[0],
            numbers=self.numbers,
            losses=losses,
            seed=self.seed,
        )
        assert ran == len(losses)
        return losses, parameters, *state

    def check(self):
        self.check_close(self.by_loop(), self.by_numpy())


@needs_compiler
@pytest.mark.parametrize(
    ("sizes", "n", "batch_size", "dtype"),
    [
        ((5, 3, 5, 4), 1, 1, "float64"),  # the textbook's
        ((1, 1), 2, 1, "float32"),
        ((2, 31, 1), 10, 4, "float32"),
        ((2, 31, 1), 10, 2**32 + 3, "float32"),  # which an int would have as 3
        ((33, 1, 257, 2), 37, 37, "float64"),
        ((31, 33, 3), 70, 33, "float32"),
        ((16, 64, 32, 10), 700, 500, "float64"),  # and a smaller batch
        ((16, 64, 32, 10), 5000, 4900, "float64"),  # several tiles, and then one
        ((257, 31, 33), 5, 1, "float32"),
        ((257, 131, 5), 5, 1, "float64"),  # whose gradients are applied at once
        ((7, 300, 5), 40, 40, "float64"),
    ],
)
def test_sizes(sizes, n, batch_size, dtype):
    activations = [bp.LeakyReLU(0.1), *["sigmoid"] * (len(sizes) - 2)]
    Case(sizes, activations, n=n, batch_size=batch_size, dtype=dtype).check()


@needs_compiler
def test_optimised_as_it_is_used(monkeypatch):
    monkeypatch.delenv("CXX")
    activations = [bp.LeakyReLU(0.1), "sigmoid", "softmax"]
    Case((20, 33, 40, 7), activations, "cce", n=90, batch_size=50).check()
    Case((20, 33, 40, 7), activations, "cce", n=3, batch_size=1, dtype="float32").check()


ELEMENTWISE = sorted(set(bp.activations.ACTIVATIONS) - {"softmax"})


@needs_compiler
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_activations(dtype):
    """All of them, one above the other."""
    Case([9] * len(ELEMENTWISE) + [4, 3], [*ELEMENTWISE, "softmax"], "sse", dtype=dtype).check()


@needs_compiler
@pytest.mark.parametrize(("activation", "loss"), HEADS)
def test_losses(activation, loss):
    Case((4, 10, 5), ["tanh", activation], loss, n=19, batch_size=9).check()


@needs_compiler
@pytest.mark.parametrize("wide", [10, 130])  # less than a panel, and more
def test_softmax_inside(wide):
    Case((4, wide, 12, 5), ["softmax", "softmax", "tanh"], batch_size=7).check()


@needs_compiler
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_optimizers(optimizer):
    Case((6, 20, 3), ["tanh", "sigmoid"], optimizer=optimizer, n=20, batch_size=8).check()


@needs_compiler
@pytest.mark.parametrize("seed", [None, 0, 2**64 - 1, 2**70 + 5])
@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (2, 1), (1000, 900)])
def test_order_of_samples(n, batch_size, seed):
    Case((3, 2), ["tanh"], n=n, batch_size=batch_size, seed=seed, first_step=5, steps=9).check()


@needs_compiler
def test_chunks_go_on_where_the_last_one_ended():
    case = Case((3, 12, 2), ["tanh", "tanh"], optimizer=bp.Adam(), n=10, seed=1, steps=11)
    whole = case.by_loop()
    parts = []
    for first, last in pairwise((0, 2, 3, 11)):
        part = Case(
            *((3, 12, 2), ["tanh", "tanh"]),
            **{"optimizer": bp.Adam(), "n": 10, "seed": 1},
            steps=last - first,
            first_step=first,
        )
        if parts:
            part.start, *part.state = parts[-1][1:]
        parts.append(part.by_loop())
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), whole[0])
    np.testing.assert_array_equal(parts[-1][1], whole[1])


@needs_compiler
@pytest.mark.parametrize("sizes", [(3, 2), (3, 12, 2)])
def test_a_loop_keeps_nothing_that_the_next_run_would_see(sizes):
    """An order is drawn once for all runs in an epoch, and again for another one."""
    drawn = [(10, 1, 0), (10, 1, 1), (10, 2, 1), (10, 2, 9), (7, 2, 9), (10, None, 9), (10, 2, 9)]
    activations, loop = ["tanh"] * (len(sizes) - 1), None
    for n, seed, first_step in drawn:
        options = {"n": n, "seed": seed, "first_step": first_step, "steps": 2, "batch_size": 4}
        case = Case(sizes, activations, **options)
        loop = loop or case.loop()
        for mine, expected in zip(case.by_loop(loop), case.by_loop(), strict=True):
            np.testing.assert_array_equal(mine, expected)


@needs_compiler
def test_runs_of_one_loop_take_turns():
    case = Case((33, 20, 2), ["tanh", "tanh"], n=101, batch_size=50, seed=2, steps=300)
    alone, loop = case.by_loop(), case.loop()
    with ThreadPoolExecutor(4) as pool:
        for run in pool.map(lambda _: case.by_loop(loop), range(8)):
            for mine, expected in zip(run, alone, strict=True):
                np.testing.assert_array_equal(mine, expected)


@needs_compiler
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("sizes", "n", "batch_size"),
    [((33, 20, 17, 10), 101, 50), ((7, 130, 257, 3), 200, 99), ((16, 64, 32, 10), 5000, 4900)],
)
def test_the_number_of_threads_changes_no_bit(sizes, n, batch_size, dtype, monkeypatch):
    """They share a batch, also one smaller than they are many; optimised as it is used."""
    monkeypatch.delenv("CXX")
    case = Case(
        *(sizes, ["tanh", "silu", "sigmoid"], "mse", bp.Adam(0.01, weight_decay=0.1)),
        **{"n": n, "batch_size": batch_size, "seed": 2, "dtype": dtype},
    )
    case.check()
    alone = case.by_loop()
    for case.threads in (1, 2, 3, 7):
        for shared, expected in zip(case.by_loop(), alone, strict=True):
            np.testing.assert_array_equal(shared, expected)


SAME_CORES = """
static void* look(void* set) {
    sched_getaffinity(0, sizeof(cpu_set_t), static_cast<cpu_set_t*>(set));
    return set;
}
extern "C" int same_cores() {
    cpu_set_t mine, its;
    CPU_ZERO(&its);
    sched_getaffinity(0, sizeof mine, &mine);
    Thread thread;
    if (!thread.start(look, &its)) return 0;
    thread.join();
    return CPU_EQUAL(&mine, &its);
}
"""


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no threads")
@pytest.mark.parametrize("cores", [1, None])
def test_threads_may_go_anywhere_that_their_process_may(cores):
    """They are started away from the core of the one that starts them, if there is another."""
    headers = "#include <pthread.h>\n#include <sched.h>\n"
    library = compiler.load(headers + kernels.read("threads.hpp") + SAME_CORES)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        assert library.same_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@needs_compiler
def test_runs_at_the_same_time():
    case = Case((33, 20, 2), ["tanh", "tanh"], n=101, batch_size=50, seed=2, steps=300)
    alone = case.by_loop()
    with ThreadPoolExecutor(4) as pool:
        for run in pool.map(lambda _: case.by_loop(), range(8)):
            for mine, expected in zip(run, alone, strict=True):
                np.testing.assert_array_equal(mine, expected)


@needs_compiler
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("sizes", "threads"), [((3, 4, 2), 1), ((3, 40, 20), 2)])
def test_a_loss_that_is_not_finite_ends_the_run(value, sizes, threads):
    activations = [bp.LeakyReLU(0.1), "identity"]
    case = Case(sizes, activations, n=30, batch_size=10, threads=threads)
    case.x[17, 1] = value  # in the second batch
    parameters, losses = case.start.copy(), np.full(5, 7.0)
    data = {"numbers": case.numbers, "losses": losses, "seed": None}
    assert case.loop().run(parameters, [], case.x, case.y, first_step=0, **data) == 2
    assert np.isfinite(losses[0])
    assert not np.isfinite(losses[1])
    assert (losses[2:] == 7).all()
    assert np.isfinite(parameters).all()


@needs_compiler
def test_saturation():
    """Nothing overflows to NaN where NumPy does not."""
    case = Case((3, 9, 4), ["sigmoid", "sigmoid"], "bce", n=12, batch_size=12)
    case.start *= 1e4
    case.check()
    case = Case((3, 9, 4), ["softplus", "softmax"], "cce", n=12, batch_size=12, steps=1)
    case.start *= 1e3
    case.check()


@needs_compiler
def test_own_entries_with_expressions():
    quartic = bp.Loss(
        "own quartic",
        value=lambda xp, a, y: ((a - y) ** 4).sum(axis=1) + xp.cos(a).sum(axis=1),
        gradient=lambda xp, a, y: 4 * (a - y) ** 3 - xp.sin(a),
        cuda="pow(a - y, real(4)) + cos(a)",
        cuda_gradient="real(4) * pow(a - y, real(3)) - sin(a)",
    )
    Case((3, 9, 4), [SOFTSIGN, SOFTSIGN], quartic, n=12, batch_size=12).check()


def reason(activations=("tanh",), loss="mse", optimizer=None, dtype="float32", sizes=(2, 2)):
    entries = bp.MLP(sizes, activations, device="cpu").activations
    return why_not(sizes, entries, find_loss(loss), optimizer or bp.SGD(), dtype)


@needs_compiler
def test_reasons():
    plain = bp.Activation("plain", lambda xp, z: z, lambda xp, a: a, derivative_from="a")
    half = replace(plain, name="half", cuda="z")
    absolute = bp.Loss("l1", lambda xp, a, y: abs(a - y).sum(1), lambda xp, a, y: xp.sign(a - y))

    class Own(bp.SGD):
        cuda = None

    assert reason() is None
    assert "'plain' has no C++" in reason([plain])
    assert "derivative of the activation 'half' has no C++" in reason([half])
    assert "'l1' has no C++" in reason(loss=absolute)
    assert "Own has no C++" in reason(optimizer=Own())
    assert "float16" in reason(dtype="float16")
    assert "layers" in reason(["tanh"] * 40, sizes=[1] * 41)


def test_large_networks_are_compiled_for_longer_trainings_and_left_to_mkl():
    worth = seconds_worth_compiling
    few, many = (784, 1024, 1024, 10), (784, 2048, 2048, 10)
    assert worth((5, 3, 5, 4), 1, "float64") == worth(few, 1024, "float32")
    assert worth(many, 1024, "float32") == worth(few, 1024, "float64") > worth(few, 64, "float32")
    assert worth(many, 1, "float32") == worth(few, 1, "float32", mkl=True)
    assert worth((784, 512, 10), 128, "float32", mkl=True) == math.inf


def test_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "c++")
    assert "install g++" in reason()
    with pytest.raises(
        bp.DomainError if hasattr(bp, "DomainError") else ValueError, match="g\\+\\+"
    ):
        Case((2, 2), ["tanh"]).loop()


@needs_compiler
def test_an_expression_that_does_not_compile():
    wrong = bp.Activation(
        "wrong",
        lambda xp, z: z,
        lambda xp, a: xp.ones_like(a),
        derivative_from="a",
        cuda="no_such(z)",
        cuda_derivative="real(1)",
    )
    with pytest.raises(CompileError, match="no_such"):
        Case((2, 2), [wrong]).loop()


@needs_compiler
def test_arrays_are_checked():
    case = Case((2, 2), ["tanh"])
    loop = case.loop()

    def run(**other):
        given = {
            "parameters": case.start.copy(),
            "state": [],
            "x": case.x,
            "y": case.y,
            "first_step": 0,
            "numbers": case.numbers,
            "losses": np.zeros(5),
            "seed": None,
        }
        return loop.run(**given | other)

    assert run() == 5
    with pytest.raises(bp.DtypeError, match="x is float32"):
        run(x=case.x.astype("float32"))
    with pytest.raises(bp.DtypeError, match=r"y .*contiguous"):
        run(y=case.y.T.copy().T)
    with pytest.raises(bp.ShapeError, match="numbers"):
        run(losses=np.zeros(6))
    with pytest.raises(bp.ShapeError, match="state has 1"):
        run(state=[case.start])


@needs_compiler
class TestCache:
    SOURCE = 'extern "C" int answer() { return 42; }'

    def test_is_private_and_used_again(self, tmp_path, monkeypatch):
        folder = tmp_path / "new" / "cache"
        monkeypatch.setenv("BACKPROP_GPU_CACHE", str(folder))
        assert compiler.load(self.SOURCE).answer() == 42
        (library,) = folder.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        before = library.stat().st_mtime_ns
        compiler.load(self.SOURCE)
        assert library.stat().st_mtime_ns == before

    def test_a_file_that_others_can_write_is_not_loaded(self, tmp_path, monkeypatch):
        monkeypatch.setenv("BACKPROP_GPU_CACHE", str(tmp_path))
        tmp_path.chmod(0o700)
        compiler.load(self.SOURCE + "// 2")
        (library,) = tmp_path.iterdir()
        library.unlink()
        library.write_bytes(b"planted")
        library.chmod(0o666)
        compiler._loaded.cache_clear()
        assert compiler.load(self.SOURCE + "// 2").answer() == 42
        assert library.stat().st_mode & 0o022 == 0

    def test_a_folder_that_others_can_write_is_not_used(self, tmp_path, monkeypatch):
        open_to_all = tmp_path / "open"
        open_to_all.mkdir()
        open_to_all.chmod(0o777)
        monkeypatch.setenv("BACKPROP_GPU_CACHE", str(open_to_all))
        assert compiler.load(self.SOURCE).answer() == 42
        assert list(open_to_all.iterdir()) == []

    def test_processes_at_once(self, tmp_path):
        script = (
            "from backprop_gpu.compiled import compiler;"
            f"assert compiler.load({self.SOURCE!r}).answer() == 42"
        )
        environment = {**os.environ, "BACKPROP_GPU_CACHE": str(tmp_path / "cache")}
        processes = [
            subprocess.Popen([sys.executable, "-c", script], env=environment) for _ in range(3)
        ]
        assert [process.wait() for process in processes] == [0, 0, 0]
        assert len(list((tmp_path / "cache").iterdir())) == 1
