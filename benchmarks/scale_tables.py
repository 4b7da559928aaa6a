"""The tables of docs/scale.md that benchmarks/scale.py's results give: what was measured, growth, the paper's bank.

Growth is a power of the number of contexts, fitted by least squares to the logarithms of all sizes of one width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import place
from benchmarks.scale import STEPS, read
from latentbank.bank.sizing import GB, USABLE, Shape, index_seconds, layer_bytes, store_seconds
from latentbank.text import listed

RESULTS = Path(__file__).parent.parent / "docs" / "scale" / "scale.json"
PAPER = Shape(2_500_000, 8, 4096, 164)
"""The paper's bank as in scenario (b), with one copy: 3 million sentences are assumed to give 2.5 million contexts."""
_IDS_RAM = 64  # bytes of a context that the engine keeps in its own memory, as in bank/sizing.py

# List prices of Google Compute Engine in us-central1, US dollars an hour: n2's virtual core and GiB of RAM, and a GiB
# of SSD persistent disk. From the price file in Apache Libcloud 3.9.1 (libcloud/data/pricing.json), of 2025-03-02.
CORE_PRICE, RAM_PRICE, DISK_PRICE = 0.031611, 0.004237, 0.000236
_GIB_OF_A_CORE = 8  # of RAM, as in n2-highmem
_SIZES = (16, 32, 64, 128, 256, 512, 640)  # GiB of RAM of n2-highmem
_HOURS_OF_A_MONTH = 730

Result = dict[str, Any]
QUANTITIES: dict[str, Callable[[Result], float]] = {
    "filling, seconds": lambda r: r["fill"]["seconds"],
    "indexing, seconds of the processor": lambda r: r["index"]["cpu_seconds"],
    "disk, bytes": lambda r: r["index"]["disk"],
    "codes and graph, bytes": lambda r: r["index"]["files"]["codes"] + r["index"]["files"]["graph"],
    "peak memory of filling, bytes": lambda r: r["fill"]["peak_anonymous"],
    "peak memory of indexing, bytes": lambda r: r["index"]["peak_anonymous"],
    "441 text queries, seconds": lambda r: min(r["search"]["plain"]["seconds"]),
    "441 visual queries, seconds": lambda r: min(r["search"]["visual"]["seconds"]),
}


def complete(width: int | None = None) -> list[Result]:
    """Return the results of sizes all of whose steps were measured, of one width or of all, the smallest first."""
    found = [r for r in read(RESULTS).values() if all(step in r for step in STEPS)]
    found = [r for r in found if width in (None, r["width"])]
    return sorted(found, key=lambda r: (r["width"], r["contexts"]))


def grown(width: int) -> list[Result]:
    """Return those results of a width whose growth is fitted: with a graph in every segment.

    The engine makes no graph for a segment of under 10,000 KiB of codes, so small layers have one for a part of their
    contexts; they have fewer bytes of links for each.
    """
    found = complete(width)
    links = [r["index"]["files"]["graph"] / r["contexts"] for r in found]
    return [r for r, each in zip(found, links, strict=True) if each >= 0.8 * max(links)]


def scale_table() -> str:
    """Return a Markdown table of all sizes."""
    lines = [
        "| contexts × dimensions | filling: s, of the processor | indexing: s, of the processor | disk | peak memory: "
        "filling, indexing | first query after opening: cold, warm | 441 queries: text, visual | one query: text, "
        "visual | recall@5: text, visual |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in complete():
        fill, index, search, opened = (r[name] for name in ("fill", "index", "search", "open"))
        warm = [_opened(one) for one in opened["warm"]]
        cells = (
            f"{r['contexts']:,} × {r['width']:,}",
            _seconds(fill),
            _seconds(index),
            _mb(index["disk"]),
            f"{_mb(fill['peak_anonymous'])}, {_mb(index['peak_anonymous'])}",
            f"{_opened(opened['cold']):.2f} s, {min(warm):.2f} s",
            ", ".join(f"{min(search[kind]['seconds']):.2f} s" for kind in ("plain", "visual")),
            ", ".join(f"{search[kind]['one_seconds'] * 1e3:.0f} ms" for kind in ("plain", "visual")),
            ", ".join(f"{search[kind]['recall']:.3f}" for kind in ("plain", "visual")),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *_measured_on()])


def _seconds(step: Result) -> str:
    """Return a step's seconds, and those of the processor if they were measured."""
    used = f", {step['cpu_seconds']:,.0f}" if "cpu_seconds" in step else ""
    return f"{step['seconds']:,.0f}{used}"


def _opened(one: dict[str, float]) -> float:
    return one["open_seconds"] + one["first_query_seconds"]


def _measured_on() -> list[str]:
    """Return a sentence or two for each machine: which sizes it measured, when, and what else ran there."""
    places: dict[str, list[Result]] = {}
    for r in complete():
        places.setdefault(place(r["machine"]), []).append(r)
    lines = [_measured_there(where, found, alone=len(places) == 1) for where, found in places.items()]
    return lines or ["Nothing was measured yet."]


def _measured_there(where: str, found: list[Result], *, alone: bool) -> str:
    dates = sorted(r[step]["date"][:10] for r in found for step in STEPS)
    loads = [r[step]["load_after"] for r in found for step in STEPS]
    days = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    machine = found[0]["machine"]
    ran = f"{min(loads):.0f} to {max(loads):.0f} processes ran on the {machine['cores']} cores"
    if max(loads) > 2 * machine["cores"]:
        ran = f"Beside other programs: {ran}, so only seconds of the processor, bytes and recall say much"
    sizes = "" if alone else listed(f"{r['contexts']:,} × {r['width']:,}" for r in found) + ": "
    return f"{sizes}{where}, qdrant-edge-py {machine['packages']['qdrant-edge-py']}, {days}. {ran}."


def filter_table() -> str:
    """Return a Markdown table of filtered searches in the largest layer of each width."""
    shares = {"plain": "none", "half": "50 %", "twentieth": "5 %", "200th": "0.5 %", "2000th": "0.05 %"}
    lines = [
        "| contexts × dimensions | " + " | ".join(f"filter: {share}" for share in shares.values()) + " |",
        "|---" * (len(shares) + 1) + "|",
    ]
    for width in sorted({r["width"] for r in complete()}):
        r = complete(width)[-1]
        limits, queries = r["search"]["limits"], r["search"]["queries"]
        cells = [
            f"{min(r['search'][name]['seconds']):.2f} s, recall {r['search'][name]['recall']:.3f}"
            for name in shares
        ]
        lines.append(f"| {r['contexts']:,} × {width:,} | " + " | ".join(cells) + " |")
        product = 2.0 * queries * r["contexts"] * width / limits["gemm"]
        lines.append(
            f"| ... of the speed of a product with all contexts ({product:.2f} s) | "
            + " | ".join(f"{product / min(r['search'][name]['seconds']):.2f}" for name in shares)
            + " |"
        )
    return "\n".join(lines)


def fit(results: Sequence[Result], quantity: Callable[[Result], float]) -> tuple[float, float, float]:
    """Return a, b and the largest relative error of quantity = a × contexts ** b."""
    counts = np.array([r["contexts"] for r in results], float)
    values = np.array([max(quantity(r), 1e-9) for r in results])
    b, log_a = np.polyfit(np.log(counts), np.log(values), 1)
    fitted = np.exp(log_a) * counts**b
    return float(np.exp(log_a)), float(b), float(np.max(np.abs(fitted / values - 1)))


def growth_fit_table() -> str:
    """Return a Markdown table of the powers with which everything grows, and the furthest a size lies from them."""
    sizes = {width: grown(width) for width in sorted({r["width"] for r in complete()})}
    sizes = {width: results for width, results in sizes.items() if len(results) > 2}
    names = [
        f"{width:,} dimensions, {len(results)} sizes from {results[0]['contexts']:,} to {results[-1]['contexts']:,}"
        for width, results in sizes.items()
    ]
    lines = [
        "| grows as contexts to the power of | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for name, quantity in QUANTITIES.items():
        fits = [fit(results, quantity) for results in sizes.values()]
        lines.append(f"| {name} | " + " | ".join(f"{b:.2f} (± {off:.0%})" for _, b, off in fits) + " |")
    return "\n".join(lines)


def paper_table() -> str:
    """Return a Markdown table of the paper's bank: by growth, by bank/sizing.py, and what a server for it costs."""
    results, layers, count = grown(PAPER.hidden_size), PAPER.layers, PAPER.contexts
    if len(results) < 2:
        return "Not measured."

    def whole(name: str) -> float:
        a, b, _ = fit(results, QUANTITIES[name])
        return layers * a * count**b

    computed = layer_bytes(PAPER)
    fill, index = (whole(what) / 3600 for what in ("filling, seconds", "indexing, seconds of the processor"))
    ram = whole("codes and graph, bytes") + layers * count * _IDS_RAM
    disk = whole("disk, bytes") * (layers + 1) / layers
    rows = [
        (
            "filling, layer after layer, hours; of a core",
            f"{fill:.1f}",
            f"{layers * count * store_seconds(PAPER) / 3600:.1f}",
        ),
        ("indexing, hours of a core", f"{index:.1f}", f"{layers * count * index_seconds(PAPER) / 3600:.1f}"),
        ("RAM of codes, graph and ids", _gb(ram), _gb(layers * computed.ram)),
        ("disk, with room to index a layer", _gb(disk), _gb((layers + 1) * computed.disk)),
        ("a server's RAM", *(f"{_server_ram(need)} GiB" for need in (ram, layers * computed.ram))),
        (
            "its price, US dollars a month",
            *(
                f"{month_price(need, room):,.0f}"
                for need, room in ((ram, disk), (layers * computed.ram, (layers + 1) * computed.disk))
            ),
        ),
    ]
    lines = [
        f"| {count:,} contexts × {layers} layers × {PAPER.hidden_size:,} dimensions | by the growth measured | by "
        "`bank/sizing.py` |",
        "|---|---|---|",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _server_ram(need: float) -> int:
    """Return the GiB of RAM of the smallest server that holds so many bytes while a fifth stays free."""
    return next((size for size in _SIZES if size * 2**30 * USABLE >= need), math.ceil(need / USABLE / 2**30))


def month_price(need: float, room: float) -> float:
    """Return the price of a month of a server with `need` bytes in RAM and `room` bytes on its disk, a fifth free."""
    ram = _server_ram(need)
    hour = ram * (RAM_PRICE + CORE_PRICE / _GIB_OF_A_CORE) + room / USABLE / 2**30 * DISK_PRICE
    return hour * _HOURS_OF_A_MONTH


def _mb(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"


def _gb(count: float) -> str:
    return f"{count / GB:,.0f} GB"


TABLES = {
    "scale": scale_table,
    "filters": filter_table,
    "powers": growth_fit_table,
    "paper": paper_table,
}
