"""The looks of report.html; colours follow the reader's light or dark setting."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1d2330; --soft: #5c6575; --line: #dfe3e9;
  --accent: #0072b2; --good: #0a7d55; --bad: #b3261e; --bar: #0072b2; --best: #e8f2fa;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171c; --card: #1d2229; --ink: #e6e9ee; --soft: #9aa4b2; --line: #333b46;
    --accent: #6cb8ea; --good: #5fd0a3; --bad: #ff9389; --bar: #4a9fd6; --best: #1c3447;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 2px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 0 0 12px; }
h3 { font-size: 14px; margin: 16px 0 6px; color: var(--soft); font-weight: 600; }
p { margin: 0 0 10px; }
.soft { color: var(--soft); }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 22px; margin-top: 18px;
}
.headline { border-left: 5px solid var(--accent); }
.headline.good { border-left-color: var(--good); }
.headline.bad { border-left-color: var(--bad); }
.headline > p:first-child { font-size: 18px; line-height: 1.45; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 14px 0 4px; }
.tile { flex: 1 1 130px; border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.tile b { display: block; font-size: 24px; font-variant-numeric: tabular-nums; font-weight: 650; }
.tile span { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-weight: 600; padding: 4px 0; }
th, td { padding: 5px 9px; text-align: right; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; font-size: 13px; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; white-space: nowrap; }
td.best { background: var(--best); font-weight: 650; }
tr.finetune td:first-child { font-weight: 650; }
tr.baseline td { color: var(--soft); }
td.from, th.from { border-left: 1px solid var(--line); }
table + table { margin-top: 16px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.columns {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 8px 28px;
}
img { display: block; width: 100%; height: auto; background: #fff; border-radius: 6px;
  margin-bottom: 14px; }
details > summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font-size: 13px; line-height: 1.4; margin: 10px 0 0; }
.sample { border-top: 1px solid var(--line); padding: 14px 0 6px; }
.sample:first-of-type { border-top: 0; padding-top: 0; }
ol, ul { margin: 0; padding-left: 22px; }
li.hit, .hit { color: var(--good); font-weight: 650; }
li small { color: var(--soft); }
.memory { display: grid; grid-template-columns: 90px 1fr; gap: 10px; margin-bottom: 6px; }
.weight { height: 9px; border-radius: 5px; background: var(--bar); margin-top: 7px; }
.memory small { color: var(--soft); font-variant-numeric: tabular-nums; }
footer { color: var(--soft); font-size: 13px; margin-top: 22px; }
"""
