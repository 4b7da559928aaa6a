"""The report: one self-contained HTML page with what was measured beside what was published."""

from __future__ import annotations

import base64
import html
import platform
from datetime import UTC, datetime
from pathlib import Path

from latentbank.files import write_whole
from latentbank.progress import duration
from latentbank.query.reproduction.measured import SOURCES
from latentbank.query.reproduction.parts import Report, Section, table
from latentbank.query.reproduction.plan import ModelPlan
from latentbank.query.reproduction.sections import sections_of
from latentbank.text import listed
from latentbank.version import __version__

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { margin: 2rem auto; max-width: 64rem; padding: 0 1rem }
h2 { margin-top: 2.5rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #8884 }
th:first-child, td:first-child, .lens { text-align: left }
tr.published { color: GrayText }
figure { margin: 0 }
figure img { background: white; max-width: 100%; height: auto; border: 1px solid #8884; border-radius: 4px }
figcaption { font-size: .9rem }
.charts { display: grid; gap: 1.25rem; margin-top: 1.5rem }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)) }
details { margin: .75rem 0 }
.note { border-left: 3px solid #8888; padding-left: .75rem }
@media (max-width: 40rem) {
  thead { display: none }
  tr { display: block; padding: .5rem 0; border-bottom: 1px solid #8884 }
  td, td:first-child { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem 0 }
  td:empty { display: none }
  td::before { content: attr(data-title); color: GrayText; text-align: left }
}
"""


def save_report(path: Path, report: Report) -> Path:
    """Write a report as an HTML file, whole or not at all, and return its path.

    Raises:
        LatentBankError: the file cannot be written, or matplotlib is not installed.
    """
    return write_whole(path, report_html(report).encode("utf-8", "replace"))


def report_html(report: Report, when: datetime | None = None) -> str:
    """Return a report as an HTML page without scripts and outside requests; `when` is its date, None: now."""
    body = "".join(map(_section, sections_of(report)))
    title = html.escape(f"The paper's tables and figures: {report.plan.title}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title} – latentbank</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{title}</h1>{_head(report, when or datetime.now(UTC))}{body}{_end(report)}</body></html>\n"
    )


def _head(report: Report, when: datetime) -> str:
    plan = report.plan
    facts = [
        f"Models: {listed(map(_named, plan.models))}. Images: {plan.count:,}. Lenses: {listed(plan.lenses)}.",
        f"The judge is {report.rater}; intervals hold 95 % of bootstrap draws of whole images.",
        f"Made on {when:%Y-%m-%d} by latentbank {__version__} on {platform.system()}, {platform.machine()}.",
        "Gray rows and lines were published by the authors of LatentLens (arXiv 2602.00462), about other models, "
        "other images and a judge of their own; the sources are at the end.",
    ]
    if report.rater == "ground truth":
        facts.insert(
            2,
            "Ground truth: a word that names the object that covers half of a patch or more is <i>concrete</i>, one "
            "that names another object of the image <i>global</i>, a true colour or place <i>abstract</i>. Only such "
            "patches are judged; the paper's judge also sees background, and counts what only resembles the object.",
        )
    return "".join(f"<p>{fact}</p>" for fact in facts)


def _named(model: ModelPlan) -> str:
    """Return a model's name with what is to be known about it."""
    notes = [note for note in ("random projector" if model.random else "", html.escape(model.note)) if note]
    return f"{model.name} ({listed(notes)})" if notes else model.name


def _section(section: Section) -> str:
    charts = "".join(
        f'<figure><img alt="{html.escape(caption)}" src="data:image/svg+xml;base64,'
        f'{base64.b64encode(svg.encode()).decode()}"><figcaption>{html.escape(caption)}</figcaption></figure>'
        for caption, svg in section.charts
    )
    grid = f'<div class="charts">{charts}</div>' if charts else ""
    return f"<section><h2>{html.escape(section.title)}</h2>{section.text}{grid}</section>\n"


def _end(report: Report) -> str:
    stages = [
        (stage.name, duration(stage.seconds), "before" if stage.skipped else "in this run")
        for stage in report.stages
    ]
    total = duration(sum(stage.seconds for stage in report.stages))
    sources = "".join(f"<li>{html.escape(source)}</li>" for source in SOURCES.values())
    return (
        f"<section><h2>Stages</h2><p>All stages took {total}.</p>"
        f"<details><summary>Each stage</summary>{table(('stage', 'time', 'done'), stages)}</details></section>"
        f"<section><h2>Sources of what was published</h2><ul>{sources}</ul></section>"
    )
