"""An accelerator: exactness, attention, batches, encoding, the whole job and the exact scan, in under ten minutes.

    python -m benchmarks.accelerator --json accelerator.json --docs docs/benchmarks.md

All models are random, of SmolLM2-135M's and LLaMA-7B's shapes; nothing is read from a hub, and no other file is needed
than this repository's. For a CUDA machine with 24 GB or more; more for larger batches. Written for Python 3.11 to 3.13
and PyTorch 2.11 to 2.13. Besides torch, transformers, accelerate and what these bring it needs

    pydantic 2, pydantic-settings and its python-dotenv, pyarrow, portalocker, scipy, qdrant-edge-py 0.9.0

of which a machine with PyTorch often lacks pydantic-settings, python-dotenv and qdrant-edge-py: 14 MiB of wheels.

Each result is written to the JSON file as soon as it is there. When `--seconds` are over, the script writes what it has
and ends, with the names of what it left out. `--steps` chooses what is measured, in the order below.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import accelerator_attention, accelerator_steps
from benchmarks.accelerator_models import LARGE, SMALL, TINY, TINY_LARGE
from benchmarks.accelerator_steps import Result, Setup
from benchmarks.common import machine, parser_of, place
from latentbank.files import write_whole

BEGIN, END = "<!-- benchmarks.accelerator -->", "<!-- the end of benchmarks.accelerator -->"
STEPS: dict[str, Callable[[Setup], Iterator[Result]]] = {
    "limits": accelerator_steps.limits,
    "exactness": accelerator_steps.exactness,
    "encoding": accelerator_steps.encoding,
    "job": accelerator_steps.job,
    "attention": accelerator_attention.attention,
    "batches": accelerator_steps.batches,
    "scan": accelerator_steps.scan,
}
"""What is measured, the most important first, by its name for `--steps`."""
CUDA = Setup(
    device="cuda",
    small=SMALL,
    large=LARGE,
    sentences=4000,
    large_sentences=1500,
    exact_sentences=24,
    tokens=16_384,
    batches=(2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072),
    scans=((1_000_000, 576), (200_000, 4096)),
    seconds=2.0,
)
CPU = Setup(
    device="cpu",
    small=TINY,
    large=TINY_LARGE,
    sentences=60,
    large_sentences=20,
    exact_sentences=6,
    tokens=256,
    batches=(128, 256),
    scans=((2000, 32),),
    seconds=0.0,
)


_BLOCKS = 30  # of an LLM, that share a mask
_ENOUGH = 0.97  # of the best speed


class _OutOfTime(BaseException):
    """The time is over; not an Exception, so that nothing on the way takes it for its own."""


def main(given: list[str] | None = None) -> int:
    """Measure until the time is over, print the table, and write it where it is wanted."""
    arguments = _parser().parse_args(given)
    setup = CPU if arguments.tiny else CUDA
    if setup.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no GPU here; --tiny tries the script with tiny models.", file=sys.stderr)
        return 2
    found: dict[str, Any] = {"machine": machine() | _device(setup), "results": {}, "left_out": {}}
    names = arguments.steps.split(",") if arguments.steps else list(STEPS)
    if unknown := [name for name in names if name not in STEPS]:
        print(f"There is no step {unknown[0]}; there are {', '.join(STEPS)}.", file=sys.stderr)
        return 2
    measure(setup, names, found, arguments.json, arguments.seconds)
    lines = table(found)
    print("\n".join(lines))
    if arguments.docs is not None:
        text = arguments.docs.read_text(encoding="utf-8")
        write_whole(arguments.docs, filled_in(text, lines).encode())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.accelerator", __doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=540, help="when to end, whatever is not measured yet")
    add("--steps", help=f"what to measure ({','.join(STEPS)})")
    add("--tiny", action="store_true", help="tiny models on the CPU: only whether the script works")
    add("--json", type=Path, help="file of results, written after each")
    add("--docs", type=Path, help="Markdown file whose section is filled in")
    return parser


def _device(setup: Setup) -> dict[str, Any]:
    if setup.device != "cuda":
        return {"device": "cpu"}
    about = torch.cuda.get_device_properties(0)
    return {
        "device": about.name,
        "device_gib": round(about.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    }


def measure(setup: Setup, names: list[str], found: dict[str, Any], file: Path | None, seconds: float) -> None:
    """Run steps and keep each result in `found` and in the file, until the time is over.

    A step that fails is named with its error under "left_out", as is what the time did not suffice for.
    """

    def keep() -> None:
        if file is not None:
            write_whole(file, (json.dumps(found, indent=1) + "\n").encode())

    def end(_signal: int, _frame: Any) -> None:
        raise _OutOfTime

    began = time.monotonic()
    found["left_out"] = dict.fromkeys(names, "the time was over")
    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        for name in names:
            results = found["results"].setdefault(name, {})
            try:
                for what, result in STEPS[name](setup):
                    results[what] = result
                    print(f"{time.monotonic() - began:6.1f} s  {name}: {what}: {result}", flush=True)
                    keep()
                del found["left_out"][name]
            except Exception as error:  # the others can still be measured
                found["left_out"][name] = f"{type(error).__name__}: {error}"[:500]
    except _OutOfTime:
        print(f"{seconds:g} seconds are over; left out: {', '.join(found['left_out'])}", file=sys.stderr)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        found["seconds"] = round(time.monotonic() - began, 1)
        keep()


# -- the table -----------------------------------------------------------------------------------


def table(found: dict[str, Any]) -> list[str]:
    """Return Markdown lines: the machine, and a table of all results with each one's share of the machine's limit."""
    where, results = found["machine"], found["results"]
    packages = ", ".join(f"{name} {where['packages'][name]}" for name in ("torch", "transformers"))
    memory = f", {where['device_gib']} GiB" if "device_gib" in where else ""
    lines = [
        f"{where['device']}{memory}; {place(where)}; {packages}; {where['date'][:10]}.",
        "",
        "| | measured | share of the limit |",
        "|---|---|---|",
    ]
    limits = results.get("limits", {})
    for name, result in limits.items():
        speed = f"{result['flops'] / 1e12:,.1f} TFLOP/s" if "flops" in result else _gb(result)
        lines.append(f"| {name} | {speed} | |")
    for step, row in _ROWS.items():
        for name, result in results.get(step, {}).items():
            what, share = row(result)
            lines.append(f"| {step}: {name} | {what} | {share} |")
    lines += [f"| {what} | {answer} | |" for what, answer in conclusions(results)]
    lines += [
        f"| {name} | not measured: {reason.replace('|', '/')} | |"
        for name, reason in found["left_out"].items()
    ]
    return lines


def conclusions(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Return for each LLM's shape the fastest attention for prefix trees, and how many tokens a pass should have.

    A mask is made once for all blocks. Of the passes whose speed is within 3 % of the best, the one with the fewest
    tokens is enough.
    """
    said = []
    for size in dict.fromkeys(name.partition(", rows of")[0] for name in results.get("attention", {})):
        ways = {
            name: result["tokens"] / (result["seconds"] + result["mask_seconds"] / _BLOCKS)
            for name, result in results["attention"].items()
            if name.startswith(size) and "seconds" in result and not name.endswith("without a mask")
        }
        if ways:
            fastest = max(ways, key=lambda name: ways[name])
            said.append((f"{size}: the fastest attention", fastest.removeprefix(f"{size}, ")))
    for size in dict.fromkeys(name.partition(":")[0] for name in results.get("batches", {})):
        fits = [
            result
            for name, result in results["batches"].items()
            if name.startswith(size) and "peak_bytes" in result
        ]
        if fits:
            most = max(result["tokens_per_second"] for result in fits)
            enough = min(r["tokens"] for r in fits if r["tokens_per_second"] >= _ENOUGH * most)
            said.append((f"{size}: tokens a pass that are enough", f"{enough:,}"))
    return said


def _gb(result: dict[str, Any]) -> str:
    return f"{result['bytes_per_second'] / 1e9:,.1f} GB/s"


def _exactness_row(result: dict[str, Any]) -> tuple[str, str]:
    layers = ", ".join(map(str, result["layers"]))
    far = ", ".join(f"{far:.1e}" for far in result["one_minus_cosine"])
    return f"1 − cosine at most {far} at layers {layers}", ""


def _attention_row(result: dict[str, Any]) -> tuple[str, str]:
    if "failed" in result:
        return f"failed: {result['failed'].splitlines()[0].replace('|', '/')}", ""
    mask = f", its mask {result['mask_seconds'] * 1e3:.1f} ms" if result["mask_seconds"] else ""
    far = f", furthest {result['furthest']:.0e}" if "furthest" in result else ""
    return (
        f"{result['seconds'] * 1e3:.2f} ms for {result['tokens']:,} tokens{mask}{far}",
        f"{result['bound_seconds'] / result['seconds']:.2f} of attention without a mask",
    )


def _batches_row(result: dict[str, Any]) -> tuple[str, str]:
    if result.get("out_of_memory"):
        return "more than the memory", ""
    return f"{result['tokens_per_second']:,.0f} tokens/s, {result['peak_bytes'] / 2**30:.1f} GiB", ""


def _encoding_row(result: dict[str, Any]) -> tuple[str, str]:
    return (
        f"{result['encode']:,.0f} tokens/s",
        f"{result['share']:.2f} of the bare forward pass ({result['bare']:,.0f})",
    )


def _job_row(result: dict[str, Any]) -> tuple[str, str]:
    seconds = ", ".join(f"{part} {result[f'{part}_seconds']:.1f} s" for part in ("plan", "encode", "index"))
    share = result["tokens_per_second"] / result["bare"]
    return (
        f"{result['contexts_per_second']:,.0f} contexts/s ({seconds})",
        f"{share:.2f} of the bare forward pass, while encoding and writing",
    )


def _scan_row(result: dict[str, Any]) -> tuple[str, str]:
    share = result["product_and_top_k_seconds"] / result["seconds"]
    return (
        f"{result['seconds'] * 1e3:,.1f} ms, {result['same_as_float32']:.3f} of float32's neighbors",
        f"{share:.2f} of product and top-k on the device",
    )


_ROWS: dict[str, Callable[[dict[str, Any]], tuple[str, str]]] = {
    "exactness": _exactness_row,
    "encoding": _encoding_row,
    "job": _job_row,
    "attention": _attention_row,
    "batches": _batches_row,
    "scan": _scan_row,
}


def filled_in(text: str, lines: list[str]) -> str:
    """Return a Markdown text with the table between its two marks."""
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise SystemExit(f"The file has no place for the table: the lines {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main())
