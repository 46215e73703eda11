// Search in the text: where something stands, and which experts read it.
import { button, node } from "../shared/look.mjs";
import { countChoices } from "./data.mjs";
import { whole } from "./words.mjs";

const LONGEST = 200; // characters

/** Where `wanted` stands in a text's tokens: [[first, end], ...]. Capitals count only if
 * `wanted` has some. */
export function places(tokens, wanted) {
  const plain = wanted === wanted.toLowerCase() ? (text) => text.toLowerCase() : (text) => text;
  const texts = tokens.map(plain);
  const starts = new Uint32Array(tokens.length + 1);
  texts.forEach((text, t) => (starts[t + 1] = starts[t] + text.length));
  const all = texts.join("");
  const found = [];
  let t = 0;
  for (let at = all.indexOf(wanted); at >= 0; at = all.indexOf(wanted, at + wanted.length)) {
    while (starts[t + 1] <= at) t++;
    let end = t;
    while (starts[end] < at + wanted.length) end++;
    found.push([t, end]);
  }
  return found;
}

/** A field that searches, kept equal to the model's trait `find`; `mark(tokens, cells)` is
 * given the tokens found, a Set, and the cells that at least half of them chose. */
export function createFind({ reading, store, model, mark }) {
  const { trace } = reading;
  let found = [];
  const input = node("input", {
    type: "search", maxlength: LONGEST, "aria-label": "Search in the text", placeholder: "Search",
    oninput() {
      model.set("find", input.value);
      model.save_changes();
    },
    onkeydown(event) {
      if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
    },
  });
  const says = node("span", { class: "muted", role: "status" });
  const buttons = [
    button("‹", "Previous found", () => step(-1)), button("›", "Next found", () => step(1)),
  ];
  const element = node("div", { class: "bar find", role: "search" }, input, buttons, says);

  function search() {
    const given = model.get("find");
    const wanted = typeof given === "string" ? given.slice(0, LONGEST) : "";
    if (input.value !== wanted) input.value = wanted;
    found = wanted ? places(reading.tokens, wanted) : [];
    const tokens = new Set();
    for (const [first, end] of found) for (let t = first; t < end; t++) tokens.add(t);
    const counts = tokens.size ? countChoices(trace, [...tokens]) : [];
    const cells = [];
    counts.forEach((n, cell) => {
      if (2 * n >= tokens.size) cells.push(reading.place(cell));
    });
    mark(tokens, cells);
    for (const each of buttons) each.disabled = !found.length;
    update();
  }

  /** Which of them the reader is at. */
  function update() {
    const at = found.findIndex(([first, end]) => first <= store.state.token && store.state.token < end);
    const many = `${at < 0 ? "" : `${whole(at + 1)} of `}${whole(found.length)} found`;
    const outlined = "; outlined: chosen by half of them or more";
    says.textContent = found.length ? many + outlined : input.value && "not in the text";
  }

  /** To the next (1) or previous (-1) found; after the last comes the first. */
  function step(way) {
    const { token } = store.state;
    const firsts = found.map(([first]) => first);
    const ahead = firsts.filter((t) => way * (t - token) > 0);
    const next = (ahead.length ? ahead : firsts).at(way > 0 ? 0 : -1);
    if (next !== undefined) store.visit(next);
  }

  model.on("change:find", search);
  search();
  return {
    element, search, update,
    focus: () => input.focus(),
    remove: () => model.off("change:find", search),
  };
}
