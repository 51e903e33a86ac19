"""Pictures: what is drawn, marked and written, and what is refused."""

import sys

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.patches import Circle, Rectangle

import backprop_gpu as bp
from backprop_gpu.explaining.draw import MARK, draw
from backprop_gpu.explaining.jump_back import jump_back
from backprop_gpu.explaining.layout import places, short, shown_nodes, written


@pytest.fixture(scope="module")
def run():
    net, x, y = bp.textbook(device="cpu")
    trace = net.forward(x)
    return net, trace, net.backward(trace, y), jump_back(net, x, y)


def parts(figure, kind):
    return figure.axes[0].findobj(lambda artist: isinstance(artist, kind))


def circles(figure):
    return [c for c in parts(figure, Circle) if (c.get_gid() or "").startswith("node-")]


def weights(figure):
    """By layer and sign: the lines of the picture."""
    return {
        c.get_gid(): c
        for c in parts(figure, LineCollection)
        if (c.get_gid() or "").startswith("weights-")
    }


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def crossed(figure):
    return figure.axes[0].findobj(lambda artist: artist.get_gid() == "crossed")


def test_every_node_weight_and_line_is_drawn(run):
    net, *_ = run
    figure = draw(net)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(circles(figure)) == 5 + 3 + 5 + 4
    assert sum(len(c.get_segments()) for c in weights(figure).values()) == 15 + 15 + 20
    assert {"loss", "sigmoid", "leaky relu(0.1)", "$a_{2}$", "$x_{4}$", "$y_{3}$"} <= {
        *texts(figure)
    }
    lines = {artist.get_gid() for artist in figure.axes[0].lines}
    assert {"activation-1", "activation-2", "activation-3", "loss"} <= lines
    assert not crossed(figure)


def test_nodes_show_their_outputs(run):
    net, trace, *_ = run
    found = texts(draw(net, trace=trace))
    assert {short(float(v)) for a in trace.a for v in a[0]} <= {*found}


def test_the_sign_of_a_weight_needs_no_colours():
    net = bp.MLP([1, 3], device="cpu", dtype="float64")
    net.set_parameters([[[1.0], [-2.0], [0.0]]], [[0, 0, 0]])
    lines = weights(draw(net))
    solid, dashed = lines["weights-1-positive"], lines["weights-1-negative"]
    assert solid.get_linestyle()[0][1] is None
    assert dashed.get_linestyle()[0][1] is not None
    assert dashed.get_linewidth()[0] > solid.get_linewidth()[0]
    assert len(lines["weights-1-zero"].get_segments()) == 1


def test_lines_show_the_gradients_that_are_given(run):
    net, _, gradients, _ = run
    figure = draw(net, gradients=gradients)
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "∂C/∂w above 0"
    shown = weights(figure)
    widths = np.concatenate([shown["weights-3-positive"].get_linewidth()])
    expected = np.sort(gradients.weights[2].ravel())
    expected = 0.5 + 2.9 * expected / expected[-1]
    np.testing.assert_allclose(widths, expected)


def test_every_jump_marks_what_it_crosses_and_writes_what_it_collected(run):
    net, trace, _, jumps = run
    for jump in jumps:
        figure = draw(net, trace=trace, jump=jump)
        (mark,) = crossed(figure)
        band = jump.kind in ("weights", "weights and biases")
        assert isinstance(mark, Rectangle) is band
        colour = mark.get_facecolor()[:3] if band else to_rgba(mark.get_color())[:3]
        assert tuple(colour) == to_rgba(MARK)[:3]
        written_there = [t.get_text() for t in figure.axes[0].texts if t.get_gid() == "collected"]
        assert written_there == [short(float(v)) for v in jump.gradient[0]]


@pytest.mark.parametrize("sizes", [(64, 128, 10), (1, 1), (2, 2, 2), (4096, 11, 3)])
def test_large_layers_are_shortened(sizes):
    net = bp.MLP(sizes, device="cpu")
    figure = draw(net, trace=net.forward(np.ones((1, sizes[0]))))
    assert len(circles(figure)) == sum(min(size, 9) if size > 10 else size for size in sizes)
    dots = [line for line in figure.axes[0].lines if line.get_gid() == "ellipsis"]
    assert len(dots) == sum(size > 10 for size in sizes) + (sizes[-1] > 10)
    assert max(figure.get_size_inches()) < 32


def test_shown_nodes_and_their_places():
    assert shown_nodes(10, 10) == [*range(10)]
    assert shown_nodes(11, 10) == [*range(8), 10]
    assert places(2, [0, 1]) == [-0.5, 0.5]
    assert places(9, [0, 1, 8]) == [-1.5, -0.5, 1.5]


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.0, "0"), (1.5e-7, "1.5×10⁻⁷"), (-2.5, "−2.5"), (float("inf"), "∞"), (float("nan"), "NaN")],
)
def test_numbers_are_written_for_reading(value, text):
    assert written(value) == text


@pytest.mark.parametrize("value", [0, -0.0004, 999.6, -12.3456, 9.9999, 1e-300, -5e22, np.inf])
def test_a_node_has_room_for_its_number(value):
    assert len(short(value)) <= 7


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_files(run, tmp_path, suffix, start):
    path = tmp_path / f"net{suffix}"
    draw(run[0], str(path))
    content = path.read_bytes()
    assert content.startswith(start)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    draw(run[0], path=path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"most": 2}, bp.DomainError, "3 or above"),
        ({"path": "net.bmp"}, bp.DomainError, "expected one of .png, .svg, .pdf"),
        ({"path": 3}, bp.DtypeError, "path is 3"),
        ({"trace": 3}, bp.DtypeError, "expected a Trace"),
        ({"jump": "loss"}, bp.DtypeError, "expected a Jump"),
        ({"path": "no/such/folder/net.png"}, bp.FileFormatError, "can't be written"),
    ],
)
def test_bad_options(run, options, error, words):
    with pytest.raises(error, match=words):
        draw(run[0], **options)


def test_what_is_of_another_network(run):
    net, trace, gradients, jumps = run
    other = bp.MLP([5, 3, 4], device="cpu")
    with pytest.raises(bp.ShapeError, match="this network's are"):
        draw(other, trace=trace)
    with pytest.raises(bp.ShapeError, match="this network's are"):
        draw(other, gradients=gradients)
    with pytest.raises(bp.ShapeError, match="this network's layers are"):
        draw(other, jump=jumps[0])
    with pytest.raises(bp.DomainError, match="rows 0 to 0"):
        draw(net, trace=trace, sample=1)


def test_what_would_not_be_shown(run):
    with pytest.raises(bp.DomainError, match="sample is 1, and neither a trace nor a jump"):
        draw(run[0], sample=1)


def test_without_matplotlib(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(bp.MissingExtraError, match=r"backprop-gpu\[plot\]"):
        draw(run[0])
