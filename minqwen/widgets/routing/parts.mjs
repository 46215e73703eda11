// The small parts that the panel is made of: tables, bars, and buttons that select.
import { node } from "../shared/look.mjs";
import { sentence } from "./say.mjs";

/** A bar from 0 to 1, with a point where it would go on; `side` "first" colours it as a
 * choice of the first trace alone. */
export function bar(value, side = "") {
  const made = node("span", { class: `level ${side} ${value > 1 ? "beyond" : ""}`, "aria-hidden": "true" });
  made.style.setProperty("--level", `${100 * Math.min(1, Math.max(0, value))}%`);
  return made;
}

export const expertButton = ({ store }, layer, expert, label = expert) =>
  node("button", {
    class: "link", "aria-label": `Layer ${layer}, expert ${expert}`,
    onclick: () => store.expert(layer, expert),
  }, String(label));

export const layerButton = ({ store }, layer) =>
  node("button", { class: "link", onclick: () => store.layer(layer) }, `layer ${layer}`);

/** Selects a token; shows `text`, or what it is called. */
export function tokenButton({ store, reading }, t, text = reading.name.short(t)) {
  const name = reading.name.part(t);
  return node("button", {
    class: "link code", "aria-label": `Token ${t}: ${name.text ?? name}`,
    onclick: () => store.token(t),
  }, node("bdi", { class: "token" }, text));
}

/** A column's title for a table, standing right like the numbers below it. */
export const number = (title) => ({ title, class: "number" });

/** titles: strings, or `number(title)`; rows: lists of contents. */
export function table(titles, rows) {
  const columns = titles.map((t) => (typeof t === "string" ? { title: t } : t));
  const head = columns.map((c) => node("th", { class: c.class, scope: "col" }, c.title));
  const line = (row) =>
    node("tr", {}, row.map((content, i) => node("td", { class: columns[i].class }, content)));
  return node("table", {},
    node("thead", {}, node("tr", {}, head)), node("tbody", {}, rows.map(line)));
}

/** A list of [what, value]; false and the like are left out. */
export const facts = (rows) =>
  node("dl", {}, rows.filter(Boolean).map(([what, value]) => [node("dt", {}, what), node("dd", {}, value)]));

export const heading = (...parts) => node("h3", {}, sentence(parts));
export const subheading = (text) => node("h4", {}, text);
export const note = (...parts) => node("p", { class: "muted" }, sentence(parts));
