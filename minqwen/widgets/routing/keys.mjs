// The keyboard: everything that the pointer can do, in the text and on the map.
import { node } from "../shared/look.mjs";

const HELP = [
  ["← →", "text: token by token; map: along the lit experts of a layer"],
  ["↑ ↓", "text: a line up or down; map: to the layer above or below"],
  ["Shift + arrows", "text: select several tokens"],
  ["Home End", "the first and the last: of the text, or of a layer's lit experts"],
  ["PageUp PageDown", "one token back or on, from anywhere"],
  ["Enter", "map: select the expert; L: the layer; T or Esc: back to the token; A: the whole text"],
  ["N P", "the next and previous token that the selected expert read"],
  ["D", "the next token in which two traces differ"],
  ["/", "search; Enter and Shift + Enter there: the next and previous found"],
  ["S", "another order of the experts"],
  ["+ − 0", "map: zoom in, out, and back"],
  ["Space", "play or pause"],
];

/** The list of keys, folded; the map and the text are described by it. */
export function keysHelp() {
  const rows = HELP.map(([keys, what]) => [node("dt", {}, keys), node("dd", {}, what)]);
  return node("details", { class: "keys" }, node("summary", { id: "keys" }, "Keys"), node("dl", {}, rows));
}

/** Listens on the map, the text and what lies around them. Returns nothing. */
export function listenToKeys(root, { reading, store, map, text, timeline, find }) {
  const { orders } = reading;
  const everywhere = {
    PageUp: () => store.step(-1),
    PageDown: () => store.step(1),
    Escape: () => store.token(store.state.token),
    t: () => store.token(store.state.token),
    a: () => store.all(),
    l: () => store.layer(store.state.layer),
    n: () => store.jump(tokensOfExpert(), 1),
    p: () => store.jump(tokensOfExpert(), -1),
    d: () => store.jump(differing(), 1),
    s: () => store.order(orders[(orders.indexOf(store.state.order) + 1) % orders.length]),
    "/": () => find.focus(),
    "+": () => map.zoomAt(2),
    "=": () => map.zoomAt(2),
    "-": () => map.zoomAt(0.5),
    0: () => map.fit(),
    " ": () => timeline.toggle(),
  };
  const inText = {
    ArrowLeft: () => store.step(-1),
    ArrowRight: () => store.step(1),
    ArrowUp: () => store.token(text.vertical(-1)),
    ArrowDown: () => store.token(text.vertical(1)),
    Home: () => store.token(0),
    End: () => store.token(reading.T - 1),
    Enter: () => store.token(store.state.token),
  };
  const extending = {
    ArrowLeft: () => text.extend(store.state.token - 1),
    ArrowRight: () => text.extend(store.state.token + 1),
    ArrowUp: () => text.extend(text.vertical(-1)),
    ArrowDown: () => text.extend(text.vertical(1)),
  };
  const inMap = {
    ArrowLeft: () => along(-1),
    ArrowRight: () => along(1),
    ArrowUp: () => across(-1),
    ArrowDown: () => across(1),
    Home: () => end(0),
    End: () => end(-1),
    Enter() {
      const { layer, expert } = store.state;
      if (expert === null) store.layer(layer);
      else store.expert(layer, expert);
    },
  };

  function tokensOfExpert() {
    const { layer, expert } = store.state;
    return expert === null ? [] : reading.chosenBy(layer, expert).tokens;
  }

  function differing() {
    const { perToken } = reading.differ() ?? { perToken: [] };
    return [...perToken.keys()].filter((t) => perToken[t]);
  }

  /** To the next lit expert of the row, wherever the cursor stands in it. */
  function along(way) {
    const { layer, expert } = store.state;
    const lit = map.litIn(layer);
    if (!lit.length) return;
    const here = expert === null ? -1 : map.columnOf(layer, expert);
    const ahead = lit.filter((e) => way * (map.columnOf(layer, e) - here) > 0);
    store.focus(layer, way > 0 ? (ahead[0] ?? lit.at(-1)) : (ahead.at(-1) ?? lit[0]));
  }

  /** To the row above or below: there, to the lit expert that is nearest. */
  function across(way) {
    const { layer, expert } = store.state;
    const next = Math.min(reading.L - 1, Math.max(0, layer + way));
    if (expert === null) return store.focus(next);
    const here = map.columnOf(layer, expert);
    const far = (e) => Math.abs(map.columnOf(next, e) - here);
    store.focus(next, map.litIn(next).sort((a, b) => far(a) - far(b))[0] ?? null);
  }

  const end = (i) => store.focus(store.state.layer, map.litIn(store.state.layer).at(i) ?? null);

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const tag = event.target.tagName;
    const inside = event.target === map.canvas ? inMap : event.target === text.list ? inText : {};
    // A button, a list or a number field has its own use for most keys.
    const letters = tag === "INPUT" && event.target.type !== "search" && /^[a-z]$/i.test(event.key);
    if (!["CANVAS", "DIV"].includes(tag) && !letters) return;
    const letter = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const table = event.shiftKey && inside === inText ? extending : inside;
    const run = table[letter] ?? everywhere[letter];
    if (!run) return;
    event.preventDefault();
    run();
  });
}
