// The text of the trace, token by token, with its pictures as patches in their places.
import { button, node, rgb, visible } from "../shared/look.mjs";
import { textParts } from "../shared/picture.mjs";
import { colourOf } from "./colour.mjs";
import { range } from "./data.mjs";
import { kindOf } from "./reading.mjs";
import { isMarker, spokenSpace, whole } from "./words.mjs";

const PAGE = 512; // tokens in the page at a time: 64,000 elements would be slow
const LEVELS = 12; // of tint

/** Where pages of about PAGE tokens begin; a picture stays whole. Ends with T. */
function pageStarts(T, pictures) {
  const starts = [0];
  while (starts.at(-1) < T) {
    const end = Math.min(T, starts.at(-1) + PAGE);
    const across = pictures.find((p) => p.start < end && end < p.start + p.rows * p.columns);
    starts.push(across ? across.start + across.rows * across.columns : end);
  }
  return starts;
}

/** The text's element, and what moves its cursor: see the end of this function. */
export function createText({ reading, store, look }) {
  const { tokens, pictures, trace } = reading;
  let starts = pageStarts(reading.T, pictures);
  const list = node("div", {
    class: "text", role: "listbox", tabindex: "0",
    "aria-describedby": "keys", "aria-multiselectable": "true",
  });
  const where = node("span", { class: "muted" });
  const turn = (way) => () => store.visit(starts[page + (way > 0 ? 1 : -1)] ?? 0);
  const [back, on] = [button("‹", "Earlier text", turn(-1)), button("›", "Later text", turn(1))];
  const pages = node("div", { class: "bar pages" }, back, where, on);

  let page = -1;
  let options = []; // the elements of this page's tokens
  let levels = []; // and the tint each has
  let selected = new Set();
  let cursor = null;
  let found = new Set(); // of all tokens, those that a search found
  let anchor = null; // where a drag or a shift began

  function build() {
    options = [];
    list.replaceChildren();
    levels = new Int8Array();
    [selected, cursor] = [new Set(), null];
    fill();
  }

  /** The page's tokens that are not on it yet. */
  function fill() {
    const [from, to] = [starts[page], starts[page + 1]];
    list.append(...textParts(trace, from + options.length, to,
      (t) => option(t, "t", textOf(tokens[t])), (t) => option(t, "t patch")));
    mark(found);
    levels = Int8Array.from({ length: options.length }, (_, i) => levels[i] ?? 0);
    list.setAttribute("aria-label", `Text, ${whole(reading.T)} tokens`);
    pages.hidden = starts.length < 3;
    where.textContent = `tokens ${whole(from)} to ${whole(to - 1)} of ${whole(reading.T)}`;
    back.disabled = page === 0;
    on.disabled = page === starts.length - 2;
  }

  function option(t, kind, ...children) {
    const more = isMarker(tokens[t]) ? " marker" : tokens[t] === "" ? " empty" : "";
    const made = node("span", {
      role: "option", id: `t${t}`, class: kind + more, "aria-selected": "false",
      "aria-label": reading.name.isPatch(t) ? reading.name.part(t) : spokenSpace(tokens[t]),
    }, ...children);
    made.token = t;
    options.push(made);
    return made;
  }

  /** Cursor and selection as the state has them; the page follows the token. */
  function update() {
    const { token, selected: what } = store.state;
    const wanted = starts.findLastIndex((start) => start <= token && start < reading.T);
    if (wanted !== page) {
      page = wanted;
      build();
    }
    const now = new Set(chosenHere(what).map((t) => options[t - starts[page]]));
    for (const old of selected) if (!now.has(old)) old.setAttribute("aria-selected", "false");
    for (const made of now) if (!selected.has(made)) made.setAttribute("aria-selected", "true");
    selected = now;
    cursor?.classList.remove("cursor");
    cursor = options[token - starts[page]];
    cursor.classList.add("cursor");
    list.setAttribute("aria-activedescendant", cursor.id);
  }

  /** Selected tokens on this page; an expert's or a layer's are shown by tint alone. */
  function chosenHere(what) {
    if (kindOf(what) === "token") return [what.token];
    if (kindOf(what) !== "tokens") return [];
    const [start, end] = what.tokens;
    return [...range(Math.max(start, starts[page]), Math.min(end, starts[page + 1]))];
  }

  /** Colours the page's tokens by the selection. */
  function tint() {
    const byKind = colourOf(reading, store.state) === "kind";
    const tints = byKind ? null : reading.tints(store.state.selected, starts[page], starts[page + 1]);
    const theme = look.colours();
    const base = rgb(reading.other ? theme.mark : theme.tint).join(" ");
    options.forEach((made, i) => {
      const kind = byKind ? reading.kinds[made.token] : 0;
      const level = byKind ? -2 - kind : Math.ceil(Math.min(1, tints.values?.[i] ?? 0) * LEVELS);
      if (level === levels[i]) return;
      levels[i] = level;
      const [colour, part] = byKind ? [rgb(theme.kinds[kind]).join(" "), 0.35] : [base, level / LEVELS];
      const over = reading.name.isPatch(made.token) ? 0.5 : 1; // the picture must be seen
      made.style.backgroundColor = level ? `rgb(${colour} / ${over * part})` : "";
    });
  }

  function mark(tokens) {
    found = tokens;
    for (const made of options) made.classList.toggle("found", found.has(made.token));
  }

  /** Scrolls the text, and nothing else of the page, until the cursor is seen. */
  function reveal() {
    if (!cursor.offsetParent) return; // not on the page yet, as when a notebook mounts it
    const inPicture = cursor.offsetParent === list ? 0 : cursor.offsetParent.offsetTop;
    const [top, height] = [cursor.offsetTop + inPicture, cursor.offsetHeight];
    const seen = list.clientHeight;
    if (top < list.scrollTop + 4) list.scrollTop = top - 20;
    else if (top + height > list.scrollTop + seen - 4) list.scrollTop = top + height - seen + 20;
  }

  const tokenOf = (event) => event.target.closest?.("[role=option]")?.token ?? null;
  const listeners = {
    pointerdown(event) {
      const t = tokenOf(event);
      if (t === null || event.button) return;
      if (event.shiftKey) return store.span(anchor ?? store.state.token, t);
      anchor = t;
      store.token(t);
    },
    pointermove(event) {
      const t = tokenOf(event);
      if (event.buttons === 1 && t !== null && anchor !== null && t !== store.state.token)
        store.span(anchor, t);
    },
  };
  for (const [name, run] of Object.entries(listeners)) list.addEventListener(name, run);

  return {
    list,
    pages,
    update,
    reveal,
    mark,
    tint,
    grow() {
      starts = pageStarts(reading.T, pictures);
      if (list.lastChild === options.at(-1)) options.pop().remove(); // its text may be another
      fill();
    },
    repaint() {
      levels.fill(-1);
      tint();
    },
    /** One token on with shift held: the span grows from where shift was first held. */
    extend(t) {
      if (kindOf(store.state.selected) !== "tokens") anchor = store.state.token;
      store.span(anchor, t);
    },
    /** The token above (-1) or below (1) the cursor, where lines are now broken. */
    vertical(way) {
      const here = cursor.getBoundingClientRect();
      const middle = here.left + here.width / 2;
      let [best, line, nearest] = [null, null, Infinity];
      for (let i = options.indexOf(cursor) + way; options[i]; i += way) {
        const box = options[i].getBoundingClientRect();
        if (Math.abs(box.top - here.top) < 8 || !box.width) continue;
        if (line !== null && Math.abs(box.top - line) > 8) break;
        line ??= box.top;
        const far = Math.abs(box.left + box.width / 2 - middle);
        if (far < nearest) [best, nearest] = [options[i], far];
      }
      return best?.token ?? store.state.token + way;
    },
  };
}

/** A token's text as nodes: line ends get a mark that is drawn, not written. */
function textOf(text) {
  const lines = visible(text).split("\n");
  return lines.map((line, i) => (i ? [node("i", { class: "end" }), "\n", line] : line));
}
