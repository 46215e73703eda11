// A trace file's bytes to what the views need. Its form, from trace/file.py:
//
// Tensors (T tokens, L layers, K choices, Ld delta layers, H value heads):
//   expert_ids U16 [T, L, K], best first    expert_weights F16 or U8 of 255 [T, L, K]
//   router_margin F16 [T, L], logits between the last expert chosen and the next one
//   router_entropy F16 [T, L], bits of the softmax over all experts
//   runner_up U16 [T, L], that next one     shared_gate F16 [T, L], 0 to 1
//   token_ids U32 [T]                       picture.i U8 [16 rows, 16 columns, 3]
//   state_norm, state_decay (g), state_beta F16 [T, Ld, H]
//   delta.l.h.{q,k} [T, dk], .v [T, dv], .beta, .g [T], .start [dk, dv] (else zeros)
//   attention.l.h.{q,k} [T, d], after norm and rotation: softmax(q k^T / sqrt(d))
// Metadata: version, source, model, length (T), layer_types, num_experts, tokens (texts
// that joined are the whole, so some are empty; or null), prompt_length or null, and
// pictures [{kind, start, rows, columns}]: tokens start ... are patches, row by row.
//
// A trace may come from anyone: every promise is checked, and a broken one is an Error
// of one sentence. Texts are data: show them with textContent, never as markup.

import { parseObject, readSafetensors, show, whole } from "./safetensors.mjs";

const KINDS = ["full_attention", "linear_attention", "unknown"];
const PIXELS = 16; // of a stored picture, for each token and side
const FLOATS = ["F16", "F32"];

const parsed = new WeakMap(); // a page and its views ask for the same bytes

/** bytes: an ArrayBuffer or a view. Throws an Error of one sentence. */
export function parseTrace(bytes) {
  if (!parsed.has(bytes)) parsed.set(bytes, parse(bytes));
  return parsed.get(bytes);
}

function parse(bytes) {
  const { metadata, tensors } = readSafetensors(asBytes(bytes));
  const meta = readMeta(metadata);
  const data = (name) => tensors.get(name)?.data ?? null;
  const expertIds = tensors.get("expert_ids");
  const L = expertIds ? expertIds.shape[1] : meta.layer_types?.length;
  const K = expertIds?.shape[2] ?? 0;
  checkMeta(meta, L, tensors);
  for (const [name, tensor] of tensors) checkShape(name, tensor, meta, L, K, tensors);
  checkIds(data("expert_ids") ?? [], L, K, meta.num_experts);
  checkIds(data("runner_up") ?? [], L, 1, meta.num_experts);
  return {
    meta, // as described above
    T: meta.length,
    L,
    K, // 0 in a model without experts
    E: meta.num_experts,
    layerTypes: meta.layer_types,
    tokens: meta.tokens ?? nameTokens(meta.length, data("token_ids")),
    expertIds: data("expert_ids") ?? new Uint16Array(0), // [T, L, K]
    expertWeights: asShares(tensors.get("expert_weights")), // Uint8Array, of 255
    routerMargin: data("router_margin"), // Float32Array [T, L]; all these may be null
    routerEntropy: data("router_entropy"),
    sharedGate: data("shared_gate"),
    runnerUp: data("runner_up"), // Uint16Array [T, L]
    tokenIds: data("token_ids"), // Uint32Array [T]
    names: [...tensors.keys()],
    has: (name) => tensors.has(name),
    tensor(name) {
      if (tensors.has(name)) return tensors.get(name); // {dtype, shape, data}
      throw new Error(`the trace holds no tensor ${show(name)}.`);
    },
  };
}

/** An ArrayBuffer, DataView or typed array as a Uint8Array of the same memory. */
export function asBytes(bytes) {
  if (!ArrayBuffer.isView(bytes)) return new Uint8Array(bytes);
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function readMeta(metadata) {
  if (typeof metadata.minqwen_trace !== "string")
    throw new Error("this safetensors file is no trace: it has no key minqwen_trace.");
  const meta = parseObject(metadata.minqwen_trace, "the key minqwen_trace");
  if (![1, 2].includes(meta.version))
    throw new Error(`the trace is of version ${show(meta.version)}, expected 1 or 2.`);
  return meta;
}

function checkMeta(meta, L, tensors) {
  const need = (good, key, wanted) => {
    if (!good) throw new Error(`the trace's ${key} is wrong, expected ${wanted}.`);
  };
  const { length: T, layer_types: kinds, tokens, prompt_length: prompt } = meta;
  need(whole(T, 1, 2 ** 31), "length", "a whole number of tokens, at least one");
  const measured = tensors.get("expert_ids") ?? tensors.get("token_ids");
  need(measured?.shape[0] === T, "length", "that of expert_ids, or else of token_ids");
  const named = texts(kinds, L) && kinds.every((kind) => KINDS.includes(kind));
  need(named, "layer_types", `${L} of ${KINDS.join(", ")}`);
  need(whole(meta.num_experts, 0, 65535), "num_experts", "a whole number up to 65535");
  need(texts([meta.model, meta.source], 2), "model or source", "text");
  need(tokens === null || texts(tokens, T), "tokens", `null or ${T} texts`);
  need(prompt === null || whole(prompt, 0, T), "prompt_length", `null or 0 to ${T}`);
  need(Array.isArray(meta.pictures), "pictures", "a list");
  meta.pictures.forEach((picture, i) => {
    const { kind, start, rows, columns } = picture ?? {};
    const sized = whole(rows, 1, T) && whole(columns, 1, T);
    const known = ["image", "video"].includes(kind) && tensors.has(`picture.${i}`);
    const good = sized && known && whole(start, 0, T - rows * columns);
    need(good, `picture ${i}`, "its kind, start, rows and columns, and its pixels");
  });
  const { opens = {}, labels } = meta;
  const names = labels?.names?.length;
  const told = labels === undefined || whole(names, 1, 8) && texts(labels.names, names) && Array.isArray(labels.of)
    && labels.of.length === T && labels.of.every((n) => whole(n, 0, names - 1));
  need(told, "labels", `up to 8 names, and of which the ${T} tokens are`);
  const good = opens?.constructor === Object && Object.entries(opens).every(([name, value]) =>
    name === "head"
      ? Array.isArray(value) && value.length === 2 && tensors.has(`delta.${value.join(".")}.q`)
      : ["token", "probe"].includes(name) && whole(value, 0, T - 1));
  need(good, "opens", "a token, a probe and the [layer, head] of a delta head");
}

function texts(list, count) {
  const text = (value) => typeof value === "string" && !/\p{Surrogate}/u.test(value);
  return Array.isArray(list) && list.length === count && list.every(text);
}

function checkShape(name, { dtype, shape }, meta, L, K, tensors) {
  const T = meta.length;
  const heads = meta.layer_types.filter((kind) => kind === "linear_attention").length;
  const perHead = [FLOATS, [T, heads, shape[2]]];
  const known = {
    expert_ids: [["U16"], [T, L, K]],
    expert_weights: [[...FLOATS, "U8"], [T, L, K]],
    router_margin: [FLOATS, [T, L]],
    router_entropy: [FLOATS, [T, L]],
    runner_up: [["U16"], [T, L]],
    shared_gate: [FLOATS, [T, L]],
    token_ids: [["U32"], [T]],
    state_norm: perHead,
    state_decay: perHead,
    state_beta: perHead,
  };
  const wanted = Object.hasOwn(known, name)
    ? known[name]
    : (pictureShape(name, meta) ?? headShape(name, meta, tensors));
  if (!wanted) throw new Error(`${show(name)} is no tensor of a trace.`);
  if (!wanted[0].includes(dtype) || shape.join() !== wanted[1].join()) {
    throw new Error(
      `${show(name)} in the trace is ${dtype} [${shape.join(", ")}], expected ` +
        `${wanted[0].join(" or ")} [${wanted[1].join(", ")}].`,
    );
  }
}

function pictureShape(name, meta) {
  const picture = meta.pictures[/^picture\.(0|[1-9]\d{0,5})$/.exec(name)?.[1]];
  return picture && [["U8"], [PIXELS * picture.rows, PIXELS * picture.columns, 3]];
}

/** Of one head's tensors, which come together: `delta.3.0.k` or `attention.7.1.q`. */
function headShape(name, meta, tensors) {
  const [, kind, layer, head, part] =
    /^(delta|attention)\.(\d{1,4})\.(\d{1,4})\.(q|k|v|beta|g|start)$/.exec(name) ?? [];
  const layerType = kind === "delta" ? "linear_attention" : "full_attention";
  if (!kind || meta.layer_types[Number(layer)] !== layerType) return null;
  const own = (other) => tensors.get(`${kind}.${layer}.${head}.${other}`);
  const width = (other) => own(other)?.shape[1];
  const T = meta.length;
  const shapes = { q: [T, width("k")], k: [T, width("q")] };
  const others = { v: [T, width("v")], beta: [T], g: [T] };
  if (kind === "delta") Object.assign(shapes, others);
  const missing = Object.keys(shapes).find((other) => !own(other));
  if (missing) throw new Error(`the trace holds ${show(name)} without its ${missing}.`);
  if (kind === "delta") shapes.start = [width("k"), width("v")];
  return shapes[part] && [FLOATS, shapes[part]];
}

function checkIds(ids, L, K, E) {
  const seen = new Int32Array(E).fill(-1); // the last row that named each expert
  for (let i = 0, row = 0; i < ids.length; row++) {
    for (let k = 0; k < K; k++, i++) {
      if (ids[i] < E && seen[ids[i]] !== row) {
        seen[ids[i]] = row;
        continue;
      }
      const at = `token ${Math.floor(row / L)}, layer ${row % L}`;
      const fault = ids[i] < E ? "is chosen twice" : `does not exist: there are ${E}`;
      throw new Error(`${at}: expert ${ids[i]} ${fault}.`);
    }
  }
}

function asShares(weights) {
  if (!weights || weights.dtype === "U8") return weights?.data ?? null;
  const shares = new Uint8Array(weights.data.length);
  for (let i = 0; i < shares.length; i++) {
    const weight = weights.data[i];
    if (weight < 0 || weight > 1)
      throw new Error("expert_weights in the trace are not all between 0 and 1.");
    shares[i] = Math.round(weight * 255);
  }
  return shares;
}

function nameTokens(T, ids) {
  return Array.from({ length: T }, (_, t) => `[${ids ? ids[t] : t}]`);
}
