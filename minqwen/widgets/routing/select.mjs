// What is selected, kept equal to the model's traits, and every way it can change.
import { COLOURS } from "./colour.mjs";
import { contentToken } from "./finding.mjs";
import { checkSelection, kindOf } from "./reading.mjs";

/**
 * The state of one view: { token, layer, expert, selected, order, colour }. `token` is
 * where the reader is in the text, `layer` and `expert` (or null) where he is on the map;
 * `colour` is one of COLOURS that was chosen, or "" for what fits.
 * `onChange` is called after every change, with the state before it.
 */
export function createStore(model, reading, onChange) {
  const { L, E, orders } = reading;
  const hold = (n, end) => Math.min(Math.max(0, n), end - 1);
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  let state = settle({
    token: hold(model.get("token") ?? contentToken(reading), reading.T),
    layer: 0,
    expert: null,
    selected: chosenAtFirst(),
    order: orders.includes(model.get("order")) ? model.get("order") : orders[0],
    colour: checkColour(model.get("colour")),
  });
  let saving = null;

  /** A page's model has no selection yet: a token shows best what the map is. */
  function chosenAtFirst() {
    const given = model.get("selected");
    return (given && checkSelection(given, reading)) ?? { token: contentToken(reading) };
  }

  function checkColour(name) {
    return Object.hasOwn(COLOURS, name ?? "") && COLOURS[name].of(reading) ? name : "";
  }

  /** A selected token is the one the reader is at; likewise layer and expert. */
  function settle(next) {
    const { token, tokens, layer, expert = null } = next.selected;
    if (token !== undefined) return { ...next, token };
    if (layer !== undefined) return { ...next, layer, expert };
    return tokens ? { ...next, token: hold(next.token, tokens[1]) } : next;
  }

  function change(part, fromModel = false) {
    const before = state;
    state = settle({ ...state, ...part });
    if (!fromModel) publish();
    onChange(before);
  }

  function publish() {
    for (const name of ["token", "selected", "order", "colour"])
      if (!same(model.get(name), state[name])) model.set(name, state[name]);
    // Scrubbing must not wait for the kernel: it hears where it ended.
    clearTimeout(saving);
    saving = setTimeout(() => model.save_changes(), 80);
  }

  const heard = {
    "change:token": () => {
      const token = hold(model.get("token"), reading.T);
      if (token === state.token) return;
      change(store.kind() === "token" ? { selected: { token } } : { token }, true);
    },
    "change:selected": () => {
      const selected = checkSelection(model.get("selected"), reading);
      if (selected && !same(selected, state.selected)) change({ selected }, true);
    },
    "change:order": () => {
      const order = model.get("order");
      if (orders.includes(order) && order !== state.order) change({ order }, true);
    },
    "change:colour": () => {
      const colour = checkColour(model.get("colour"));
      if (colour !== state.colour) change({ colour }, true);
    },
  };
  for (const [event, run] of Object.entries(heard)) model.on(event, run);

  const store = {
    get state() {
      return state;
    },
    kind: () => kindOf(state.selected),
    order: (order) => change({ order }),
    colour: (colour) => change({ colour }),
    select: (selected) => change({ selected }),
    token: (t) => change({ selected: { token: hold(t, reading.T) } }),
    step: (n) => store.token(state.token + n),
    layer: (layer) => change({ selected: { layer: hold(layer, L) } }),
    expert: (layer, expert) =>
      change({ selected: { layer: hold(layer, L), expert: hold(expert, E) } }),
    all: () => change({ selected: {}, expert: null }),
    /** Tokens from one to another, whichever comes first, both included. */
    span(a, b) {
      const [start, last] = [hold(Math.min(a, b), reading.T), hold(Math.max(a, b), reading.T)];
      change({ token: hold(b, reading.T), selected: { tokens: [start, last + 1] } });
    },
    /** Moves on the map without selecting: what the text line and the rows follow. Where a
     * layer or an expert is selected, the selection moves. */
    focus(layer, expert = null) {
      if (!["layer", "expert"].includes(store.kind())) change({ layer: hold(layer, L), expert });
      else if (expert === null) store.layer(layer);
      else store.expert(layer, expert);
    },
    /** To a token, while an expert or a layer stays selected. */
    visit: (t) => (store.kind() === "token" ? store.token(t) : change({ token: hold(t, reading.T) })),
    /** The next (1) or previous (-1) of these positions, seen from the present token. */
    jump(positions, way) {
      const ahead = [...positions].filter((t) => way * (t - state.token) > 0);
      if (ahead.length) store.visit(way > 0 ? ahead[0] : ahead.at(-1));
    },
    remove() {
      clearTimeout(saving);
      for (const [event, run] of Object.entries(heard)) model.off(event, run);
    },
  };
  return store;
}
