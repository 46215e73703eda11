// The routing explorer's own styles, on top of shared/look.mjs.

import { PICTURE_CSS } from "../shared/picture.mjs";

export const ROUTING_CSS = `${PICTURE_CSS}
.head { margin-bottom: 6px; gap: 2px 16px; }
.finding { font-size: 14px; min-height: 26px; flex: 1 1 400px; }
.finding button { margin-left: 4px; }
.primary { background: var(--focus); border-color: var(--focus); color: var(--paper); font-weight: 600; }
.body { display: grid; gap: 8px 16px; grid-template-columns: minmax(0, 1fr); }
.main { position: relative; display: grid; gap: 6px; min-width: 0; align-content: start; }
.words { display: grid; gap: 6px; min-width: 0; align-content: start; grid-template-columns: minmax(0, 1fr); }
.text {
  max-height: 9em; overflow-y: auto; padding: 4px 8px; background: var(--panel);
  border-radius: 4px; font: 13px/1.55 var(--jp-code-font-family, ui-monospace), monospace;
  white-space: pre-wrap; unicode-bidi: plaintext; tab-size: 4; position: relative;
}
@container (min-width: 600px) {
  .body { grid-template-columns: minmax(190px, 31%) minmax(0, 1fr); }
  .panel { grid-column: 1 / -1; }
  .text { max-height: 21em; }
}
@container (max-width: 859px) {
  .main .caption { order: 1; } .key .legend { order: 1; flex-basis: 100%; }
  .timeline select { max-width: 5.2em; } .head { margin-bottom: 2px; } .key { gap: 2px 12px; } .main { gap: 4px; }
}
@container (min-width: 860px) {
  .body { grid-template-rows: auto 1fr; min-height: 560px; }
  .main { grid-area: 1 / 2 / 3 / 3; }
  /* As high as what stands beside it: scrubbing must not make the page jump. */
  .panel { grid-area: 2 / 1 / 3 / 2; contain: strict; overflow-y: auto; min-height: 160px; }
}
.t { border-radius: 2px; cursor: pointer; padding: 2px 0; box-shadow: inset 1px 0 var(--line); }
.t.marker { font-size: 11px; font-style: italic; }
.t.empty::before { content: "·"; }
.end::before { content: "⏎"; color: var(--muted); font-style: normal; }
/* Over the tint, which is set on each token. */
.t[aria-selected="true"] { background-color: var(--mark) !important; }
.t.cursor { outline: 2px solid var(--accent); outline-offset: 0; }
.t.found { border-bottom: 2px solid var(--ink); }
.t:hover { text-decoration: underline; }
.patch[aria-selected="true"] { background-color: rgb(255 170 60 / 45%) !important; }
.patch.cursor { outline: 3px solid var(--accent); outline-offset: -2px; z-index: 1; }
.track { position: relative; height: 44px; }
.strip { position: absolute; left: 0; top: 0; cursor: pointer; }
.track input { position: absolute; left: 0; right: 0; bottom: -4px; width: 100%; height: 18px; }
.place { margin-left: auto; color: var(--muted); font-variant-numeric: tabular-nums; }
.map { width: 100%; border-radius: 2px; }
.caption { max-width: 76em; }
.says { min-height: 2.9em; }
.key { gap: 4px 12px; align-items: flex-start; }
.key label, .numbers label { display: inline-flex; gap: 4px; align-items: center; }
.legend {
  display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: center; color: var(--muted);
  flex: 1 1 0; min-width: 240px; min-height: 28px;
}
.key .wide { order: 1; flex-basis: 100%; }
.legend > span { display: inline-flex; gap: 5px; align-items: center; }
.scale { position: relative; width: 110px; height: 10px; margin: 0 24px 15px 12px; }
.swatch { display: inline-block; width: 10px; height: 10px; }
.swatch.full { width: 4px; background: var(--muted); }
.swatch.first, .level.first::before { background: var(--first); }
.swatch.second { background: var(--second); }
.first { color: var(--first); } .second { color: var(--second); }
.scale span { position: absolute; top: 9px; transform: translateX(-50%); white-space: nowrap; font-size: 11px; }
.find input { width: 12em; }
.numbers input, .find input {
  font: inherit; color: var(--ink); background: var(--panel);
  border: 1px solid var(--edge); border-radius: 4px; padding: 2px 4px; min-height: 26px;
}
.numbers input { width: 5em; }
.numbers .on { font-weight: 600; } .on input { border-color: var(--accent); border-width: 2px; }
.panel { min-width: 0; border-top: 1px solid var(--line); padding-top: 6px; }
.panel > * { margin-bottom: 6px; break-inside: avoid; }
@container (min-width: 620px) and (max-width: 859px) { .panel { columns: 2; column-gap: 24px; } }
.panel h4 { break-after: avoid; margin: 12px 0 4px; font-size: 12px; color: var(--muted); font-weight: 600; }
.panel table { width: 100%; max-width: 380px; }
.panel th, .panel td { padding: 2px 8px 2px 0; vertical-align: middle; font-size: 12px; }
.panel .number { text-align: right; }
.panel th.number { overflow-wrap: normal; }
.panel dl { margin: 6px 0; } .panel dt { color: var(--muted); font-size: 12px; }
.panel dd { margin: 0 0 4px; }
.panel canvas { max-width: 100%; }
.level { display: inline-block; width: 72px; height: 8px; margin-right: 6px; background: var(--panel); }
.level::before { content: ""; display: block; height: 100%; width: var(--level); background: var(--same); }
.level.beyond::before { clip-path: polygon(0 0, 92% 0, 100% 50%, 92% 100%, 0 100%); }
.link {
  background: none; border: 0; padding: 0 4px; min-height: 24px; min-width: 24px;
  color: var(--focus); text-decoration: underline; text-underline-offset: 2px;
}
.lines { list-style: none; font-size: 12px; }
.lines li { display: flex; align-items: baseline; white-space: pre; overflow: hidden; }
/* Of what does not fit, the beginning is cut away: the token stands in the middle. */
.lines .before { flex: 1 1 0; overflow: hidden; display: flex; justify-content: flex-end; }
.lines .after { flex: 1 1 0; overflow: hidden; }
.lines .link { background: var(--mark); color: var(--ink); text-decoration: none; padding: 0; }
.lines .muted { margin-left: 8px; }
summary { cursor: pointer; min-height: 24px; }
.keys dt { font-weight: 600; } .keys dd { margin: 0 0 2px; color: var(--muted); }
.keys dl { display: grid; grid-template-columns: auto 1fr; gap: 0 12px; margin: 4px 0; }
@media (forced-colors: active) { .t[aria-selected="true"] { outline: 2px solid Highlight; } }
`;
