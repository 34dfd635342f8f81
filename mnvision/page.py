"""The frame of ``report.html``: its HTML around the body, and its style sheet, light and dark, for screen and print."""

# Nothing may be loaded or run, whatever a name contains.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

STYLE = """
:root { --page: #f6f6f3; --card: #fff; --ink: #16181d; --soft: #5b606b; --hair: #e3e3de; --grid: #ecece8;
  --c1: #2a6fd6; --c2: #12a37c; --c3: #8b8f99; --c4: #e0642b; }
@media (prefers-color-scheme: dark) {
  :root { --page: #101216; --card: #181b21; --ink: #f1f2f4; --soft: #a0a6b2; --hair: #2b2f38; --grid: #252932;
    --c1: #5a9bf5; --c2: #2fbf95; --c3: #8a909c; --c4: #f0834c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1120px; margin: 0 auto; padding: 48px 24px 64px; }
h1 { margin: 0 0 16px; font-size: 34px; line-height: 1.15; letter-spacing: -.02em; text-wrap: balance; }
h2 { margin: 0 0 14px; font-size: 19px; letter-spacing: -.01em; }
section { margin-top: 44px; }
dl { margin: 0; display: grid; gap: 3px; }
dl div { display: grid; grid-template-columns: 108px 1fr; gap: 12px; }
dt, .note, figcaption span, .figures span { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.note { margin: -10px 0 14px; font-size: 13px; } .also { margin: 12px 2px 0; font-size: 13px; color: var(--soft); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 150px), 1fr)); gap: 1px;
  margin-top: 32px; background: var(--hair); border: 1px solid var(--hair); border-radius: 12px; overflow: hidden; }
.figures div { background: var(--card); padding: 18px 22px 16px; }
.figures b { display: block; font-size: 40px; line-height: 1.1; font-weight: 650; letter-spacing: -.03em; }
.figures small { font-size: 17px; font-weight: 500; letter-spacing: 0; }
.figures span { font-size: 13px; } .figures i { font-style: normal; opacity: .8; margin-left: 3px; }
.charts, .tables { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
.chart, .tables .scroll, details, pre { background: var(--card); border: 1px solid var(--hair); border-radius: 12px; }
.chart { margin: 0; padding: 16px 16px 12px; }
.chart figcaption { margin: 0 4px 8px; font-weight: 600; } .chart figcaption span { font-weight: 400; font-size: 13px; }
svg { display: block; width: 100%; height: auto; font-size: 12.5px; }
.grid { stroke: var(--grid); } .axis { stroke: var(--soft); opacity: .6; }
.tick { fill: var(--soft); font-weight: 400; } .label { font-weight: 600; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.line.c1, .ring.c1 { stroke: var(--c1); } .line.c2 { stroke: var(--c2); } .line.c3 { stroke: var(--c3); }
.line.c4 { stroke: var(--c4); }
.dot { stroke: var(--card); stroke-width: 2; } .ring { fill: none; stroke-width: 1.5; }
.dot.c1, .label.c1 { fill: var(--c1); } .dot.c2, .label.c2 { fill: var(--c2); }
.dot.c3, .label.c3 { fill: var(--c3); } .dot.c4, .label.c4 { fill: var(--c4); }
.hit rect { fill: transparent; } .hit path { stroke: var(--soft); stroke-dasharray: 2 3; opacity: 0; }
.hit:hover path { opacity: .8; }
.pictures { display: flex; flex-wrap: wrap; gap: 12px; }
.pictures::after { content: ""; flex: 1000000 1 0; }
.pictures figure { margin: 0; min-width: 0; max-width: 480px; }
.pictures img { display: block; width: 100%; height: auto; border-radius: 8px; }
.pictures figcaption { margin-top: 4px; font-size: 12px; color: var(--soft); overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.scroll { overflow-x: auto; } .tables .scroll { padding: 6px 16px 10px; }
table { width: 100%; border-collapse: collapse; font-size: 13.5px; }
th, td { padding: 6px 0 6px 14px; text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--hair); }
td { color: var(--soft); } tbody tr + tr td { border-top: 1px solid var(--grid); }
.tables td:not(:first-child, :last-child) { white-space: normal; text-wrap: balance; }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
th:first-child, td:first-child, td:last-child { color: var(--ink); font-weight: 600; }
.classes { list-style: none; margin: 0; padding: 0; columns: 300px; column-gap: 36px; font-size: 13px; }
.few { columns: auto; max-width: 720px; }
.classes li { display: grid; grid-template-columns: minmax(0, 2fr) 3fr 40px; gap: 10px; align-items: center;
  height: 22px; break-inside: avoid; }
.classes span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.classes b { font-weight: 500; text-align: right; }
.classes i { position: relative; height: 10px; background: var(--hair); border-radius: 2px; }
.classes s { display: block; height: 100%; background: var(--c1); border-radius: 2px; }
.classes u { position: absolute; top: -2px; bottom: -2px; width: 3px; margin-left: -1px; background: var(--c2);
  border-radius: 1px; box-shadow: 0 0 0 1px var(--page); }
.key { margin-right: 10px; color: var(--ink); }
.key s, .key u { display: inline-block; margin: 0 3px 0 0; width: 14px; height: 10px; border-radius: 2px;
  background: var(--c1); }
.key u { margin-left: 8px; width: 3px; height: 12px; background: var(--c2); vertical-align: -1px; }
pre { margin: 0; padding: 14px 18px; overflow-x: auto; font: 13px/1.55 ui-monospace, "SF Mono", Menlo, Consolas,
  "DejaVu Sans Mono", monospace; }
details { margin-top: 16px; padding: 12px 18px; } main > details { margin-top: 44px; }
summary { cursor: pointer; font-weight: 600; } details > div { margin-top: 10px; }
details pre { border: 0; padding: 12px 0 0; }
@media (max-width: 560px) { main { padding: 28px 14px 40px; } h1 { font-size: 26px; } .figures b { font-size: 32px; }
  .figures { grid-template-columns: 1fr 1fr; } .figures div { padding: 14px 16px 12px; }
  table { font-size: 12px; } th, td { padding-left: 6px; }
  .chart { padding: 12px 8px 8px; } .tables .scroll { padding: 4px 12px 8px; }
  dl div { grid-template-columns: 1fr; gap: 0; margin-bottom: 6px; } }
@media print { body { background: none; } figure, section.figures, li, tr { break-inside: avoid; } }
"""
