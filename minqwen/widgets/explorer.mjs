// The page around the views: opens traces, names them, and shows a view in each tab.
// The same for all three kinds of page: served, with a trace inside, or with none.

import { readAddress, writeAddress } from "./shared/address.mjs";
import { fromAnyEngine } from "./shared/foreign.mjs";
import { frame, node, visible } from "./shared/look.mjs";
import { localModel } from "./shared/page.mjs";
import { pair } from "./shared/pair.mjs";
import { mount as mountRouting } from "./routing/view.mjs";
import { whole } from "./routing/words.mjs";
import { mount as mountState } from "./state/view.mjs";
import { parseTrace } from "./shared/trace.mjs";
import { WELCOME_CSS, onDrop, welcome } from "./welcome.mjs";

const VIEWS = [
  { name: "Experts", mount: mountRouting, missing: "the model has no experts", has: ({ K }) => K > 0 },
  {
    name: "Memory", mount: mountState, missing: "no head's memory was recorded",
    has: (trace) => trace.names.some((name) => name.startsWith("delta.")),
  },
];
const MEMORY = 1; // where among the views
const KEPT = ["selected", "token", "order", "colour", "head", "probe", "step", "find"]; // in the address
const PLAIN = { order: "as numbered", step: "answer" }; // defaults, left out of it
const CSS = `
.frame { border: 0; border-radius: 0; max-width: 1600px; min-height: 100vh; margin: auto; }
h1 { font-size: 17px; margin: 0; }
header { display: flex; flex-wrap: wrap; gap: 4px 16px; align-items: center; margin-bottom: 6px; }
.files { margin-left: auto; }
.pick {
  position: relative; border: 1px solid var(--edge); border-radius: 4px;
  padding: 3px 8px; background: var(--panel); cursor: pointer;
}
.pick:hover { border-color: var(--ink); }
.pick:focus-within { outline: 3px solid var(--focus); outline-offset: 1px; }
[role="tablist"] { display: flex; gap: 6px; }
main > [role="tablist"] { margin: 8px 0; }
@container (max-width: 760px) {
  h1 { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  header p { order: 1; flex-basis: 100%; }
}
[role="tab"][aria-selected="true"] { background: var(--ink); color: var(--paper); }
.embed header { display: none; }
[role="alert"] { color: var(--accent); font-weight: 600; }
${WELCOME_CSS}`;

/** Fills the page's body, with `css` added; returns the page once the traces that came with it
 * are shown. */
export async function start(css = "") {
  const page = new Page(frame(document.body, CSS + css));
  for (const trait of ["trace", "other"]) {
    try {
      const bytes = await held(trait);
      const { name } = document.getElementById(`minqwen-${trait}`)?.dataset ?? {};
      if (bytes) page.open(trait, bytes, name);
    } catch (error) {
      page.complain(error);
    }
  }
  page.opened();
  await new Promise(requestAnimationFrame); // views draw when they know their size
  await new Promise(requestAnimationFrame);
  performance.mark("shown");
  document.documentElement.dataset.ready = "true";
  return page;
}

/** Bytes that came with the page: beside it, or inside it; null if none did. */
export async function held(name) {
  const place = document.getElementById(`minqwen-${name}`);
  if (!place) return null;
  if (place.dataset.path) {
    const answer = await fetch(place.dataset.path);
    if (!answer.ok) throw new Error(`the server did not send the ${name}.`);
    return answer.arrayBuffer();
  }
  const letters = atob(place.textContent);
  const packed = new Uint8Array(letters.length);
  for (let i = 0; i < packed.length; i++) packed[i] = letters.charCodeAt(i);
  const inflate = new DecompressionStream("deflate-raw");
  return new Response(new Blob([packed]).stream().pipeThrough(inflate)).arrayBuffer();
}

class Page {
  constructor(look) {
    this.look = look;
    this.model = localModel({});
    const given = document.getElementById("minqwen-select")?.textContent ?? "";
    this.wanted = readAddress(location.hash.length > 1 ? location.hash : given);
    look.root.classList.toggle("embed", this.wanted.embed || location.search === "?embed");
    addEventListener("hashchange", () => this.follow(readAddress(location.hash)));
    this.traces = {};
    this.title = node("p", { class: "muted" });
    this.alert = node("p", { role: "alert" });
    this.tabs = VIEWS.map(({ name }, i) =>
      node("button", {
        role: "tab", id: `tab-${i}`, "aria-controls": `panel-${i}`,
        onclick: () => this.show(i), onkeydown: (event) => this.move(event, i),
      }, name));
    this.panels = VIEWS.map((_, i) =>
      node("div", { role: "tabpanel", id: `panel-${i}`, "aria-labelledby": `tab-${i}` }));
    this.tablist = node("div", { role: "tablist", "aria-label": "Views" }, this.tabs);
    this.hint = welcome(async (name) => this.take("trace", await held(`sample-${name}`), `${name}.safetensors`));
    onDrop(look.root, (files) => this.dropped(files));
    const files = node("div", { class: "bar files" },
      this.picker("trace", "Open a trace"), this.picker("other", "Compare with"));
    look.root.append(
      node("header", {}, node("h1", {}, "minqwen explorer"), this.tablist, this.title, files),
      this.alert, node("main", {}, this.hint, this.panels));
    this.clear();
  }

  /** Puts an element above the views and their tabs, in place of the welcome. */
  above(element) {
    this.hint.replaceWith(element, this.tablist);
  }

  picker(trait, label) {
    const onchange = async () => {
      const [file] = input.files;
      if (!file) return;
      this.take(trait, await file.arrayBuffer(), file.name);
      input.value = ""; // the same file, chosen again, is read again
    };
    const input = node("input", { type: "file", class: "unseen", accept: ".safetensors,.npy,.csv", onchange });
    return node("label", { class: "pick" }, label, input);
  }

  /** Opens a file of any engine that somebody chose; returns whether it could. */
  take(trait, bytes, name) {
    try {
      this.open(trait, fromAnyEngine(bytes, name), name);
      this.opened();
      return true;
    } catch (error) {
      this.complain(error, name);
      return false;
    }
  }

  /** The first dropped file is the trace, the second what it is compared with. */
  async dropped([first, second]) {
    const took = this.take("trace", await first.arrayBuffer(), first.name);
    if (took && second) this.take("other", await second.arrayBuffer(), second.name);
  }

  /** Shows a trace, or compares with it; bytes: its file's. Throws if it is none. */
  open(trait, bytes, name = "") {
    const trace = parseTrace(bytes); // before anything on the page changes
    if (trait === "trace") {
      this.clear();
      this.model = localModel({ trace: bytes, ...opening(trace.meta), ...this.wanted });
      this.model.on("change", () => this.keep());
      this.traces = { trace };
      this.names = [name];
    } else {
      if (!this.traces.trace) throw new Error("open a trace first, then another.");
      pair(this.traces.trace, trace); // throws where it does not fit
      this.traces.other = trace;
      this.names[1] = name;
      this.model.set("names", [...this.names]);
      this.model.set("other", bytes);
    }
    this.alert.textContent = "";
    this.name();
    if (trait === "trace") this.begin();
  }

  name() {
    const { T, L, K, E, meta } = this.traces.trace;
    const [file, other] = this.names;
    const name = meta.model || file || "a trace";
    const parts = [name, `${whole(T)} tokens`, `${L} layers`];
    if (K) parts.push(`${K} of ${whole(E)} experts`);
    if (meta.source !== "minqwen") parts.push(`recorded by ${meta.source}`);
    if (this.traces.other) parts.push(other ? `beside “${other}”` : "beside another");
    this.title.textContent = visible(parts.join(", "));
    document.title = visible(`${name}: minqwen explorer`);
  }

  complain(error, name = "") {
    this.alert.textContent = visible(`${name && `${name}: `}${error.message}`);
  }

  clear() {
    for (const undo of this.undo ?? []) undo?.();
    this.undo = VIEWS.map(() => null);
    this.hint.hidden = false;
    this.tablist.hidden = true;
    for (const panel of this.panels) panel.hidden = true;
  }

  /** Offers the views that this trace has something for, and shows the one that it or the
   * address asks for, or else the one shown before. */
  begin() {
    const { trace } = this.traces;
    const has = VIEWS.map((view) => view.has(trace));
    this.tabs.forEach((tab, i) => {
      tab.disabled = !has[i];
      tab.title = has[i] ? "" : VIEWS[i].missing;
    });
    this.hint.hidden = true;
    this.tablist.hidden = false;
    const before = has[this.shown] ? this.shown : Math.max(0, has.indexOf(true));
    const { view = trace.meta.opens?.head && !this.wanted.selected ? "memory" : "" } = this.wanted;
    const asked = VIEWS.findIndex(({ name }, i) => has[i] && name.toLowerCase() === view);
    this.show(asked < 0 ? before : asked);
  }

  /** An address was made for the first trace, so it is used once. */
  opened() {
    if (!this.traces.trace) return;
    if (this.wanted.other && !this.traces.other)
      this.complain(new Error("this address shows a second trace beside the first: open it with “Compare with”."));
    this.wanted = {};
  }

  /** Goes where an address leads that was given to a page with a trace. */
  follow({ view, ...traits }) {
    if (!this.traces.trace) return void (this.wanted = { view, ...traits });
    for (const name of KEPT) if (traits[name] !== undefined) this.model.set(name, traits[name]);
    const i = VIEWS.findIndex(({ name }) => name.toLowerCase() === view);
    if (i >= 0 && !this.tabs[i].disabled) this.show(i);
  }

  /** Keeps what is shown in the address, so that it can be sent; soon, not at each step. */
  keep() {
    clearTimeout(this.keeping);
    this.keeping = setTimeout(() => {
      const traits = Object.fromEntries(KEPT.map((name) => [name, this.model.get(name)]));
      for (const name in PLAIN) if (traits[name] === PLAIN[name]) delete traits[name];
      const view = this.shown ? VIEWS[this.shown].name.toLowerCase() : "";
      const { embed } = readAddress(location.hash);
      const text = writeAddress({ ...traits, view, other: Boolean(this.traces.other), embed });
      if (text !== location.hash.slice(1)) history.replaceState(null, "", `#${text}`);
    }, 300);
  }

  show(chosen) {
    this.shown = chosen;
    VIEWS.forEach(({ mount }, i) => {
      this.tabs[i].setAttribute("aria-selected", i === chosen);
      this.tabs[i].tabIndex = i === chosen ? 0 : -1;
      this.panels[i].hidden = i !== chosen;
      if (i === chosen) this.undo[i] ??= mount(this.panels[i], this.model, { page: true });
    });
  }

  move(event, i) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = this.tabs[i + step];
    if (!next || next.disabled) return;
    event.preventDefault();
    this.show(i + step);
    next.focus();
  }
}

/** Where a trace says that its views open, as their traits. */
const opening = ({ opens: { token, head, probe } = {} }) =>
  ({ token, head, probe, selected: head || token === undefined ? undefined : { token } });
