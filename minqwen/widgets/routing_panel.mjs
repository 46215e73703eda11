// The panel beside the map: what there is to know about what is selected.
import { node, quoted, sizeCanvas } from "./look.mjs";
import { choices, countChoices, overlap, spread } from "./routing_data.mjs";
import { kindOf, weightShade } from "./routing_reading.mjs";
import { LAYER_KINDS, mean, sentence } from "./routing_say.mjs";
import { commonTexts, context, KINDS, mixOfKinds, percent, whole } from "./routing_words.mjs";

/** `tools`: { reading, store, look }. Returns { element, update(), settle() }. */
export function createPanel(tools) {
  const element = node("section", { class: "panel", "aria-label": "Details" });
  return {
    element,
    update() {
      const parts = VIEWS[tools.store.kind()](tools);
      element.replaceChildren(...parts.flat(Infinity).filter(Boolean));
    },
    /** What takes too long while scrubbing: added once the selection has come to rest. */
    settle() {
      const slot = element.querySelector(".later");
      if (slot && !slot.childElementCount) slot.append(...likeIt(tools));
    },
  };
}

const VIEWS = {
  token: tokenView, expert: expertView, layer: layerView, all: textView, tokens: textView,
};

// ---- parts

const bar = (value, side = "") => {
  const made = node("span", { class: `level ${side}`, "aria-hidden": "true" });
  made.style.setProperty("--level", `${100 * Math.min(1, Math.max(0, value))}%`);
  return made;
};

const expertButton = ({ store }, layer, expert, label = expert) =>
  node("button", {
    class: "link", "aria-label": `Layer ${layer}, expert ${expert}`,
    onclick: () => store.expert(layer, expert),
  }, label);

const layerButton = ({ store }, layer) =>
  node("button", { class: "link", onclick: () => store.layer(layer) }, `layer ${layer}`);

function tokenButton({ store, reading }, t) {
  const name = reading.name.part(t);
  return node("button", {
    class: "link code", "aria-label": `Token ${t}: ${name.text ?? name}`,
    onclick: () => store.token(t),
  }, node("bdi", { class: "token" }, reading.name.short(t)));
}

/** A table; columns of numbers have a title that ends in a space. */
function table(titles, rows) {
  const numbers = titles.map((title) => title.endsWith(" "));
  const cell = (tag) => (content, i) =>
    node(tag, { class: numbers[i] && "number", scope: tag === "th" && "col" }, content);
  return node("table", {},
    node("thead", {}, node("tr", {}, titles.map((title, i) => cell("th")(title.trim(), i)))),
    node("tbody", {}, rows.map((row) => node("tr", {}, row.map(cell("td"))))));
}

const heading = (...parts) => node("h3", {}, sentence(parts));
const note = (...parts) => node("p", { class: "muted" }, sentence(parts));

// ---- a token

function tokenView(tools) {
  const { reading, store } = tools;
  const { trace, other, name, kinds, K, L } = reading;
  const { token, layer } = store.state;
  const type = LAYER_KINDS[trace.layerTypes[layer]];
  const at = token * L + layer;
  const more = [];
  if (trace.runnerUp) {
    const next = trace.runnerUp[at];
    more.push(["next", expertButton(tools, layer, next), node("span", { class: "muted" }, "not chosen")]);
  }
  const facts = [];
  if (trace.routerMargin)
    facts.push(["Margin to the next", trace.routerMargin[at].toFixed(3), "logits; a small one is a close call"]);
  if (trace.sharedGate)
    facts.push(["Shared expert's gate", trace.sharedGate[at].toFixed(2), "every token uses it, this much"]);
  return [
    heading(`Token ${whole(token)}: `, name.part(token)),
    note(KINDS[kinds[token]]),
    node("p", {}, "In ", layerButton(tools, layer), type && `, ${type}:`),
    table(["rank ", "expert ", trace.expertWeights ? "weight" : "", ...(other ? ["second trace"] : [])],
      [...ranked(tools, token, layer), ...more]),
    node("dl", {}, facts.map(([what, value, why]) => [
      node("dt", {}, what), node("dd", {}, node("b", {}, value), " ", node("span", { class: "muted" }, why)),
    ])),
    other && note(`${whole(reading.differ().perToken[token])} of this token's ${whole(K * L)} choices differ.`),
    node("div", { class: "later" }),
    everyLayer(tools, token),
  ];
}

function ranked(tools, token, layer) {
  const { trace, other, K } = tools.reading;
  const theirs = other && choices(other, token, layer);
  const rows = choices(trace, token, layer).map(({ expert, weight }, k) => {
    const rank = theirs?.findIndex((c) => c.expert === expert);
    const side = theirs && rank < 0 ? "first" : "";
    const shown = weight === null ? "" : [bar(weightShade(weight, K) ** 2, side), weight.toFixed(3)];
    const match = theirs && (rank < 0 ? node("span", { class: "first" }, "not chosen") : `rank ${rank + 1}`);
    return [k + 1, expertButton(tools, layer, expert), shown, ...(theirs ? [match] : [])];
  });
  const mine = rows.length && choices(trace, token, layer).map((c) => c.expert);
  const extra = (theirs ?? []).map((c, k) => ({ ...c, k })).filter((c) => !mine.includes(c.expert));
  for (const { expert, k } of extra)
    rows.push(["–", expertButton(tools, layer, expert), "", node("span", { class: "second" }, `only here, rank ${k + 1}`)]);
  return rows;
}

/** All of a token's choices as text; filled when it is opened. */
function everyLayer(tools, token) {
  const { reading } = tools;
  const { trace, L } = reading;
  const details = node("details", {}, node("summary", {}, `All ${L} layers as a table`));
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    const rows = Array.from({ length: L }, (_, l) => [
      layerButton(tools, l),
      reading.choices(token, l).map(({ expert, weight }) =>
        weight === null ? `${expert}` : `${expert} (${weight.toFixed(2)})`).join(", "),
      trace.routerMargin ? trace.routerMargin[token * L + l].toFixed(2) : "",
    ]);
    details.append(table(["", "experts, best first", trace.routerMargin ? "margin " : ""], rows));
  });
  return details;
}

function likeIt(tools) {
  const { reading, store } = tools;
  const { token } = store.state;
  const shares = overlap(reading.trace, token, 0, reading.T);
  const nearest = [...shares.keys()].filter((t) => t !== token)
    .sort((a, b) => shares[b] - shares[a]).slice(0, 5);
  if (!nearest.length) return [];
  return [
    node("h4", {}, "Tokens that go the most similar way"),
    table(["token", "place ", "same experts "],
      nearest.map((t) => [tokenButton(tools, t), whole(t), percent(shares[t])])),
  ];
}

// ---- an expert

function expertView(tools) {
  const { reading, store } = tools;
  const { T, K, E } = reading;
  const { layer, expert } = store.state.selected;
  const { tokens, weights } = reading.chosenBy(layer, expert);
  const lift = ((tokens.length / T) * E) / K;
  const head = [
    heading(`Layer ${layer}, expert ${expert}`),
    node("p", {}, "Chosen by ", node("b", {}, whole(tokens.length)), ` of ${whole(T)} tokens, `,
      `${lift.toFixed(1)} times the even share`, weights?.length ? `; mean weight ${mean(weights).toFixed(2)}.` : "."),
  ];
  if (!tokens.length) return [...head, note("No token of this text chose it.")];
  return [...head, inCommon(reading, tokens), inContext(tools, tokens, weights), partners(tools, layer, expert)];
}

function inCommon(reading, chosen) {
  const { tokens, kinds, name } = reading;
  const mix = mixOfKinds(kinds, chosen).filter((row) => row.share > 0).slice(0, 4);
  const texts = commonTexts(tokens, chosen, name.isPatch, 5);
  return [
    node("h4", {}, "What its tokens have in common"),
    table(["kind", "share of them", "of all "],
      mix.map(({ kind, share, overall }) => [kind, [bar(share), percent(share)], percent(overall)])),
    texts.length > 0 && table(["text", "times ", "of "],
      texts.map(({ text, times, of }) =>
        [node("bdi", { class: "token code" }, quoted(text) || "∅"), whole(times), whole(of)])),
  ];
}

/** The tokens it weighs most, each in its line of text. */
function inContext(tools, tokens, weights) {
  const { reading } = tools;
  const order = [...tokens.keys()];
  if (weights) order.sort((a, b) => weights[b] - weights[a]);
  const line = (i) => {
    const { before, token, after } = context(reading.tokens, tokens[i], reading.name.short);
    const button = tokenButton(tools, tokens[i]);
    button.querySelector("bdi").textContent = token;
    return node("li", {},
      node("bdi", { class: "before" }, before), button, node("bdi", { class: "after" }, after),
      weights && node("span", { class: "muted" }, weights[i].toFixed(2)));
  };
  return [
    node("h4", {}, weights ? "Where its weight is largest" : "Where it was chosen"),
    node("ul", { class: "lines code" }, order.slice(0, 8).map(line)),
  ];
}

function partners(tools, layer, expert) {
  const pairs = tools.reading.together(layer).pairs
    .filter((pair) => pair.a === expert || pair.b === expert).slice(0, 4);
  if (!pairs.length) return null;
  const rows = pairs.map(({ a, b, times, lift }) =>
    [expertButton(tools, layer, a === expert ? b : a), whole(times), `${lift.toFixed(1)}×`]);
  return [
    node("h4", {}, "Chosen together with, in its layer"),
    table(["expert ", "times ", "as chance "], rows),
  ];
}

// ---- a layer

function layerView(tools) {
  const { reading, store } = tools;
  const { E, K, T, trace } = reading;
  const { layer } = store.state;
  const { bits, effective, used, busiest, peak } = reading.spread(layer);
  const type = LAYER_KINDS[trace.layerTypes[layer]];
  return [
    heading(`Layer ${layer}`, type && `, ${type}`),
    node("p", {}, node("b", {}, whole(used)), ` of ${whole(E)} experts chosen by ${whole(T)} tokens, ${K} each.`),
    node("dl", {}, [
      ["Entropy", `${bits.toFixed(2)} of ${Math.log2(E).toFixed(2)} bits: as ${effective.toFixed(0)} experts used evenly`],
      ["Busiest", [expertButton(tools, layer, busiest, `expert ${busiest}`), `, ${peak.toFixed(1)} times the even share`]],
      ["Never chosen", whole(E - used)],
    ].map(([what, value]) => [node("dt", {}, what), node("dd", {}, value)])),
    node("h4", {}, "Load, the busiest expert first"),
    loadPicture(tools, layer),
    standOut(tools, layer),
    node("h4", {}, "Chosen together more than chance"),
    table(["experts", "times ", "as chance "],
      reading.together(layer).pairs.slice(0, 5).map(({ a, b, times, lift }) => [
        [expertButton(tools, layer, a), " and ", expertButton(tools, layer, b)],
        whole(times), `${lift.toFixed(1)}×`])),
    togetherPicture(tools, layer),
  ];
}

function loadPicture({ reading, look }, layer) {
  const { E, K, T } = reading;
  const row = [...reading.counts().subarray(layer * E, (layer + 1) * E)].sort((a, b) => b - a);
  const canvas = node("canvas", { role: "img",
    "aria-label": `Load of ${E} experts: from ${percent(row[0] / T)} of tokens down to ${percent(row.at(-1) / T)}` });
  const [width, height] = [280, 56];
  const ctx = sizeCanvas(canvas, width, height);
  const theme = look.colours();
  const even = (K / E) * T;
  const top = Math.max(row[0], 2 * even);
  ctx.fillStyle = theme.ramp[2];
  row.forEach((n, i) => {
    const [x, end] = [Math.floor((i * width) / E), Math.floor(((i + 1) * width) / E)];
    ctx.fillRect(x, height - (n / top) * height, Math.max(1, end - x - (E <= 64 ? 1 : 0)), (n / top) * height);
  });
  ctx.fillStyle = theme.accent;
  ctx.fillRect(0, height - (even / top) * height, width, 1);
  return [canvas, note("The line is the even share.")];
}

/** The busiest experts by themselves: darker where two share tokens more than chance. */
function togetherPicture({ reading, look }, layer) {
  const { E, T } = reading;
  const counts = reading.counts().subarray(layer * E, (layer + 1) * E);
  const busy = [...counts.keys()].filter((e) => counts[e]).sort((a, b) => counts[b] - counts[a]).slice(0, 32);
  const { together } = reading.together(layer);
  const side = Math.max(6, Math.floor(256 / busy.length));
  const canvas = node("canvas", { role: "img",
    "aria-label": `The ${busy.length} busiest experts by each other; the table above lists the strongest pairs` });
  const ctx = sizeCanvas(canvas, side * busy.length, side * busy.length);
  const theme = look.colours();
  busy.forEach((a, y) => busy.forEach((b, x) => {
    const lift = (together[a * E + b] * T) / (counts[a] * counts[b]);
    ctx.fillStyle = a === b ? theme.line : theme.panel;
    ctx.fillRect(x * side, y * side, side - 1, side - 1);
    if (a === b || lift <= 1) return;
    ctx.globalAlpha = Math.min(1, Math.log2(lift) / 3);
    ctx.fillStyle = theme.ramp[2];
    ctx.fillRect(x * side, y * side, side - 1, side - 1);
    ctx.globalAlpha = 1;
  }));
  return [canvas, note(`The ${busy.length} busiest by each other, busiest first; full at 8 times chance.`)];
}

// ---- the whole text, or a part of it

function textView(tools) {
  const { reading, store } = tools;
  const { T, L, E, K, trace } = reading;
  const { selected } = store.state;
  const part = kindOf(selected) === "tokens";
  const positions = reading.selectedTokens(selected);
  const counts = part ? countChoices(trace, positions) : reading.counts();
  const used = Array.from({ length: L }, (_, l) => spread(counts, l, E).used);
  const title = part ? `Tokens ${whole(positions[0])} to ${whole(positions.at(-1))}` : "The whole text";
  return [
    heading(title),
    node("p", {}, `${whole(positions.length)} tokens, ${L} layers, ${K} of ${whole(E)} experts each.`),
    node("dl", {}, [
      ["Experts touched in a layer", `${mean(used).toFixed(0)} (${Math.min(...used)} to ${Math.max(...used)}) of ${whole(E)}`],
      !part && T > 1 && ["Kept from the token before", `${percent(reading.carried())} of experts`],
      reading.other && ["Choices that differ", differText(reading)],
    ].filter(Boolean).map(([what, value]) => [node("dt", {}, what), node("dd", {}, value)])),
    standOut(tools),
  ];
}

function differText(reading) {
  const { total, share, perToken } = reading.differ();
  const touched = perToken.filter((n) => n).length;
  return `${whole(total)}, ${percent(share)}; in ${whole(touched)} of ${whole(reading.T)} tokens`;
}

/** The experts that are most particular about the kind of token they read. */
function standOut(tools, only = null) {
  const { reading } = tools;
  const { E, L } = reading;
  const { bits, leading, byKind } = reading.special();
  const cells = Array.from({ length: L * E }, (_, cell) => cell)
    .filter((cell) => bits[cell] > 0.05 && (only === null || Math.floor(cell / E) === only))
    .sort((a, b) => bits[b] - bits[a]).slice(0, only === null ? 10 : 5);
  if (!cells.length) return null;
  const rows = cells.map((cell) => {
    const [layer, expert] = [Math.floor(cell / E), cell % E];
    const share = byKind[cell * KINDS.length + leading[cell]] / reading.counts()[cell];
    const label = only === null ? `${layer} · ${expert}` : expert;
    return [expertButton(tools, layer, expert, label), KINDS[leading[cell]], percent(share)];
  });
  return [
    node("h4", {}, "Experts that are most particular"),
    table([only === null ? "layer · expert" : "expert ", "mostly read", "of theirs "], rows),
  ];
}
