// A trace file's bytes to typed arrays: a safetensors file with one metadata key.
//
// Tensors (T tokens, L layers, K choices, Ld delta layers, H value heads):
//   expert_ids U16 [T, L, K], best first      expert_weights F16 (or U8 of 255) [T, L, K]
//   router_margin F16 [T, L], logits between the last expert chosen and the next one
//   runner_up U16 [T, L], that next one       shared_gate F16 [T, L], 0 to 1
//   token_ids U32 [T]                         picture.i U8 [16 rows, 16 columns, 3]
//   state_norm, state_decay (g), state_beta F16 [T, Ld, H]
//   delta.l.h.{q,k} [T, dk], .v [T, dv], .beta, .g [T], .start [dk, dv] (else zeros)
//   attention.l.h.{q,k} [T, d], after norm and rotation: softmax(q k^T / sqrt(d))
// Metadata: version, source, model, length (T), layer_types, num_experts, tokens (texts;
// joined they are the whole text, so some are empty) or null, prompt_length or null,
// pictures [{kind, start, rows, columns}]: tokens start ... are its patches, row by row.
//
// A trace may come from anyone: every promise is checked, and a broken one is an Error
// of one sentence. Texts are data: show them with textContent, never as markup.

const SIZES = { F32: 4, F16: 2, BF16: 2, U8: 1, U16: 2, U32: 4, I64: 8 };
const KINDS = ["full_attention", "linear_attention", "unknown"];
const MAX_HEADER = 64 * 2 ** 20;
const PIXELS = 16; // of a stored picture, for each token and side

/** bytes: an ArrayBuffer or a view of one. The result is described where it is made. */
export function parseTrace(bytes) {
  const view = asBytes(bytes);
  const { table, metadata, base } = readHeader(view);
  const meta = readMeta(metadata);
  const tensors = new Map();
  for (const [name, entry] of table) tensors.set(name, decode(view, base, name, entry));
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
    T: meta.length, L, K, E: meta.num_experts, // K is 0 in a model without experts
    layerTypes: meta.layer_types,
    tokens: meta.tokens ?? nameTokens(meta.length, data("token_ids")),
    expertIds: data("expert_ids") ?? new Uint16Array(0), // [T, L, K]
    expertWeights: asShares(tensors.get("expert_weights")), // Uint8Array of 255, or null
    routerMargin: data("router_margin"), // Float32Array [T, L], or null; so is the next
    sharedGate: data("shared_gate"),
    runnerUp: data("runner_up"), // Uint16Array [T, L], or null
    tokenIds: data("token_ids"), // Uint32Array [T], or null
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
  if (ArrayBuffer.isView(bytes)) {
    return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }
  return new Uint8Array(bytes);
}

function readHeader(view) {
  const head = new DataView(view.buffer, view.byteOffset, view.byteLength);
  const size = view.length < 8 ? Infinity : Number(head.getBigUint64(0, true));
  if (size > Math.min(MAX_HEADER, view.length - 8)) {
    throw new Error("this is not a trace: it does not begin as a safetensors file does.");
  }
  const header = parseJson(view.subarray(8, 8 + size), "the trace's header");
  const metadata = header.__metadata__ ?? {};
  delete header.__metadata__;
  const table = Object.entries(header);
  table.forEach(([name, entry]) => checkEntry(name, entry));
  let at = 0;
  for (const [name, entry] of [...table].sort((a, b) => order(a[1], b[1]))) {
    if (entry.data_offsets[0] !== at) {
      throw new Error(`the trace is damaged: ${show(name)} does not start at byte ${at}.`);
    }
    at = entry.data_offsets[1];
  }
  if (at !== view.length - 8 - size) {
    const held = view.length - 8 - size;
    throw new Error(`the trace is damaged: ${at} bytes of tensors announced, ${held} held.`);
  }
  return { table, metadata, base: 8 + size };
}

function order(a, b) {
  return a.data_offsets[0] - b.data_offsets[0] || a.data_offsets[1] - b.data_offsets[1];
}

function checkEntry(name, entry) {
  const { dtype, shape, data_offsets: offsets } = entry ?? {};
  const numbers = (list) =>
    Array.isArray(list) && list.every((n) => whole(n, 0, Number.MAX_SAFE_INTEGER));
  const good = Object.hasOwn(SIZES, dtype) && numbers(shape) && shape.length <= 8;
  if (!good || !numbers(offsets) || offsets.length !== 2) {
    throw new Error(`the trace's header does not describe ${show(name)} as a tensor.`);
  }
  if (shape.reduce((n, size) => n * size, SIZES[dtype]) !== offsets[1] - offsets[0]) {
    throw new Error(`the trace's header gives ${show(name)} a wrong number of bytes.`);
  }
}

function whole(n, low, high) {
  return Number.isSafeInteger(n) && n >= low && n <= high;
}

function parseJson(bytes, what) {
  let value = null;
  try {
    const decoder = new TextDecoder("utf-8", { fatal: true });
    value = JSON.parse(typeof bytes === "string" ? bytes : decoder.decode(bytes));
  } catch {
    // said below
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw new Error(`${what} is not a JSON object; the file is damaged or not a trace.`);
  }
  return value;
}

function readMeta(metadata) {
  if (typeof metadata?.minqwen_trace !== "string") {
    throw new Error("this safetensors file is not a trace: it has no key minqwen_trace.");
  }
  const meta = parseJson(metadata.minqwen_trace, "the key minqwen_trace");
  if (meta.version !== 1) {
    throw new Error(`the trace is of version ${show(meta.version)}; this page reads version 1.`);
  }
  return meta;
}

function decode(view, base, name, { dtype, shape, data_offsets: [start, end] }) {
  const at = view.byteOffset + base + start;
  const aligned = at % SIZES[dtype] === 0;
  const buffer = aligned ? view.buffer : view.buffer.slice(at, at + end - start);
  const types = { F32: Float32Array, U8: Uint8Array, U32: Uint32Array, I64: BigInt64Array };
  const count = (end - start) / SIZES[dtype];
  const raw = new (types[dtype] ?? Uint16Array)(buffer, aligned ? at : 0, count);
  const data =
    dtype === "F16" ? Float32Array.from(raw, (bits) => halves()[bits])
    : dtype === "BF16" ? new Float32Array(Uint32Array.from(raw, (bits) => bits << 16).buffer)
    : dtype === "I64" ? Float64Array.from(raw, Number)
    : raw;
  if (data instanceof Float32Array && data.some((x) => !Number.isFinite(x))) {
    throw new Error(`${show(name)} in the trace holds a value that is not a finite number.`);
  }
  return { dtype, shape, data };
}

let table16 = null;

/** All 65,536 half-precision numbers, by their bits. */
function halves() {
  table16 ??= Float32Array.from({ length: 65536 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  });
  return table16;
}

const FLOATS = ["F16", "F32"];

function checkShape(name, { dtype, shape }, meta, L, K, tensors) {
  const T = meta.length;
  const heads = meta.layer_types.filter((kind) => kind === "linear_attention").length;
  const perHead = [FLOATS, [T, heads, shape[2]]];
  const known = {
    expert_ids: [["U16"], [T, L, K]],
    expert_weights: [[...FLOATS, "U8"], [T, L, K]],
    router_margin: [FLOATS, [T, L]],
    runner_up: [["U16"], [T, L]],
    shared_gate: [FLOATS, [T, L]],
    token_ids: [["U32"], [T]],
    state_norm: perHead,
    state_decay: perHead,
    state_beta: perHead,
  };
  const picture = /^picture\.(\d{1,6})$/.exec(name)?.[1];
  const wanted = Object.hasOwn(known, name) ? known[name]
    : picture ? pictureShape(meta.pictures?.[picture])
    : headShape(name, meta, tensors);
  if (!wanted) throw new Error(`${show(name)} is not a tensor of a version 1 trace.`);
  if (!wanted[0].includes(dtype) || shape.join() !== wanted[1].join()) {
    throw new Error(
      `${show(name)} in the trace is ${dtype} [${shape.join(", ")}], expected ` +
        `${wanted[0].join(" or ")} [${wanted[1].join(", ")}].`,
    );
  }
}

function pictureShape(picture) {
  return picture && [["U8"], [PIXELS * picture.rows, PIXELS * picture.columns, 3]];
}

/** Of one head's tensors, which come together: `delta.3.0.k` or `attention.7.1.q`. */
function headShape(name, meta, tensors) {
  const [, kind, layer, head, part] =
    /^(delta|attention)\.(\d{1,4})\.(\d{1,4})\.(q|k|v|beta|g|start)$/.exec(name) ?? [];
  if (!kind) return null;
  const layerType = kind === "delta" ? "linear_attention" : "full_attention";
  if (meta.layer_types[layer] !== layerType) return null;
  const width = (other) => tensors.get(`${kind}.${layer}.${head}.${other}`)?.shape[1];
  const T = meta.length;
  const shapes = { q: [T, width("k")], k: [T, width("q")] };
  if (kind === "delta") Object.assign(shapes, { v: [T, width("v")], beta: [T], g: [T] });
  for (const other of Object.keys(shapes)) {
    if (!tensors.has(`${kind}.${layer}.${head}.${other}`)) {
      throw new Error(`the trace holds ${show(name)} without its ${other}.`);
    }
  }
  if (kind === "delta") shapes.start = [width("k"), width("v")];
  return shapes[part] && [FLOATS, shapes[part]];
}

function checkMeta(meta, L, tensors) {
  const texts = (list, n) =>
    Array.isArray(list) && list.length === n && list.every((t) => typeof t === "string");
  const need = (good, key, wanted) => {
    if (!good) throw new Error(`the trace's ${key} is wrong: expected ${wanted}.`);
  };
  const { length: T, layer_types: kinds, tokens, prompt_length: prompt } = meta;
  need(whole(T, 1, 2 ** 31), "length", "a whole number of tokens, at least one");
  const measured = tensors.get("expert_ids") ?? tensors.get("token_ids");
  need(measured?.shape[0] === T, "length", "as many tokens as expert_ids or token_ids");
  const named = texts(kinds, L) && kinds.every((kind) => KINDS.includes(kind));
  need(named, "layer_types", `${L} of ${KINDS.join(", ")}`);
  need(whole(meta.num_experts, 0, 65535), "num_experts", "a whole number up to 65535");
  need(texts([meta.model, meta.source], 2), "model or source", "a text each");
  need(tokens === null || texts(tokens, T), "tokens", `null or ${T} texts`);
  need(prompt === null || whole(prompt, 0, T), "prompt_length", `null or 0 to ${T}`);
  need(Array.isArray(meta.pictures), "pictures", "a list");
  meta.pictures.forEach((picture, i) => {
    const { kind, start, rows, columns } = picture ?? {};
    const sized = whole(rows, 1, T) && whole(columns, 1, T);
    const inside = sized && whole(start, 0, T - rows * columns);
    const good = inside && ["image", "video"].includes(kind) && tensors.has(`picture.${i}`);
    need(good, `picture ${i}`, "its kind, start, rows and columns, and its pixels");
  });
}

function checkIds(ids, L, K, E) {
  const seen = new Int32Array(E).fill(-1);
  for (let i = 0; i < ids.length; i++) {
    const row = Math.floor(i / K);
    const at = `token ${Math.floor(row / L)}, layer ${row % L}`;
    if (ids[i] >= E) throw new Error(`${at}: expert ${ids[i]} of ${E} does not exist.`);
    if (seen[ids[i]] === row) throw new Error(`${at}: expert ${ids[i]} is chosen twice.`);
    seen[ids[i]] = row;
  }
}

function asShares(weights) {
  if (!weights || weights.dtype === "U8") return weights?.data ?? null;
  if (weights.data.some((w) => w < 0 || w > 1)) {
    throw new Error("expert_weights in the trace are not all between 0 and 1.");
  }
  return Uint8Array.from(weights.data, (w) => Math.round(w * 255));
}

function nameTokens(T, ids) {
  return Array.from({ length: T }, (_, t) => (ids ? `[${ids[t]}]` : `[token ${t}]`));
}

/** Text out of a file, fit for a one-line message. */
function show(text) {
  const plain = String(text).replace(/[^\x20-\x7e]/g, "?");
  return plain.length > 60 ? `${plain.slice(0, 57)}...` : plain;
}
