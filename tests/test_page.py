"""The page: its HTML, and what it does in a real browser.

The browser is Chromium, driven by Playwright; without them those tests are skipped.
"""

import itertools
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

import backprop_gpu as bp
from backprop_gpu.explaining.explain import explain, explain_activation, explain_bias
from backprop_gpu.explaining.jump_back import jump_back
from backprop_gpu.explaining.page.write import page, write_page

VOID = {"meta", "link", "br", "img", "input", "hr"}
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def digits(loss="categorical_cross_entropy"):
    random = np.random.default_rng(0)
    net = bp.MLP([64, 128, 10], ["relu", "softmax"], device="cpu")
    return net, random.random((1, 64)), bp.one_hot([3], 10), loss


def negative():
    """A network in which z, weights and gradients have both signs."""
    net = bp.MLP([3, 4, 2], ["leaky_relu", "identity"], device="cpu", dtype="float64", seed=4)
    return net, np.array([[-2.0, 0.5, 1e-9]]), np.array([[1.0, -30.0]]), "sse"


def hidden_softmax():
    net = bp.MLP([2, 3, 2], ["softmax", "sigmoid"], device="cpu", dtype="float64", seed=1)
    return net, np.array([[1.0, -2.0]]), np.array([[0.0, 1.0]]), "bce"


NETWORKS = {
    "textbook": lambda: (*bp.textbook(device="cpu"), "mse"),
    "digits": digits,
    "negative": negative,
    "hidden softmax": hidden_softmax,
    "1-1": lambda: (bp.MLP([1, 1], device="cpu"), [[1.0]], [[2.0]], "mse"),
    "deep": lambda: (
        bp.MLP([12] * 20, ["tanh"] * 19, device="cpu"),
        np.ones((1, 12)),
        np.zeros((1, 12)),
        "mse",
    ),
}


class Checker(HTMLParser):
    """Collects elements; fails where they are not properly nested."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def data_of(html):
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', html)[1])


@pytest.fixture(scope="module")
def pages():
    """Every network, its page and its gradients."""
    found = {}
    for name, make in NETWORKS.items():
        net, x, y, loss = make()
        trace = net.forward(x)
        found[name] = (net, x, y, loss, trace, net.backward(trace, y, loss), page(net, x, y, loss))
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_one_well_formed_file_that_loads_nothing(pages, name):
    html = pages[name][-1]
    elements = Checker(html).elements
    assert "://" not in html
    for tag, attributes in elements:
        assert tag not in ("iframe", "img", "object", "embed")
        assert not attributes.get("src")
        assert attributes.get("href", "#").startswith(("#", "data:"))
    assert len(html.encode()) < 2_000_000
    assert "@import" not in html
    assert "url(" not in html


def test_names_are_escaped():
    name = "</script><b onload='x'>&\""
    g = bp.Activation(
        name,
        function=lambda xp, z: z * 2,
        derivative=lambda xp, z: xp.full_like(z, 2),
        derivative_from="z",
        latex="<i>z",
    )
    loss = bp.Loss(
        name,
        value=lambda xp, a, y: xp.abs(a - y).sum(axis=1),
        gradient=lambda xp, a, y: xp.sign(a - y),
    )
    html = page(bp.MLP([2, 2], [g], device="cpu"), [[1, 2]], [[1, 2]], loss)
    assert name not in html
    assert html.count("</script>") == 2
    assert "b" not in {tag for tag, attributes in Checker(html).elements if attributes}
    assert data_of(html)["items"]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_terms_are_those_of_explain(pages, name):
    net, x, y, loss, *_, html = pages[name]
    data = data_of(html)
    for key in [*data["items"]][:: max(1, len(data["items"]) // 12)]:
        item, place = data["items"][key], [int(i) for i in key.split(",")]
        if len(place) == 3:
            explained = explain(net, x, y, *place, loss)
        elif place[0] == 0:
            explained = explain_activation(net, x, y, *place, loss)
        else:
            explained = explain_bias(net, x, y, *place, loss)
        assert item["value"] == explained.value
        term = explained.term
        factors = term.parts if term.rule == "product" else (term,)
        shown = [data["terms"][i] for i in item["factors"]]
        assert [f["value"] for f in shown] == [float(f.values[0]) for f in factors]
        assert [f["role"] for f in shown] == [f.role for f in factors]
        for summed, factor in zip(shown, factors, strict=True):
            if factor.rule == "sum":
                rows = [row[-1] for row in summed["sum"]["rows"]]
                assert rows == [float(part.values[0]) for part in factor.parts]


def test_infinite_gradients_are_shown():
    net = bp.MLP([1, 1], ["sigmoid"], device="cpu", dtype="float64")
    net.set_parameters([[[-1000.0]]], [[0]])
    html = page(net, [[1.0]], [[1.0]], "bce")
    assert "−∞" in html
    assert data_of(html)["cells"]["dC_da"]["1"]["0"][0] == "-inf"


def test_write_page(tmp_path):
    net, x, y = bp.textbook(device="cpu")
    write_page(net, x, y, path=str(tmp_path / "out.html"))
    assert (tmp_path / "out.html").read_text("utf-8") == page(net, x, y)
    with pytest.raises(bp.FileFormatError, match="can't be written"):
        write_page(net, x, y, path=tmp_path / "no" / "out.html")
    with pytest.raises(bp.DomainError, match=r"out.pdf does not end in .html"):
        write_page(net, x, y, path=tmp_path / "out.pdf")
    with pytest.raises(bp.DtypeError, match="path is 3"):
        write_page(net, x, y, path=3)


def test_one_sample_at_a_time():
    net, x, y = bp.textbook(device="cpu")
    with pytest.raises(bp.ShapeError, match=r"x\[:1\]"):
        page(net, np.repeat(x, 2, axis=0), np.repeat(y, 2, axis=0))


def test_a_wide_network_stays_small():
    net = bp.MLP([3000, 2000, 500], ["relu", "softmax"], device="cpu")
    html = page(net, np.ones((1, 3000)), bp.one_hot([7], 500), "cce")
    assert len(html.encode()) < 1_000_000


# ---- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    driver = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no Chromium (Debian: apt-get install chromium)")
    with driver.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, pages, tmp_path):
    """Open a network's page; fail if it writes to the console or asks for anything."""
    contexts, complaints = [], []

    def opened(name="textbook", width=1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("requestfailed", lambda request: complaints.append(request.url))
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(pages[name][-1], "utf-8")
        tab.goto(path.as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


READ = """() => {
  const read = (selector, key) => Object.fromEntries(
    [...document.querySelectorAll(selector)].map((e) => key(e)));
  return {
    step: Number(document.documentElement.dataset.step),
    title: document.querySelector(".title").textContent,
    here: [...document.querySelectorAll(".step.here")].map((s) => Number(s.dataset.step)),
    cells: read(".net.wide text[data-quantity]",
      (e) => [e.dataset.cell, [e.dataset.quantity, e.dataset.value, e.textContent]]),
    table: [...document.querySelectorAll(".step.here [data-quantity]")].map((e) =>
      [e.dataset.quantity, e.dataset.node, e.querySelector("data").value]),
    crossed: [...new Set([...document.querySelectorAll(".crossed")].map((e) => e.dataset.line))],
    shows: read(".net.wide .edge", (e) => [e.dataset.key, e.dataset.shows]),
  };
}"""


def library(net, trace, gradients, y):
    """What the library has for a quantity, a layer and a node."""
    arrays = {
        "a": trace.a,
        "z": (None, *trace.z),
        "b": (None, *net.biases),
        "dC_da": gradients.activations,
        "delta": (None, *gradients.deltas),
        "dC_db": (None, *gradients.biases),
        "dC_dW": (None, *gradients.weights),
    }

    def value(quantity, l, node):
        if quantity == "C":
            return gradients.loss
        if quantity == "y":
            return np.asarray(y)[0, int(node)]
        array = arrays[quantity][l]
        if quantity == "dC_dW":
            return array[tuple(int(i) for i in node.split(","))]
        return array[int(node)] if array.ndim == 1 else array[0, int(node)]

    return value


@pytest.mark.parametrize("name", NETWORKS)
def test_every_step_shows_the_numbers_of_the_library(visit, pages, name):
    net, x, y, loss, trace, gradients, _ = pages[name]
    value, tab = library(net, trace, gradients, y), visit(name)
    L, jumps = len(net.layers), jump_back(net, x, y, loss)
    layers = [0, *itertools.chain.from_iterable((l, l) for l in range(1, L + 1)), L]
    layers += [jump.layer - (jump.kind == "weights") for jump in jumps]
    forward = 2 * L + 2
    for i, l in enumerate(layers):
        state = tab.evaluate(READ)
        assert (state["step"], state["here"]) == (i, [i])
        assert state["table"]
        for quantity, node, shown in state["table"]:
            np.testing.assert_allclose(float(shown), value(quantity, l, node), rtol=1e-12)
        for cell, (quantity, shown, text) in state["cells"].items():
            _, layer, node = cell.split(",")
            assert bool(quantity) == bool(text)
            if quantity:
                expected = value(quantity, int(layer), node)
                np.testing.assert_allclose(float(shown), expected, rtol=1e-12)
        if i >= forward:
            jump = jumps[i - forward]
            assert state["title"].lower() == jump.words
            over = "loss" if jump.kind == "loss" else f"{jump.kind.split()[0]}-{jump.layer}"
            assert state["crossed"] == [over]
            arrived = {j.layer for j in jumps[: i - forward + 1] if j.dC_dW is not None}
            for key, shows in state["shows"].items():
                assert (shows == "dC_dW") == (int(key.split(",")[0]) in arrived)
        tab.keyboard.press("ArrowRight")
    assert tab.evaluate(READ)["step"] == len(layers) - 1


def test_buttons_and_keys_step(visit):
    tab = visit()

    def step():
        return tab.evaluate(READ)["step"]

    next_, back, start, end = (
        tab.locator(f"[data-go={n}]") for n in ("next", "back", "start", "end")
    )
    assert back.is_disabled()
    assert start.is_disabled()
    next_.click()
    next_.click()
    assert step() == 2
    back.click()
    assert step() == 1
    end.click()
    assert step() == 17
    assert next_.is_disabled()
    assert "disabled" not in (tab.evaluate("document.activeElement.outerHTML"))
    for key, expected in (
        ("Home", 0),
        ("ArrowLeft", 0),
        ("ArrowRight", 1),
        ("End", 17),
        ("ArrowLeft", 16),
    ):
        tab.keyboard.press(key)
        assert step() == expected
    assert "step 17 of 18: Arrived at" in tab.locator("#status").text_content()
    tab.locator(".track i").nth(8).click()
    assert step() == 8


def test_a_weight_shows_its_terms(visit, pages):
    net, x, y, loss, *_ = pages["textbook"]
    tab = visit()

    def explained():
        return tab.evaluate(
            """() => [document.querySelector(".explained").dataset.key,
            [...document.querySelectorAll(".factors data")].map((e) => e.value),
            [...document.querySelectorAll(".explained td data")].map((e) => e.value)]"""
        )

    def expect(l, j, k):
        key, factors, sums = explained()
        assert key == f"{l},{j},{k}"
        e = explain(net, x, y, l, j, k, loss)
        expected = [*(part.values[0] for part in e.term.parts), e.value]
        np.testing.assert_allclose([float(v) for v in factors], expected, rtol=1e-12)
        assert bool(sums) == (l < 3)

    expect(3, 0, 0)
    # Hovering shows a weight, and leaving the picture shows the chosen one again.
    tab.evaluate(
        """() => document.querySelector('.wide .hit[data-key="2,4,1"]').dispatchEvent(
        new PointerEvent("pointerover", {bubbles: true, pointerType: "mouse"}))"""
    )
    expect(2, 4, 1)
    x_, y_ = tab.evaluate(
        """() => {
        const line = document.querySelector('.wide .hit[data-key="1,0,0"]');
        const box = line.getBoundingClientRect();
        for (let t = 0.05; t < 1; t += 0.05) {
          const [x, y] = [box.left + box.width * t, box.top + box.height * t];
          if (document.elementFromPoint(x, y) === line) return [x, y];
        } }"""
    )
    tab.mouse.move(x_, y_)
    expect(1, 0, 0)
    tab.mouse.move(5, 5)
    expect(3, 0, 0)
    # The keyboard: the picture is one stop, and up and down go from weight to weight.
    tab.locator('.wide .hit[data-key="3,0,0"]').focus()
    tab.keyboard.press("ArrowDown")
    expect(3, 0, 1)
    assert tab.evaluate("document.activeElement.dataset.key") == "3,0,1"
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate(READ)["step"] == 1
    tab.locator("select[name=layer]").select_option("1")
    tab.locator("select[name=j]").select_option("2")
    tab.locator("select[name=k]").select_option("3")
    expect(1, 2, 3)
    tab.locator("select[name=k]").select_option(label="bias")
    assert explained()[0] == "1,2"
    tab.locator("select[name=layer]").select_option("0")
    assert explained()[0] == "0,0"


def test_the_page_can_be_walked_with_tab(visit):
    tab, seen = visit(), []
    for _ in range(8):
        tab.keyboard.press("Tab")
        seen.append(
            tab.evaluate(
                """() => { const e = document.activeElement, s = getComputedStyle(e);
                return [e.id || e.dataset.go || e.name || e.dataset.key || e.className,
                  s.outlineStyle !== "none" || e.closest(".net") !== null]; }"""
            )
        )
    names = [name for name, _ in seen]
    expected = ["", "theme", "3,0,0", "next", "end", "layer", "k", "j"]
    assert [name for name in names if name in expected[1:]] == expected[1:]
    assert all(visible for name, visible in seen if name in expected[1:])


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", ["textbook", "digits", "deep", "1-1"])
def test_nothing_is_wider_than_the_window(visit, name, width):
    tab = visit(name, width=width)
    count = len(tab.locator(".step").all())
    for _ in range(min(count, 30)):
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        tab.keyboard.press("ArrowRight")
    assert tab.locator(".net.tall").is_visible() == (width == 360)
    assert tab.locator(".net.wide").is_visible() == (width == 1280)


def test_a_long_network_scrolls_to_what_is_crossed(visit):
    tab = visit("deep")
    tab.keyboard.press("End")
    tab.keyboard.press("Home")
    for _ in range(25):
        tab.keyboard.press("ArrowRight")
    inside = """() => { const r = document.querySelector(".wide .line.crossed, .wide .band.crossed")
      .getBoundingClientRect(); return r.left > 0 && r.right < innerWidth; }"""
    assert tab.evaluate(inside)


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
  };
  const worst = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.disabled || e.closest("option, script, style")) continue;
    const style = getComputedStyle(e), svg = e.closest("svg");
    const half = e.closest("[data-cell]")?.parentElement.querySelector(
      `rect[data-cell="${e.closest("[data-cell]").dataset.cell}"]`);
    const front = rgba(svg ? style.fill : style.color);
    const back = half ? rgba(getComputedStyle(half).fill) : behind(e);
    const [p, q] = [luminance(front), luminance(back)].sort((a, b) => b - a);
    worst.push([(p + 0.05) / (q + 0.05), e.textContent.slice(0, 40), e.tagName, e.className]);
  }
  return worst.sort((a, b) => a[0] - b[0]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["textbook", "negative"])
def test_text_stands_out(visit, name, scheme):
    tab = visit(name, color_scheme=scheme)
    for key in ("Home", *["ArrowRight"] * 9, "End"):
        tab.keyboard.press(key)
        measured = tab.evaluate(CONTRAST)
        assert len(measured) > 30
        assert measured[0][0] >= 4.5, measured[:3]


def test_light_and_dark(visit):
    background = "getComputedStyle(document.body).backgroundColor"
    tab, dark = visit(), visit(color_scheme="dark")
    light = tab.evaluate(background)
    assert light != dark.evaluate(background)
    tab.locator("#theme").click()
    assert tab.evaluate(background) == dark.evaluate(background)
    tab.reload()
    assert tab.evaluate(background) == dark.evaluate(background)
    tab.locator("#theme").click()
    assert tab.evaluate(background) == light


def test_without_a_script_all_steps_are_there(visit):
    tab = visit(java_script_enabled=False)
    assert tab.locator(".step").count() == 18
    assert tab.locator(".step").last.is_visible()
    assert not tab.locator(".controls").is_visible()
