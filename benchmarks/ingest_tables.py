"""The tables of `benchmarks.ingest`."""

from __future__ import annotations

from typing import Any

from benchmarks.common import Row, mib


def comparison(found: dict[str, Any], depth_count: int, deepest: int) -> list[Row]:
    """Return the lines of one size: both sides, the share of the bare forward, memory."""
    theirs, ours = found["reference"], found["latentbank"]
    rows = []
    mine = ours["contexts"] / ours["seconds"]
    passes = [found[when]["packed_tokens_per_second"] for when in ("forward_before", "forward_after")]
    share = ours["tokens"] / ours["seconds"] / (sum(passes) / 2)
    if theirs:
        rate = theirs["contexts"] / theirs["seconds"]
        only = f", reference on its first {theirs['sentences']:,} only"
        note = only if theirs["sentences"] < ours["sentences"] else ""
        rows = [
            Row(
                f"contexts per second, {depth_count} layers{note}",
                f"{rate:.1f}",
                f"{mine:.1f}",
                mine / rate,
                least=6.0,
                share=share,
                limit="the bare forward pass",
            ),
            Row(
                f"sentences per second{note}",
                f"{theirs['sentences'] / theirs['seconds']:.2f}",
                f"{ours['sentences'] / ours['seconds']:.2f}",
                ours["sentences"] / ours["seconds"] / theirs["sentences"] * theirs["seconds"],
                share=share,
                limit="the bare forward pass",
            ),
            Row("contexts a layer", f"{theirs['contexts']:,}", f"{ours['contexts']:,}", None),
            Row("wall time", f"{theirs['seconds']:,.0f} s", f"{ours['seconds']:,.0f} s", None),
        ]
    else:
        what = f"contexts per second, {depth_count} layers"
        rows = [Row(what, "not run", f"{mine:.1f}", None, share=share, limit="the bare forward pass")]
    parts = ", ".join(f"{part} {ours[part + '_seconds']:,.0f} s" for part in ("plan", "encode", "index"))
    rows.append(Row("… of which", "", parts, None))
    speed = ours["tokens"] / ours["encode_seconds"]
    for kind, what, least in (
        ("packed", "the same packed rows", 0.85),
        ("plain", "unpadded causal rows", None),
    ):
        bare = [found[when][f"{kind}_tokens_per_second"] for when in ("forward_before", "forward_after")]
        mean = sum(bare) / 2
        rows.append(
            Row(
                f"encoding and writing, share of a bare forward on {what}, {deepest} layers (tokens/s)",
                f"bare {mean:.0f} ({bare[0]:.0f} before, {bare[1]:.0f} after)",
                f"{speed:.0f}",
                speed / mean,
                "",
                least=least,
            )
        )
    rows += _encoder_rows(found, deepest)
    for kind in ("resident", "anonymous"):
        for what, base in ((f"peak {kind} memory", 0), (f"… beyond the loaded LLM ({kind})", 1)):
            used = [side and side[f"peak_{kind}"] - base * side[f"loaded_{kind}"] for side in (theirs, ours)]
            rows.append(
                Row(
                    what,
                    mib(used[0]) if theirs else "not run",
                    mib(used[1]),
                    used[1] / used[0] if theirs else None,
                )
            )
    return rows


def _encoder_rows(found: dict[str, Any], deepest: int) -> list[Row]:
    """Return the encoder alone beside the bare forward, by time and, as others use the machine, by processor time."""
    rows = []
    for clock, least in (("second", 0.95), ("processor_second", None)):
        mean = (
            sum(found[when][f"packed_tokens_per_{clock}"] for when in ("forward_before", "forward_after")) / 2
        )
        own = found["encoder"][f"tokens_per_{clock}"]
        what = f"encoder alone, share of it, {deepest} layers (tokens a {clock.replace('_', ' ')})"
        rows.append(Row(what, f"bare {mean:.0f}", f"{own:.0f}", own / mean, "", least=least))
    return rows


def memory_rows(runs: dict[int, dict[str, Any]]) -> list[Row]:
    """Return a comparison of every size with the first, for latentbank alone."""
    (first, base), *others = runs.items()
    return [
        Row(
            f"peak {kind}, {n:,} sentences against {first:,}",
            "",
            f"{mib(run[f'peak_{kind}'])} / {mib(base[f'peak_{kind}'])}",
            run[f"peak_{kind}"] / base[f"peak_{kind}"],
            most=1.25,
        )
        for n, run in others
        for kind in ("resident", "anonymous")
    ]
