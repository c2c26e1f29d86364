"""The look of every page, and what a reader may do in it: one style sheet, one small script.

Colours c0 to c5 stay apart for readers who see no red, no green or no blue, and are dark enough on white (a test
measures both); lines that share a chart differ in their dashes too.
"""

DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4")  # of the lines in a chart, in their order

# Sorts a table by the column whose head is pressed: best first, then the other way. Without it the table just stands.
SORT = """
document.querySelectorAll("table.sortable").forEach(function (table) {
  Array.from(table.tHead.rows[0].cells).forEach(function (head, column) {
    var button = document.createElement("button");
    button.type = "button";
    while (head.firstChild) button.appendChild(head.firstChild);
    head.appendChild(button);
    button.addEventListener("click", function () {
      var rising = head.getAttribute("aria-sort") === "descending";
      Array.from(table.tHead.rows[0].cells).forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      var rows = Array.from(table.tBodies[0].rows);
      rows.sort(function (one, two) {
        var left = one.cells[column].dataset.sort, right = two.cells[column].dataset.sort;
        if (left === undefined || right === undefined) return (left === undefined) - (right === undefined);
        var order = isNaN(left) || isNaN(right) ? right.localeCompare(left) : right - left;
        return rising ? -order : order;
      });
      rows.forEach(function (row) { table.tBodies[0].appendChild(row); });
    });
  });
});
"""

STYLE = """
:root { color-scheme: light; --ground: #f6f7f9; --card: #fff; --ink: #1b2430; --faint: #5b6677; --line: #dfe3e9;
  --c0: #0066b8; --c1: #dd6a00; --c2: #0f8f6a; --c3: #d073b0; --c4: #1b2430; --c5: #8c2d04; --hit: #0b7a4b;
  --wrong: #b3243f; --note: #fff6df; --note-line: #ecd08a; }
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
tbody tr:last-child :is(td, th) { border-bottom: 0; } tr.best td { font-weight: 650; } .value { white-space: nowrap; }
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
.sid .wrong { color: var(--wrong); border-color: var(--wrong); font-weight: 700; }
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
.legend svg { display: inline-block; width: 26px; height: 10px; margin-right: 6px; vertical-align: middle; }
:focus-visible { outline: 2px solid var(--c0); outline-offset: 2px; }
thead button { all: unset; cursor: pointer; } thead button:focus-visible { outline: 2px solid var(--c0); }
thead button::after { content: " ↕"; opacity: .55; }
th[aria-sort=descending] button::after { content: " ↓"; opacity: 1; }
th[aria-sort=ascending] button::after { content: " ↑"; opacity: 1; }
tbody th { color: var(--ink); font-size: 14px; position: sticky; left: 0; background: var(--card); z-index: 1;
  white-space: normal; overflow-wrap: anywhere; min-width: 150px; max-width: 240px; }
td small b { color: var(--ink); } td small { display: block; white-space: nowrap; font-size: 11.5px; }
.values td, .values tbody th { font-size: 12.5px; padding: 5px 10px; }
.values td { min-width: 110px; overflow-wrap: anywhere; } .values thead th { white-space: normal; min-width: 110px; }
.wide main { max-width: 1300px; }
.wide .fields { grid-template-columns: repeat(auto-fit, minmax(min(100%, 260px), 1fr)); }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 20px 30px;
  margin-bottom: 18px; }
nav { margin-top: 16px; font-size: 14px; } nav ul { margin: 4px 0 0; padding-left: 20px; } nav a { color: var(--c0); }
.group-name { font-size: 23px; margin: 38px 0 0; overflow-wrap: anywhere; } .group-name + .lead { margin: 4px 0 0; }
h3 { margin-top: 20px; } .grid h3 { margin-top: 0; } h4 { font-size: 13px; margin: 0 0 6px; overflow-wrap: anywhere; }
.dots { display: grid; grid-template-columns: minmax(70px, 34%) 1fr 62px; gap: 0 10px; font-size: 13px; }
.dots > * { padding: 3px 0; min-width: 0; overflow-wrap: anywhere; align-self: center; line-height: 1.3; }
.dots .number { text-align: right; font-variant-numeric: tabular-nums; }
.track { position: relative; min-height: 24px; align-self: stretch; }
.track i, .track b { position: absolute; }
.track .tick { top: 0; bottom: 0; width: 0; border-left: 1px solid var(--line); }
.track .whisker { top: calc(50% - 5px); height: 10px; border: 2px solid var(--c0); border-width: 0 2px; }
.track .whisker::after { content: ""; position: absolute; left: 0; right: 0; top: 4px;
  border-top: 2px solid var(--c0); }
.track .dot { top: calc(50% - 5px); width: 10px; height: 10px; margin-left: -5px; border: 5px solid var(--c0);
  border-radius: 50%; }
.track .label { top: 0; transform: translateX(-50%); font-weight: 400; font-size: 11px; color: var(--faint);
  white-space: nowrap; }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: 3px 8px; font-size: 12px;
  align-items: center; font-variant-numeric: tabular-nums; }
.bars .filled { display: block; height: 11px; background: var(--line); border-radius: 3px; overflow: hidden; }
.bars .filled i { display: block; height: 11px; background: var(--c0); }
.bars .few { color: var(--faint); } .bars .few .filled i { opacity: .45; }
.small-multiples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 240px), 1fr));
  gap: 16px 26px; margin-bottom: 6px; }
.five { max-width: 345px; } .five .tiles { flex-wrap: nowrap; } .five figure { flex: 0 1 62px; min-width: 0; }
.runs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 12px 18px;
  margin-top: 12px; }
.runs .group > small { overflow-wrap: anywhere; } .runs .group > small b { color: var(--ink); }
@media (max-width: 600px) { .five figure img, .five figure .words { width: 100%; } .five figcaption span {
  display: none; }
  .wide .strip figure { width: calc(20% - 4px); }
  .dots { grid-template-columns: minmax(60px, 36%) 1fr 54px; font-size: 12px; }
  tbody th { min-width: 96px; max-width: 120px; } }
@media print { body { background: #fff; font-size: 11px; } main { max-width: none; padding: 0; }
  section { border: 0; padding: 8px 0; } .scroll { overflow: visible; } tbody th { position: static; }
  .person, .small-multiples > div, .grid > div, tr { break-inside: avoid; } h2, h3, h4 { break-after: avoid; }
  .bars .filled, .legend i, .bar div { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  thead button::after { content: none !important; } nav { display: none; } }
"""
