// What all widgets share: the colours of both themes, type, focus rings, safe DOM.
//
// A widget lives in a shadow root, so that neither JupyterLab's styles nor another
// widget's ids reach it. Styles are constructed sheets and colours are set through the
// style object, which a strict content-security policy allows. Text enters the page as
// text nodes alone: what a prompt contains is data, never markup.

// Text colours have a contrast of at least 4.5 on `paper` and on `panel`; `ramp` goes
// from the faintest lit cell to the brightest; `first` and `second` are the two sides
// of a comparison and differ for every kind of colour vision; `kinds` are those of
// routing/words.mjs, and that of none.
export const THEMES = {
  light: {
    paper: "#ffffff", panel: "#f5f6f8", line: "#d3d8df", edge: "#7b8694",
    ink: "#1b1f24", muted: "#56606c", accent: "#b83c00", focus: "#0b62b8",
    first: "#0060b0", second: "#c04800", same: "#5b6470",
    tint: "#7db8f0", mark: "#ffd08a",
    ramp: ["#8fc0ee", "#4189d0", "#164f9a", "#06214a"],
    kinds: ["#d1495b", "#30638e", "#c9a227", "#7b2d8b", "#008c72", "#6cc3a0", "#e07a1f", "#7a5c43", "#8d96a1"],
  },
  dark: {
    paper: "#14171c", panel: "#1d2128", line: "#3a424d", edge: "#7d8896",
    ink: "#e9ebee", muted: "#a7b0bc", accent: "#ffab70", focus: "#79bdff",
    first: "#62b3ff", second: "#ff9d5c", same: "#98a2ae",
    tint: "#1f5f9c", mark: "#7a4a00",
    ramp: ["#23507f", "#3f86c8", "#86c5ff", "#f4fbff"],
    kinds: ["#ff7f8e", "#6aa9e0", "#e6c84f", "#c98be0", "#2fc9a4", "#a4e3cb", "#ffa755", "#bd9a7d", "#727c88"],
  },
};

export const LOOK_CSS = `
:host { display: block; }
.frame {
  container-type: inline-size; box-sizing: border-box; padding: 7px 12px;
  background: var(--paper); color: var(--ink); border: 1px solid var(--line);
  border-radius: 6px; font: 13px/1.45 var(--jp-ui-font-family, system-ui), sans-serif;
  overflow-wrap: anywhere;
}
.frame * { box-sizing: border-box; }
h2, h3, p, ol, ul { margin: 0; padding: 0; }
h2 { font-size: 15px; } h3 { font-size: 13px; }
.muted { color: var(--muted); }
.code, .token { font-family: var(--jp-code-font-family, ui-monospace), monospace; }
.token { white-space: pre-wrap; unicode-bidi: isolate; }
.bar { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; }
button, select {
  font: inherit; color: var(--ink); background: var(--panel); cursor: pointer;
  border: 1px solid var(--edge); border-radius: 4px; padding: 2px 8px; min-height: 26px;
  min-width: 26px;
}
button:hover, select:hover { border-color: var(--ink); }
button[aria-pressed="true"] { background: var(--ink); color: var(--paper); }
button:disabled { color: var(--muted); cursor: default; border-style: dashed; }
input[type="range"] { accent-color: var(--accent); margin: 0; }
:focus { outline: none; }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 1px; }
canvas { display: block; touch-action: pan-y; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--muted); }
[hidden] { display: none !important; }
@media print {
  button:not(.link), select, input, label, details { display: none !important; }
  .frame { border: 0; } .text, .panel { max-height: none !important; overflow: visible !important; contain: none !important; }
}
.tip {
  position: absolute; z-index: 2; max-width: 22em; padding: 3px 8px; pointer-events: none;
  background: var(--panel); border: 1px solid var(--edge); border-radius: 4px;
}
.unseen {
  position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap;
}
`;

/** Whether the page is dark: by what the host says of itself, else by the system. */
export function isDark() {
  const { jpThemeLight, vscodeThemeKind } = document.body.dataset;
  if (jpThemeLight) return jpThemeLight === "false";
  if (vscodeThemeKind) return /dark|high-contrast$/.test(vscodeThemeKind);
  const colab = document.documentElement.getAttribute("theme");
  if (colab) return colab === "dark";
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Whether the reader asked the system for less movement. */
export const reducedMotion = () =>
  matchMedia("(prefers-reduced-motion: reduce)").matches;

/**
 * A framed shadow root inside `el`. Returns { root, colours(), onTheme(f), remove() }:
 * `root` is the element to fill, `colours()` the present theme's table, and `f` is
 * called whenever the theme changes.
 */
export function frame(el, css = "") {
  // JupyterLab must not take an arrow or a letter typed here for one of its shortcuts.
  const host = node("div", { "data-lm-suppress-shortcuts": "true" });
  const shadow = host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(LOOK_CSS + css);
  shadow.adoptedStyleSheets = [sheet];
  const root = shadow.appendChild(node("div", { class: "frame" }));
  el.append(host);

  const listeners = new Set();
  let printing = false; // on paper, dark colours are ink
  const name = () => (isDark() && !printing ? "dark" : "light");
  const update = () => {
    if (root.dataset.theme === name()) return;
    root.dataset.theme = name();
    root.style.colorScheme = name();
    for (const [key, value] of Object.entries(THEMES[name()]))
      if (typeof value === "string") root.style.setProperty(`--${key}`, value);
    for (const listener of listeners) listener();
  };
  update();
  const press = ({ type }) => {
    printing = type === "beforeprint";
    update();
  };
  for (const event of ["beforeprint", "afterprint"]) addEventListener(event, press);
  const system = matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", update);
  const watcher = new MutationObserver(update);
  for (const element of [document.documentElement, document.body])
    watcher.observe(element, { attributes: true });
  return {
    root,
    colours: () => THEMES[root.dataset.theme],
    onTheme: (listener) => listeners.add(listener),
    remove() {
      watcher.disconnect();
      for (const event of ["beforeprint", "afterprint"]) removeEventListener(event, press);
      system.removeEventListener("change", update);
      host.remove();
    },
  };
}

/**
 * An element with attributes and children; strings become text nodes. An attribute
 * `onclick` and the like is a listener; false, null and undefined leave one out.
 */
export function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value == null) continue;
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((c) => c != null && c !== false));
  return made;
}

/** A button with a text, a name for those who do not see it, and what it does. */
export const button = (text, label, run) => node("button", { "aria-label": label, onclick: run }, text);

/** "#rrggbb" or "rgb(r, g, b)" -> [r, g, b]. */
export const rgb = (colour) =>
  colour[0] === "#" ? [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16))
    : colour.match(/\d+/g).map(Number);

/** A colour as pixels of a canvas are stored, one 32-bit number. */
export const pixel = (colour) => new Uint32Array(Uint8Array.from([...rgb(colour), 255]).buffer)[0];

/** The colour at `x` in 0..1 of a list of colours, as "rgb(r, g, b)". */
export function rampColour(ramp, x) {
  const place = Math.min(Math.max(x, 0), 1) * (ramp.length - 1);
  const low = Math.min(Math.floor(place), ramp.length - 2);
  const [a, b] = [rgb(ramp[low]), rgb(ramp[low + 1])];
  const mixed = a.map((value, i) => Math.round(value + (place - low) * (b[i] - value)));
  return `rgb(${mixed.join(", ")})`;
}

// Characters that a browser shows as nothing, or that turn the text around them.
const UNSEEN = new RegExp(
  "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u200b\\u200e\\u200f" +
  "\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb]|^[\\u200c\\u200d]$", "g");

/** The text with unseen and direction-changing characters written as their names. */
export const visible = (text) =>
  text.replace(UNSEEN, (c) =>
    `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);

/** A token's text on one line, spaces marked, as sentences and tables quote it. */
export function quoted(text) {
  const marked = visible(text).replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣");
  const line = [...marked].length > 48 ? `${[...marked].slice(0, 47).join("")}…` : marked;
  // A mark that combines needs something to stand on.
  return /^\p{M}/u.test(line) ? `◌${line}` : line;
}

/** A text at the pointer over `canvas`, beside which it must stand: { element, show, hide }.
 * It says nothing to a screen reader, which has the text line. */
export function pointerText(canvas) {
  const element = node("div", { class: "tip", "aria-hidden": "true", hidden: true });
  return {
    element,
    hide: () => (element.hidden = true),
    show(x, y, ...content) {
      element.hidden = false;
      element.replaceChildren(...content);
      const [wide, high] = [element.offsetWidth, element.offsetHeight];
      const left = Math.max(0, x + 14 + wide > canvas.clientWidth ? x - wide - 10 : x + 14);
      const below = y + 18 + high > canvas.clientHeight ? y - high - 8 : y + 18;
      element.style.left = `${canvas.offsetLeft + left}px`;
      element.style.top = `${canvas.offsetTop + below}px`;
    },
  };
}

/** Makes a canvas sharp at this size in CSS pixels. Returns its context, scaled. */
export function sizeCanvas(canvas, width, height) {
  if (canvas.drawing) return canvas.drawing.begin(width, height); // save.mjs writes it down
  const scale = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== w) canvas.width = w;
  if (canvas.height !== h) canvas.height = h;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  return context;
}
