// The panels of a layer and of a text: load, how even it is, and what stands out.
import { node, sizeCanvas } from "../shared/look.mjs";
import { largest, spread } from "./data.mjs";
import { expertButton, facts, heading, note, number, subheading, table } from "./parts.mjs";
import { kindOf, mean } from "./reading.mjs";
import { LAYER_KINDS } from "./say.mjs";
import { KINDS, percent, whole } from "./words.mjs";

export function layerView(tools) {
  const { reading, store } = tools;
  const { E, K, T, trace, second, names } = reading;
  const { layer } = store.state;
  const { bits, effective, used, busiest, peak } = reading.spread(layer);
  const theirs = second?.spread(layer);
  const beside = (...parts) => (second ? note("In ", names[1], ": ", ...parts) : null);
  const type = LAYER_KINDS[trace.layerTypes[layer]];
  return [
    heading(`Layer ${layer}`, type && `, ${type}`),
    node("p", {}, node("b", {}, whole(used)),
      ` of ${whole(E)} experts chosen by ${whole(T)} tokens, ${K} each.`),
    facts([
      ["Entropy of its choices", [
        `${bits.toFixed(2)} of ${Math.log2(E).toFixed(2)} bits: ` +
          `as ${effective.toFixed(0)} experts used evenly`,
        beside(`${theirs?.bits.toFixed(2)} bits`),
      ]],
      trace.routerEntropy && ["Entropy of the router, mean over tokens", routerSays(reading, layer)],
      ["Busiest", [
        expertButton(tools, layer, busiest, `expert ${busiest}`),
        `, ${peak.toFixed(1)} times the even share`,
        beside(`expert ${theirs?.busiest}, ${theirs?.peak.toFixed(1)} times`),
      ]],
      ["Never chosen", [whole(E - used), beside(whole(E - (theirs?.used ?? 0)))]],
      second && ["Choices that differ", percent(reading.differ().perLayer[layer] / (T * K))],
    ]),
    subheading("Load, the busiest expert first"),
    loadPicture(tools, layer),
    kindsMap(tools, layer),
    standOut(tools, layer),
    subheading("Chosen together more than chance"),
    table(
      ["experts", number("times"), number("as chance")],
      reading.pairs(layer, 5).map(({ a, b, times, lift }) => [
        [expertButton(tools, layer, a), " and ", expertButton(tools, layer, b)],
        whole(times), `${lift.toFixed(1)}×`,
      ]),
    ),
    togetherPicture(tools, layer),
  ];
}

/** How undecided the router is at each token, which even use of experts does not say. */
function routerSays({ trace, T, L, E }, layer) {
  let bits = 0;
  for (let t = 0; t < T; t++) bits += trace.routerEntropy[t * L + layer] / T;
  return `${bits.toFixed(2)} of ${Math.log2(E).toFixed(2)} bits: as ${(2 ** bits).toFixed(1)} experts alike`;
}

/** An empty picture and its context; `words` are for those who do not see it. */
function picture(words, width, height) {
  const canvas = node("canvas", { role: "img", "aria-label": words });
  return [canvas, sizeCanvas(canvas, width, height)];
}

function loadPicture({ reading, look }, layer) {
  const { E, K, T } = reading;
  const row = [...reading.counts().subarray(layer * E, (layer + 1) * E)].sort((a, b) => b - a);
  const [most, least] = [row[0], row.at(-1)].map((n) => percent(n / T));
  const [width, height] = [280, 56];
  const words = `Load of ${E} experts: from ${most} of tokens down to ${least}`;
  const [canvas, ctx] = picture(words, width, height);
  const theme = look.colours();
  const even = (K / E) * T;
  const top = Math.max(row[0], 2 * even);
  ctx.fillStyle = theme.ramp[2];
  row.forEach((n, i) => {
    const [x, end] = [Math.floor((i * width) / E), Math.floor(((i + 1) * width) / E)];
    const high = (n / top) * height;
    ctx.fillRect(x, height - high, Math.max(1, end - x - (E <= 64 ? 1 : 0)), high);
  });
  ctx.fillStyle = theme.accent;
  ctx.fillRect(0, height - (even / top) * height, width, 1);
  return [canvas, note(`From ${most} of tokens down to ${least}; the line is the even share, ${percent(K / E)}.`)];
}

/** Kinds of token, or labels, by the layer's experts: darker where an expert reads more of
 * one than all tokens have of it. */
function kindsMap({ reading, store, look }, layer) {
  if (!reading.kinds) return null;
  const { E, kindNames, labels } = reading;
  const { byKind, overall } = reading.special();
  const counts = reading.counts();
  const { expertAt } = reading.order(store.state.order);
  const [wide, high] = [170, 14];
  const rows = [...kindNames.entries()].filter(([kind]) => overall[kind]).map(([kind, name]) => {
    const lift = Float64Array.from({ length: E }, (_, column) => {
      const cell = layer * E + expertAt[layer * E + column];
      return byKind[cell * KINDS.length + kind] / ((counts[cell] || 1) * overall[kind]);
    });
    const [most] = largest(lift, 1);
    const said = `most in expert ${expertAt[layer * E + most]}, ${lift[most].toFixed(1)} times the usual`;
    const [canvas, ctx] = picture(said, wide, high);
    ctx.fillStyle = look.colours().panel;
    ctx.fillRect(0, 0, wide, high);
    ctx.fillStyle = look.colours().ramp[2];
    lift.forEach((times, column) => {
      ctx.globalAlpha = liftAlpha(times);
      ctx.fillRect((column * wide) / E, 0, Math.max(1, wide / E - 0.5), high);
    });
    return [name, canvas];
  });
  const what = labels ? "label" : "kind";
  return [
    subheading(`Each ${what} by the experts that read it`),
    table([what, "experts, as in the map"], rows),
    note(`Darker: more of an expert's tokens have the ${what} than of all; full at 8 times.`),
  ];
}

/** From nothing at the usual to full at eight times that. */
const liftAlpha = (times) => Math.min(1, Math.max(0, Math.log2(times) / 3));

/** The busiest experts by themselves: darker where two share tokens more than chance. */
function togetherPicture({ reading, look }, layer) {
  const { E, T } = reading;
  const counts = reading.counts().subarray(layer * E, (layer + 1) * E);
  const busy = largest(counts, 32).filter((e) => counts[e]);
  const together = reading.together(layer);
  const side = Math.max(6, Math.floor(256 / busy.length));
  const words = `The ${busy.length} busiest experts by each other; the table above lists the strongest pairs`;
  const [canvas, ctx] = picture(words, side * busy.length, side * busy.length);
  const theme = look.colours();
  const paint = (x, y, style, alpha) => {
    [ctx.fillStyle, ctx.globalAlpha] = [style, alpha];
    ctx.fillRect(x * side, y * side, side - 1, side - 1);
  };
  busy.forEach((a, y) => busy.forEach((b, x) => {
    paint(x, y, a === b ? theme.line : theme.panel, 1);
    const lift = (together[a * E + b] * T) / (counts[a] * counts[b]);
    if (a !== b) paint(x, y, theme.ramp[2], liftAlpha(lift));
  }));
  return [canvas, note(`The ${busy.length} busiest by each other, busiest first; full at 8 times chance.`)];
}

export function textView(tools) {
  const { reading, store } = tools;
  const { T, L, E, K, trace } = reading;
  const { selected } = store.state;
  const part = kindOf(selected) === "tokens";
  const positions = reading.selectedTokens(selected);
  const counts = reading.countsOf(positions);
  const used = Array.from({ length: L }, (_, l) => spread(counts, l, E).used);
  return [
    heading(part ? `Tokens ${whole(positions[0])} to ${whole(positions.at(-1))}` : "The whole text"),
    node("p", {}, `${whole(positions.length)} tokens, ${L} layers, ${K} of ${whole(E)} experts each.`),
    facts([
      ["Experts touched in a layer",
        `${mean(used).toFixed(0)} (${Math.min(...used)} to ${Math.max(...used)}) of ${whole(E)}`],
      !part && T > 1 && ["Kept from the token before", `${percent(reading.carried())} of experts`],
      reading.other && ["Choices that differ", differText(reading, positions)],
    ]),
    !part && reading.other && trace.routerMargin && byMargin(reading),
    part ? raised(tools, counts, positions.length) : standOut(tools),
  ];
}

function differText(reading, positions) {
  const { total, share, touched } = reading.differIn(positions);
  return `${whole(total)}, ${percent(share)}; in ${whole(touched)} of ${whole(positions.length)} tokens`;
}

/** The experts that a span chose more than the whole text did, by the difference. */
function raised(tools, counts, n) {
  const { T } = tools.reading;
  const all = tools.reading.counts();
  const more = Float64Array.from(counts, (count, cell) => count / n - all[cell] / T);
  const rows = largest(more, 10).filter((cell) => more[cell] > 0).map((cell) => {
    const { layer, expert } = tools.reading.place(cell);
    const shares = [counts[cell] / n, all[cell] / T].map(percent);
    return [expertButton(tools, layer, expert, `${layer} · ${expert}`), ...shares];
  });
  return [
    subheading("Chosen here more than in the whole text"),
    rows.length
      ? table(["layer · expert", number("of these"), number("of all tokens")], rows)
      : note("None: these are all of its tokens, or choose as all do."),
  ];
}

/** Do the traces differ where a choice was close, as rounding does, or also elsewhere? */
function byMargin(reading) {
  const { trace, T, L } = reading;
  const { perRow } = reading.differ();
  const step = Math.ceil((T * L) / 50_000); // so many tell the edges well enough
  const sorted = trace.routerMargin.filter((_, i) => i % step === 0).sort();
  const edges = [0.1, 0.25, 0.5].map((part) => sorted[Math.ceil(part * sorted.length) - 1]);
  edges.push(trace.routerMargin.reduce((a, b) => Math.max(a, b), 0));
  const [rows, differ] = [edges.map(() => 0), edges.map(() => 0)];
  perRow.forEach((n, i) => {
    const place = edges.findIndex((edge) => trace.routerMargin[i] <= edge);
    rows[place]++;
    differ[place] += n > 0;
  });
  return [
    subheading("Differing, by how close the choice was"),
    table(
      [number("margin up to"), number("tokens × layers"), number("differ")],
      edges.map((edge, i) => [
        edge.toFixed(3), whole(rows[i]), percent(rows[i] ? differ[i] / rows[i] : 0),
      ]),
    ),
    note("Rounding moves close choices; a fault moves clear ones too."),
  ];
}

/** The experts that are most particular about the kind of token they read. */
function standOut(tools, only = null) {
  const { reading } = tools;
  if (!reading.kinds) return null;
  const { bits, leading, byKind } = reading.special();
  const own = only === null ? bits : bits.map((x, cell) => (reading.place(cell).layer === only ? x : 0));
  const cells = largest(own, only === null ? 10 : 5).filter((cell) => own[cell] > 0.05);
  if (!cells.length) return null;
  const rows = cells.map((cell) => {
    const { layer, expert } = reading.place(cell);
    const share = byKind[cell * KINDS.length + leading[cell]] / reading.counts()[cell];
    const label = only === null ? `${layer} · ${expert}` : expert;
    return [expertButton(tools, layer, expert, label), reading.kindNames[leading[cell]], percent(share)];
  });
  return [
    subheading("Experts that are most particular"),
    table([only === null ? "layer · expert" : number("expert"), "mostly read", number("of theirs")], rows),
  ];
}
