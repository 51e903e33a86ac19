"""The curves of a training: what is drawn, on which axes, and what is written."""

import pickle
import subprocess
import sys

import pytest
from matplotlib.figure import Figure

import backprop_gpu as bp

FALLING = [1.0, 0.1, 0.01]
LEVEL = [1.0, 0.9, 0.8]
CONSTANT = [0.1, 0.1, 0.1]


def lines(figure):
    """By label: the x and the y of every line, on every axis."""
    return {
        line.get_label(): ([*line.get_xdata()], [*line.get_ydata()])
        for ax in figure.axes
        for line in ax.lines
    }


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


@pytest.mark.parametrize(
    ("history", "text"),
    [
        (bp.History(), "History(0 epochs; 0 s, path 'steps')"),
        (bp.History([0.5]), "History(1 epoch, loss 0.5 -> 0.5; 0 s, path 'steps')"),
        (
            bp.History([0.5] + [0.25] * 9_999, seconds=1.23456, path="compiled"),
            "History(10,000 epochs, loss 0.5 -> 0.25; 1.23 s, path 'compiled')",
        ),
        (
            bp.History(FALLING, LEVEL, best_epoch=2, stopped_by="early stopping"),
            "History(3 epochs, loss 1 -> 0.01, validation loss 1 -> 0.8, best epoch 2, "
            "stopped by early stopping; 0 s, path 'steps')",
        ),
    ],
)
def test_a_history_is_told_in_one_line(history, text):
    assert repr(history) == text


def test_the_training_loss_is_drawn_by_epoch_from_0():
    figure = bp.History(LEVEL, learning_rate=CONSTANT).plot()
    assert lines(figure) == {"training": ([0, 1, 2], LEVEL)}
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("epoch", "loss")


def test_the_validation_loss_is_drawn_beside_it():
    figure = bp.History(FALLING, LEVEL, CONSTANT).plot()
    assert lines(figure) == {"training": ([0, 1, 2], FALLING), "validation": ([0, 1, 2], LEVEL)}


@pytest.mark.parametrize(("validation", "height"), [(LEVEL, 0.9), ([], 0.1)])
def test_the_best_epoch_is_marked_on_the_loss_that_was_watched(validation, height):
    figure = bp.History(FALLING, validation, CONSTANT, best_epoch=1).plot()
    assert lines(figure)["best epoch, 1"] == ([1], [height])


def test_the_learning_rate_has_an_axis_of_its_own_where_it_changes():
    changing = [0.1, 0.05, 0.025]
    constant, figure = (bp.History(LEVEL, [], rates).plot() for rates in (CONSTANT, changing))
    assert len(constant.axes) == 1
    losses, rates = figure.axes
    assert lines(figure)["learning rate"] == ([0, 1, 2], changing)
    assert [line.get_label() for line in rates.lines] == ["learning rate"]
    assert rates.get_ylabel() == "learning rate"
    assert losses.get_zorder() > rates.get_zorder()
    assert legend(figure) == ["training", "learning rate"]


@pytest.mark.parametrize(
    ("loss", "validation", "scale"),
    [
        (LEVEL, [], "linear"),
        (FALLING, [], "log"),
        (LEVEL, FALLING, "log"),
        ([1.0, 0.1, 0.0], [], "linear"),  # 0 has no logarithm
        ([1.0, 0.1, -5.0], [], "linear"),  # a loss of one's own
    ],
)
def test_a_large_range_is_logarithmic(loss, validation, scale):
    assert bp.History(loss, validation, CONSTANT).plot().axes[0].get_yscale() == scale


def test_a_single_epoch_can_be_seen():
    figure = bp.History([1.0], learning_rate=[0.1]).plot()
    (line,) = figure.axes[0].lines
    figure.draw_without_rendering()
    assert line.get_marker() == "o"
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert "0" in labels
    assert len({*labels}) == len(labels)


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml"), ("a.pdf", b"%PDF")]
)
def test_a_figure_is_saved_and_the_same_history_is_the_same_bytes(name, start, tmp_path):
    history = bp.History(FALLING, LEVEL, LEVEL, best_epoch=2)
    assert isinstance(history.plot(tmp_path / name), Figure)
    content = (tmp_path / name).read_bytes()
    assert content.startswith(start)
    history.plot(str(tmp_path / name))
    assert (tmp_path / name).read_bytes() == content


def test_it_is_drawn_into_axes_that_are_given(tmp_path):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert bp.History(FALLING).plot(ax=left) is figure
    assert bp.History(LEVEL).plot(tmp_path / "both.png", ax=right) is figure
    assert [len(ax.lines) for ax in (left, right)] == [1, 1]


def test_it_is_drawn_into_axes_of_a_subfigure(tmp_path):
    figure = Figure()
    ax = figure.subfigures(1, 2)[0].subplots()
    assert bp.History(FALLING).plot(tmp_path / "part.png", ax=ax) is figure
    assert (tmp_path / "part.png").exists()


def test_what_training_returns_can_be_drawn():
    net, x, y = bp.textbook(device="cpu")
    rate = bp.StepDecay(0.1, every=2)
    stop = bp.EarlyStopping(patience=3)
    history = bp.train(
        net, x, y, optimizer=bp.SGD(rate), epochs=5, validation=(x, y), early_stopping=stop
    )
    assert legend(history.plot()) == ["training", "validation", "best epoch, 4", "learning rate"]


def test_pyplot_is_left_alone():
    script = """if True:
        import sys
        import backprop_gpu as bp
        bp.History([1.0, 0.5], learning_rate=[0.2, 0.1]).plot()
        print("matplotlib.figure" in sys.modules, "matplotlib.pyplot" in sys.modules)
    """
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout == "True False\n", run.stderr


def test_a_notebook_shows_the_figure():
    figure = bp.History(FALLING).plot()
    for shown in (figure, pickle.loads(pickle.dumps(figure))):
        assert shown._repr_png_().startswith(b"\x89PNG")


def test_nothing_is_drawn_of_no_epochs(tmp_path):
    with pytest.raises(bp.DomainError, match="no epochs to draw; train for one"):
        bp.History().plot(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("curves.txt", bp.DomainError, r"curves.txt ends in '.txt'; expected one of .png, .svg"),
        (7, bp.DtypeError, "path is 7; expected a str or a Path"),
    ],
)
def test_paths_that_are_refused(path, kind, message):
    with pytest.raises(kind, match=message):
        bp.History(LEVEL).plot(path)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(bp.MissingExtraError, match=r'History.plot.*"backprop-gpu\[plot\]"'):
        bp.History(LEVEL).plot()
