"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  const root = document.documentElement;
  root.classList.add("js");
  all(".now, .controls, #terms, #theme").forEach((element) => { element.hidden = false; });

  // ---- numbers, as Python's layout.written has them

  const raised = (digits) => [...digits].map((d) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(d)]).join("");
  function written(value, digits = 7) {
    value = Number(String(value).replace("inf", "Infinity"));
    if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
    if (value === 0) return "0";
    let [mantissa, exponent] = value.toExponential(digits - 1).split("e");
    if (exponent >= -4 && exponent < digits) {
      [mantissa, exponent] = [value.toFixed(digits - 1 - exponent), ""];
    }
    if (mantissa.includes(".")) mantissa = mantissa.replace(/\.?0+$/, "");
    mantissa = mantissa.replace("-", "−");
    return exponent ? `${mantissa}×10${raised(String(Number(exponent)))}` : mantissa;
  }
  const number = (value, digits) =>
    `<data value="${value}" title="${value}">${written(value, digits)}</data>`;
  all("data").forEach((element) => { element.title = element.value; });

  // ---- steps

  const count = data.steps.length;
  const sections = all(".step");
  const titles = sections.map((section) => one("h2", section).lastChild.textContent.trim());
  const cells = all("[data-cell]");
  const edges = all(".net .edge");
  const hops = all(".hop");
  const buttons = Object.fromEntries(all("[data-go]").map((button) => [button.dataset.go, button]));
  const BACK = "Jumping Back";
  let at = 0;

  const track = one(".track");
  if (count <= 80) {
    data.steps.forEach((step, i) => {
      const mark = document.createElement("i");
      mark.title = titles[i];
      if (step.phase === BACK) mark.classList.add("back");
      mark.addEventListener("click", () => go(i));
      track.append(mark);
    });
  }

  function sign(element, share) {
    element.classList.toggle("positive", share > 0);
    element.classList.toggle("negative", share < 0);
  }

  function paint() {
    const step = data.steps[at];
    const back = step.phase === BACK;
    for (const element of cells) {
      const [half, l, j] = element.dataset.cell.split(",");
      if (half === "y") continue;
      const quantity = step.view[half][l];
      const [value, text, share] = quantity ? data.cells[quantity][l][j] : ["", "", 0];
      const gradient = quantity === "delta" || quantity === "dC_da";
      element.classList.toggle("gradient", gradient);
      if (element.tagName === "text") {
        element.textContent = text;
        element.dataset.value = value;
        element.dataset.quantity = quantity || "";
      } else {
        sign(element, share);
        element.style.setProperty("--s", Math.abs(share));
        element.classList.toggle("fresh", step.fresh === half + l);
      }
    }
    for (const edge of edges) {
      const l = edge.dataset.key.split(",")[0];
      const share = Number(step.view.w[l] === "W" ? edge.dataset.w : edge.dataset.g);
      sign(edge, share);
      edge.dataset.shows = step.view.w[l];
      edge.style.strokeWidth = (0.6 + 3 * Math.abs(share)).toFixed(2);
      edge.style.opacity = (0.3 + 0.65 * Math.abs(share)).toFixed(2);
    }
    for (const element of all("[data-line]")) {
      element.classList.toggle("crossed", element.dataset.line === step.over);
    }
    const before = new Set(
      data.steps.slice(0, at).filter((s) => s.phase === BACK && !s.arrives).map((s) => s.over));
    for (const hop of hops) {
      const now = hop.dataset.hop === step.over;
      hop.classList.toggle("now", now && !step.arrives);
      hop.classList.toggle("arrived", now && step.arrives);
      hop.classList.toggle("backward", back);
      hop.classList.toggle("forth", !back);
      hop.classList.toggle("done", before.has(hop.dataset.hop));
    }
    all("i", track).forEach((mark, i) => {
      mark.classList.toggle("done", i <= at);
      mark.classList.toggle("here", i === at);
    });
    sections.forEach((section, i) => section.classList.toggle("here", i === at));
    root.classList.toggle("back", back);
    root.classList.toggle("started", back || step.over === "loss");
    one(".phase").textContent = `${step.phase} · ${at + 1} of ${count}`;
    one(".title").textContent = titles[at];
    for (const [name, button] of Object.entries(buttons)) {
      const stop = name === "start" || name === "back" ? at === 0 : at === count - 1;
      if (stop && document.activeElement === button) {
        (name === "start" || name === "back" ? buttons.next : buttons.back).disabled = false;
        (name === "start" || name === "back" ? buttons.next : buttons.back).focus();
      }
      button.disabled = stop;
    }
    root.dataset.step = at;
    reach();
  }

  function go(step) {
    step = Math.max(0, Math.min(count - 1, step));
    if (step === at) return;
    at = step;
    paint();
    reveal();
    const words = one(".words", sections[at]).textContent;
    one("#status").textContent = `${data.steps[at].phase}, step ${at + 1} of ${count}: ${titles[at]}. ${words}`;
  }

  // A long network scrolls to the line that is crossed.
  const frame = one("#pictures");
  function reveal() {
    const element = all(".crossed", frame).find((e) => e.getBoundingClientRect().width + e.getBoundingClientRect().height > 0);
    if (!element || frame.scrollWidth <= frame.clientWidth) return;
    const [inner, outer] = [element.getBoundingClientRect(), frame.getBoundingClientRect()];
    frame.scrollLeft += inner.left + inner.width / 2 - outer.left - outer.width / 2;
  }

  const moves = {
    start: () => go(0), back: () => go(at - 1), next: () => go(at + 1), end: () => go(count - 1),
  };
  for (const [name, button] of Object.entries(buttons)) button.addEventListener("click", moves[name]);
  const keys = { ArrowLeft: "back", ArrowRight: "next", Home: "start", End: "end" };
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.closest("select, input, textarea")) return;
    if (keys[event.key]) {
      event.preventDefault();
      moves[keys[event.key]]();
    }
  });

  // ---- one weight, term by term

  const explained = one(".explained");
  const chooser = one(".chooser");
  let chosen = "";

  const math = (place) => data.formulas[place];

  function sum(term, of) {
    const heads = of.headings.map((place) => `<th scope="col">${math(place)}</th>`).join("");
    const rows = of.rows.map(([q, ...values]) =>
      `<tr><th scope="row">${q}</th>${values.map((v) => `<td>${number(v, 6)}</td>`).join("")}</tr>`);
    const span = of.headings.length + 1;
    if (of.omitted) {
      rows.push(`<tr class="gap"><td colspan="${span}">${of.omitted} more</td><td>${number(of.rest, 6)}</td></tr>`);
    }
    rows.push(`<tr class="total"><td colspan="${span}">sum</td><td>${number(term.value, 6)}</td></tr>`);
    return `<h3>The ${term.role}: a sum over the next layer's nodes q</h3>
      <div class="formulas" role="group" aria-label="Formula"><p>${math(of.formula)}</p></div>
      <div class="scroll" role="group" aria-label="Summands"><table>
      <thead><tr><th scope="col">q</th>${heads}<th scope="col">product</th></tr></thead>
      <tbody>${rows.join("")}</tbody></table></div>`;
  }

  function show(key) {
    const item = data.items[key];
    const factors = item.factors.map((place) => data.terms[place]);
    const rows = factors.map((term) => {
      const equals = term.sum ? "the sum below" : term.equals.map((place) => `= ${math(place)}`).join(" ");
      return `<div class="factor"><span class="role">${term.role}</span><span>${math(term.symbol)}</span>
        ${number(term.value)}<span class="equals">${equals}</span></div>`;
    });
    if (factors.length > 1) {
      rows.push(`<div class="factor"><span class="role product">product</span>
        <span>${math(item.symbol)}</span>${number(item.value)}<span></span></div>`);
    }
    const now = item.parameter === undefined ? "" : `, now ${number(item.parameter)}`;
    const sums = factors.filter((term) => term.sum).map((term) => sum(term, term.sum));
    explained.innerHTML = `<p class="value">${math(item.symbol)} = ${number(item.value)}</p>
      <p class="about">${item.words}${now}</p>
      <div class="formulas" role="group" aria-label="Formula"><p>${math(item.formula)}</p></div>
      <div class="factors">${rows.join("")}</div>${sums.join("")}`;
    explained.dataset.key = key;
    reach();
    for (const element of all(".net .edge, .net .node")) {
      element.classList.toggle("chosen", element.dataset.key === key);
    }
  }

  // What scrolls sideways can be reached with Tab.
  function reach() {
    for (const element of all(".scroll, .formulas, .equals, #pictures")) {
      if (element.scrollWidth > element.clientWidth + 1) element.tabIndex = 0;
      else element.removeAttribute("tabindex");
    }
  }
  addEventListener("resize", reach);

  function options(select, values, value) {
    select.innerHTML = values.map(([v, words]) => `<option value="${v}">${words}</option>`).join("");
    select.value = value;
  }

  function choose(key) {
    chosen = key;
    const [l, j, k] = key.split(",").map(Number);
    const layer = chooser.elements.layer, from = chooser.elements.k, to = chooser.elements.j;
    layer.value = l;
    const nodes = (of) => data.shown[of].map((n) => [n, l && of === l - 1 ? `node ${n}` : n]);
    options(from, l ? [...nodes(l - 1), ["", "bias"]] : [["", "–"]], k === undefined ? "" : k);
    from.disabled = !l;
    options(to, nodes(l), j);
    show(key);
    all(".hit, .node").forEach((e) => { e.tabIndex = -1; });
    all(`.hit[data-key="${key}"], .node[data-key="${key}"]`).forEach((e) => { e.tabIndex = 0; });
  }

  options(chooser.elements.layer, data.shown.map((_, l) => [l, l || "0, input"]), 1);
  chooser.addEventListener("change", (event) => {
    const l = Number(chooser.elements.layer.value);
    const j = chooser.elements.j.value, k = chooser.elements.k.value;
    let key = l && k !== "" ? `${l},${j},${k}` : `${l},${j}`;
    if (event.target.name === "layer") {
      key = l ? `${l},${data.shown[l][0]},${data.shown[l - 1][0]}` : `0,${data.shown[0][0]}`;
    }
    choose(key);
  });
  chooser.addEventListener("submit", (event) => event.preventDefault());

  const keyOf = (event) => event.target.closest(".hit, .node")?.dataset.key;
  // Not on the pictures: Chromium takes an SVG that listens for focus for one that can have it.
  frame.addEventListener("focusin", (event) => { if (keyOf(event)) choose(keyOf(event)); });
  for (const net of all(".net")) {
    net.addEventListener("pointerover", (event) => {
      const key = keyOf(event);
      if (key && event.pointerType !== "touch") show(key);
    });
    net.addEventListener("pointerleave", () => show(chosen));
    net.addEventListener("click", (event) => { if (keyOf(event)) choose(keyOf(event)); });
    const order = all(".node, .hit", net).sort((p, q) => rank(p) - rank(q));
    net.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      const here = order.indexOf(event.target);
      if (!step || here < 0) return;
      event.preventDefault();
      order[(here + step + order.length) % order.length].focus();
    });
  }
  // Inputs, then for every layer, node by node, its bias and its weights.
  function rank(element) {
    const [l, j, k = -1] = element.dataset.key.split(",").map(Number);
    return (l * 1e6 + j) * 1e6 + k;
  }

  // ---- light and dark

  const theme = one("#theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => { try { return localStorage.getItem("backprop-theme"); } catch { return null; } };
  function setTheme(name) {
    if (name === "light" || name === "dark") root.dataset.theme = name;
    const isDark = (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
    theme.textContent = isDark ? "☀ Light" : "☾ Dark";
    theme.dataset.to = isDark ? "light" : "dark";
  }
  theme.addEventListener("click", () => {
    try { localStorage.setItem("backprop-theme", theme.dataset.to); } catch { /* not kept */ }
    setTheme(theme.dataset.to);
  });
  dark.addEventListener("change", () => setTheme());
  setTheme(stored());

  const L = data.shown.length - 1;
  choose(`${L},${data.shown[L][0]},${data.shown[L - 1][0]}`);
  paint();
})();
