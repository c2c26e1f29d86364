"""The HTML around the report: style, sections, tables. Every text that comes from data passes through `text`."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #fff; --ink: #1b2430; --faint: #657184; --line: #e1e5eb;
  --c0: #2f6fde; --c1: #e07a1f; --c2: #1f9d6b; --c3: #9a4fd0; --c4: #c93a55; --c5: #0f93a8; --hit: #14a05a;
  --note: #fff6df; --note-line: #ecd08a; }
@media (prefers-color-scheme: dark) { :root { --ground: #12161c; --card: #1b212a; --ink: #e6eaf0; --faint: #95a1b3;
  --line: #2e3743; --c0: #6fa0ff; --c1: #f2a154; --c2: #4fcf9a; --c3: #c08bf0; --c4: #f27a90; --c5: #4cc4d6;
  --hit: #3ddc8a; --note: #33290f; --note-line: #6b5720; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  overflow-wrap: break-word; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 56px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 20px; margin: 0 0 4px; } h3 { font-size: 14px; margin: 0 0 8px; }
p { margin: 0 0 12px; } .lead, small { color: var(--faint); } small { font-size: 12px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 22px;
  margin-top: 20px; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(118px, 1fr)); gap: 10px; margin-top: 18px; }
.fact { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 10px 14px; }
.fact b { display: block; font-size: 20px; line-height: 1.3; } .fact span { color: var(--faint); font-size: 12px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 8px 10px; border-bottom: 1px solid var(--line); vertical-align: middle; }
th { color: var(--faint); font-weight: 600; font-size: 12px; white-space: nowrap; }
tr:last-child td { border-bottom: 0; } tr.best td { font-weight: 650; } .value { white-space: nowrap; }
.value svg { width: 130px; height: 18px; display: block; margin-top: 2px; }
.settings td { padding: 4px 10px; font-size: 13px; overflow-wrap: anywhere; }
.settings td:first-child { color: var(--faint); width: 34%; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 18px 24px; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--faint); font-size: 11px; font-family: inherit; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 14px; color: var(--faint); font-size: 12px; margin-top: 4px; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 5px; }
.bar { display: flex; height: 22px; border-radius: 6px; overflow: hidden; gap: 1px; } .bar div { min-width: 2px; }
.note { background: var(--note); border: 1px solid var(--note-line); border-radius: 8px; padding: 8px 12px;
  margin: 8px 0 0; font-size: 13px; }
details { margin-top: 14px; } summary { cursor: pointer; color: var(--faint); font-size: 13px; }
.person { border-top: 1px solid var(--line); padding: 14px 0 10px; } .person:first-of-type { border-top: 0; }
.person header { display: flex; flex-wrap: wrap; gap: 2px 10px; align-items: baseline; font-size: 13px;
  margin-bottom: 8px; }
.person header b { min-width: 0; overflow-wrap: anywhere; }
.badge { border-radius: 99px; padding: 1px 9px; font-size: 12px; border: 1px solid var(--line); color: var(--faint); }
.badge.hit { border-color: var(--hit); color: var(--hit); font-weight: 600; }
.strip { display: flex; flex-wrap: wrap; gap: 10px 20px; } .group > small { display: block; margin-bottom: 3px; }
@media (min-width: 1000px) { .group:first-child { min-width: 531px; } }
.tiles { display: flex; flex-wrap: wrap; gap: 5px; }
figure { margin: 0; width: 62px; } figure img, figure .words { width: 62px; height: 82px; border-radius: 6px;
  border: 1px solid var(--line); display: block; }
figure img { object-fit: cover; background: #fff; }
figure .words { background: var(--ground); font-size: 9.5px; line-height: 1.25; padding: 5px; overflow: hidden;
  overflow-wrap: break-word; hyphens: auto; }
figure .words span { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 6; overflow: hidden; }
figcaption { font-size: 10px; line-height: 1.3; color: var(--faint); margin-top: 3px; }
figcaption b, figcaption span { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
figcaption b { color: var(--ink); font-weight: 600; }
figure.hit img, figure.hit .words { outline: 3px solid var(--hit); outline-offset: -1px; border-color: var(--hit); }
figure.hit figcaption b { color: var(--hit); }
figure.target img, figure.target .words { outline: 2px solid var(--c0); outline-offset: -1px; }
.person p { margin: 10px 0 0; }
.ranking { list-style: none; margin: 12px 0 0; padding: 0; }
.ranking li { display: grid; grid-template-columns: 24px 42px 1fr auto; gap: 0 12px; align-items: center;
  padding: 7px 8px; border-top: 1px solid var(--line); }
.ranking li > b { text-align: right; color: var(--faint); } .ranking li > span { font-variant-numeric: tabular-nums; }
.ranking li.hit > b { color: var(--hit); } .ranking li div > span, .ranking li div > small { display: block; }
.ranking div { min-width: 0; }
.ranking figure, .ranking figure img, .ranking figure .words { width: 42px; height: 54px; }
.ranking figure .words span { display: none; }
@media (min-width: 1000px) { .ranking { columns: 2; column-gap: 28px; } .ranking li { break-inside: avoid; } }
.sid { margin: 3px 0 1px; } .sid code { display: inline-block; border: 1px solid var(--line); border-radius: 5px;
  padding: 0 5px; margin: 0 4px 2px 0; color: var(--faint);
  font: 12px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
.sid .same { color: var(--hit); border-color: var(--hit); }
.sid .wrong { color: var(--c4); border-color: var(--c4); font-weight: 700; }
.answer { display: flex; gap: 12px 22px; } .answer > div:last-child { flex: 1; min-width: 0; }
.answer .group:first-child { min-width: 0; }
.answer figure, .answer figure img, .answer figure .words { width: 124px; }
.answer figure img, .answer figure .words { height: 132px; object-fit: contain; }
.fields { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 14px 26px; }
.field { display: grid; grid-template-columns: 1fr auto; align-items: baseline; align-content: start; min-width: 0; }
.field > b { font-size: 13px; } .field p { grid-column: 1 / -1; margin: 3px 0 0; overflow-wrap: anywhere; }
.field .score { color: var(--faint); font-size: 12px; font-variant-numeric: tabular-nums; }
.field small { display: block; line-height: 1.3; } .field .right { color: var(--hit); }
.answer details { margin-top: 8px; } .person .asked { margin: 6px 0 0; font-size: 13px; white-space: pre-wrap; }
@media (max-width: 600px) { .answer { flex-direction: column; } .answer figure { width: 124px; }
  .answer figure img, .answer figure .words { width: 124px; height: 132px; aspect-ratio: auto; } }
@media (max-width: 600px) { main { padding: 20px 10px 40px; } section { padding: 16px 12px; } h1 { font-size: 25px; }
  th, td { padding: 8px 6px; } .value small { display: block; } .value svg { width: 100px; }
  .facts { grid-template-columns: repeat(3, 1fr); gap: 6px; } .fact { padding: 8px 10px; } .fact b { font-size: 17px; }
  svg { overflow: visible; } svg text { font-size: 14px; }
  .settings td:first-child { width: 48%; } .group { width: 100%; } .tiles { gap: 8px 5px; }
  .ranking li { gap: 0 8px; padding: 7px 0; grid-template-columns: 22px 42px 1fr; }
  .ranking li > span { grid-column: 3; font-size: 12px; }
  .sid code { font-size: 11px; padding: 0 3px; margin-right: 3px; }
  figure { width: calc(25% - 4px); } figure img, figure .words { width: 100%; height: auto; aspect-ratio: 62 / 82; } }
footer { color: var(--faint); font-size: 12px; margin-top: 22px; }
"""


def text(value: Any) -> str:
    """`value` as text that is safe inside an element or a quoted attribute."""
    return escape(str(value), quote=True)


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def note(message: str) -> str:
    return f'<p class="note">{text(message)}</p>'


def section(title: str, lead: str, *parts: str) -> str:
    return f'<section><h2>{text(title)}</h2><p class="lead">{text(lead)}</p>{"".join(parts)}</section>'


def facts(pairs: Mapping[str, Any]) -> str:
    cards = (f'<div class="fact"><b>{text(value)}</b><span>{text(name)}</span></div>' for name, value in pairs.items())
    return f'<div class="facts">{"".join(cards)}</div>'


def grid(cells: Iterable[str]) -> str:
    return '<div class="grid">' + "".join(f"<div>{cell}</div>" for cell in cells) + "</div>"


def legend(names: Sequence[str]) -> str:
    marks = (
        f'<span><i style="background:var(--c{place % 6})"></i>{text(name)}</span>' for place, name in enumerate(names)
    )
    return f'<div class="legend">{"".join(marks)}</div>'


def settings_table(title: str, settings: Mapping[str, Any]) -> str:
    """Settings folded away: they are looked up, not read."""
    rows = "".join(f"<tr><td>{text(name)}</td><td>{text(value)}</td></tr>" for name, value in settings.items())
    table = f'<div class="scroll"><table class="settings">{rows}</table></div>'
    return f"<details><summary>{text(title)}</summary>{table}</details>"


def whole_page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main>{body}</main></body></html>\n"
    )
