"""Draw the pictures of these pages: python docs/make_pictures.py [folder]."""

import io
import re
import sys
from pathlib import Path

import matplotlib
from matplotlib.font_manager import fontManager

import backprop_gpu as bp

# The same bytes for the same picture: names that don't change, text as text, no date.
STYLE = {"svg.hashsalt": "backprop_gpu", "svg.fonttype": "none"}
NOTHING = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def own_fonts():
    """Let matplotlib see the fonts that it brings along, whatever this machine has beside them."""
    fontManager.ttflist.clear()
    for font in sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("*.ttf")):
        fontManager.addfont(font)


def pictures():
    """Return matplotlib's figures, by the name of the file."""
    net, x, y = bp.textbook(device="cpu")
    trace = net.forward(x)
    gradients = net.backward(trace, y)
    loss, activation, arrived, weights, *_ = bp.jump_back(net, x, y)
    return {
        "network": bp.draw(net),
        "forward": bp.draw(net, trace=trace),
        "jump_1_loss": bp.draw(net, trace=trace, jump=loss),
        "jump_2_activation": bp.draw(net, trace=trace, jump=activation),
        "jump_3_arrived": bp.draw(net, trace=trace, jump=arrived),
        "jump_4_weights": bp.draw(net, trace=trace, jump=weights),
        "gradients": bp.draw(net, trace=trace, gradients=gradients),
    }


def svg(figure):
    content = io.StringIO()
    figure.savefig(content, format="svg", metadata=NOTHING)
    # Without the document type and the links' namespace, which nothing here needs.
    text = re.sub(r"<!DOCTYPE.*?>\n", "", content.getvalue(), flags=re.DOTALL)
    text = re.sub(r' xmlns:xlink="[^"]*"', "", text)
    return re.sub(r" +$", "", text, flags=re.MULTILINE)


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    own_fonts()
    with matplotlib.rc_context(STYLE):
        for name, figure in pictures().items():
            (folder / f"{name}.svg").write_text(svg(figure), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
