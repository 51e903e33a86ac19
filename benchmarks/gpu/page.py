"""What a run found: as text, and as a part of docs/gpu.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from backprop_gpu.text_table import aligned
from benchmarks.gpu.rows import GEMM, PATHS, SWEPT, TRAIN, Found, Row
from benchmarks.pages import digits, put_into

PAGE, PICTURE = "docs/gpu.md", "docs/gpu-roofline.svg"
BEGIN, END = "<!-- python -m benchmarks.gpu --report FILE.json -->\n", "<!-- end -->"
VERDICTS = {True: "passed", False: "FAILED", None: "no verdict"}

# Times as fast as the best of the others; and what part of the device's rate.
GOALS = {"textbook": 50, "small": 3, "tabular": 1.3, "wide": 1.3, "large": 1.05}
RATE_GOALS = {"large": 0.85}


def publish(results: Path, root: Path) -> None:
    """Write a run's part of the page, between the markers, and its picture."""
    from benchmarks.gpu.roofline import svg  # needs matplotlib

    found = Found.of_json(results.read_text())
    (root / PICTURE).write_text(svg(found), encoding="utf-8", newline="\n")
    put_into(root / PAGE, BEGIN, markdown(found, results.name), END)


def markdown(found: Found, source: str) -> str:
    """Return the part of the page."""
    parts = [
        f"From `benchmarks/results/{source}`.",
        table(["", ""], [[name, f"`{text}`"] for name, text in found.machine.items()]),
        table(["check", "", ""], [[c["check"], *_verdict(c)] for c in found.checks]),
        table(["the device at most", ""], [[w, f"{rate:.3g}"] for w, rate in found.rates.items()]),
        "![FLOP a byte, and FLOP/s, under what the device does at most](gpu-roofline.svg)",
        "**Beside the best of the others.**",
        table(*against_the_best(found)),
        "**Each path by itself**, microseconds a step, the fastest of them bold.",
        table(*paths(found)),
        "**Many networks at once**, nanoseconds a step of one network.",
        table(*ensembles(found)),
        "**All rows.** *asking*: the host's part of the time. *GPU*: between CUDA's events.",
        f"```text\n{rows_as_text(found)}\n```",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def table(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; nothing if it has no lines."""
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    every = [heading, ["---"] * len(heading), *escaped]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in every) if lines else ""


def against_the_best(found: Found) -> tuple[list[str], list[list[str]]]:
    """Return `train` beside the fastest of the others and the bare products."""
    heading = ["network", "batch", "precision", "`train`, us a step", "path", "of its products"]
    heading += ["of the rate", "goal", "the best of the others", "us a step", "x ours", "goal"]
    lines = []
    for (network, batch, precision), group in found.timed().items():
        own, gemm, best = group.get(TRAIN), group.get(GEMM), best_peer(group)
        if own is None:
            continue
        path, *_ = own.plan.split(":")
        cells = [network, f"{batch:,}", precision, digits(own.seconds * 1e6), path]
        cells += [f"{gemm.seconds / own.seconds:.0%}" if gemm else "-"]
        rate = found.rates.get(f"FLOP/s, {precision}")
        cells += [f"{own.flops / own.seconds / rate:.0%}" if rate else "-"]
        cells += [f"{RATE_GOALS[network]:.0%}" if network in RATE_GOALS else ""]
        if best is not None:
            times = digits(best.seconds / own.seconds)
            cells += [best.implementation, digits(best.seconds * 1e6), times]
        else:
            cells += ["none was timed", "-", "-"]
        lines.append([*cells, str(GOALS.get(network, ""))])
    return heading, lines


def best_peer(group: Mapping[str, Row]) -> Row | None:
    """Return the fastest of those that are not the library's."""
    peers = [row for name, row in group.items() if name != GEMM and not name.startswith(TRAIN)]
    return min(peers, key=lambda row: row.seconds, default=None)


def paths(found: Found) -> tuple[list[str], list[list[str]]]:
    """Return the library's paths side by side, where there is a choice."""
    swept = {case.network.name for case in SWEPT}
    lines = []
    for (network, batch, precision), group in found.timed().items():
        seconds = [group[name].seconds if name in group else None for name in PATHS]
        timed = [each for each in seconds if each is not None]
        if network in swept or len(timed) > 1:
            cells = [
                "-" if each is None else bold(digits(each * 1e6), each == min(timed))
                for each in seconds
            ]
            lines.append([network, f"{batch:,}", precision, *cells])
    return ["network", "batch", "precision", *PATHS.values()], lines


def ensembles(found: Found) -> tuple[list[str], list[list[str]]]:
    """Return a column for each way to train many networks."""
    timed = {}
    for row in found.rows:
        if row.seconds is not None and row.window is None:
            key = row.network, row.batch, row.precision, row.networks
            timed.setdefault(key, {})[row.implementation] = row.seconds
    many = {key[:3] for key in timed if key[3] > 1}
    timed = {key: group for key, group in timed.items() if key[:3] in many}
    names = list(dict.fromkeys(n for key, group in timed.items() if key[3] > 1 for n in group))
    lines = [
        [
            *(network, f"{batch:,}", precision, f"{networks:,}"),
            *(digits(group[name] * 1e9) if name in group else "-" for name in names),
        ]
        for (network, batch, precision, networks), group in sorted(timed.items())
    ]
    return ["network", "batch", "precision", "networks", *names], lines


def report(found: Found) -> str:
    """Return what was found as text."""
    parts = [
        aligned(list(found.machine.items())),
        aligned([(c["check"], *_verdict(c)) for c in found.checks]),
        aligned([(what, f"{rate:.3e}") for what, rate in found.rates.items()]),
        rows_as_text(found),
    ]
    return "\n\n".join(filter(None, parts))


def rows_as_text(found: Found) -> str:
    """Return a line for every row, those of a network together."""
    heading = ["network", "batch", "precision", "networks", "implementation", "plan", "us/step"]
    heading += ["spread", "asking", "GPU", "first, s", "GFLOP/s", "note"]
    order = list(dict.fromkeys(row.network for row in found.rows))
    lines = [
        list(_cells(row))
        for row in sorted(
            found.rows,
            key=lambda row: (order.index(row.network), row.batch, row.precision, row.networks),
        )
    ]
    return aligned(lines, heading) if lines else ""


def _cells(row: Row) -> Iterator[str]:
    yield from (row.network, str(row.batch), row.precision, str(row.networks))
    yield from (row.implementation, row.plan.split(":")[0])
    if row.seconds is None:
        yield from "------"
    else:
        yield digits(row.seconds * 1e6)
        yield f"{row.spread:.0%}"
        for part in (row.asked, row.on_device):
            yield "-" if part is None else digits(part * 1e6)
        yield "-" if row.first is None else digits(row.first)
        yield digits(row.flops / row.seconds / 1e9)
    yield row.note


def _verdict(check: dict[str, object]) -> tuple[str, str]:
    return VERDICTS[check["passed"]], str(check.get("note", ""))


def bold(text: str, heavy: bool) -> str:
    return f"**{text}**" if heavy else text
