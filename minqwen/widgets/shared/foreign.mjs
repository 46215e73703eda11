// Turns traces of other engines, as trace/engines.py reads them, into a trace file's bytes:
// the experts that were chosen, and nothing more.
import { safetensors, show } from "./safetensors.mjs";

const NUMBERS = {
  i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array,
  u4: Uint32Array, i8: BigInt64Array, u8: BigUint64Array,
};
const MOST = 65534; // the highest number of an expert
const KNOWN = "a trace's .safetensors, vLLM's .npy of routed experts, or llama.cpp's .csv";

/** A file's bytes as a trace file's; those of no other engine are left as they are.
 * Throws an Error of one sentence. */
export function fromAnyEngine(bytes, name = "") {
  const view = new Uint8Array(bytes);
  const begins = String.fromCharCode(...view.subarray(0, 6));
  if (begins === "\x93NUMPY") return fromNpy(bytes);
  if (/\.csv$/i.test(name)) return fromCsv(new TextDecoder().decode(view));
  if (/\.(json|txt|pt|bin|gguf|npz|jsonl|parquet)$/i.test(name))
    throw new Error(`this page opens ${KNOWN}; for others see minqwen.trace.engines.`);
  return bytes;
}

/** vLLM's: whole numbers [T, L, K]. */
function fromNpy(bytes) {
  if (bytes.byteLength < 12) throw new Error("this .npy is damaged: it ends in its header.");
  const view = new DataView(bytes);
  const wide = view.getUint8(6) > 1;
  const start = wide ? 12 : 10;
  const size = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const head = new TextDecoder().decode(new Uint8Array(bytes, start, Math.min(size, bytes.byteLength - start)));
  const [, kind] = /'descr': '[<|]([iu]\d)'/.exec(head) ?? [];
  const shape = (/'shape': \(([\d, ]+)\)/.exec(head)?.[1] ?? "").split(",").map(Number);
  const count = shape.reduce((a, b) => a * b, 1);
  if (!NUMBERS[kind] || shape.length !== 3 || !count || /'fortran_order': True/.test(head))
    throw new Error("this .npy holds no whole numbers [tokens, layers, top_k] in that order, as vLLM's routed_experts are.");
  const data = bytes.slice(start + size);
  if (data.byteLength !== count * NUMBERS[kind].BYTES_PER_ELEMENT)
    throw new Error("this .npy is damaged: it is not as long as its header says.");
  return made(Array.from(new NUMBERS[kind](data), Number), shape, "vllm");
}

/** llama.cpp's moe-trace: lines `layer,expert`, batch by batch and in each layer by layer. */
function fromCsv(text) {
  const lines = text.split(/\r?\n/).filter(Boolean);
  if (lines[0]?.startsWith("layer")) lines.shift();
  const found = new Map(); // layer -> its experts
  const blocks = [];
  for (const line of lines) {
    const [, layer, expert] = /^(\d{1,5}),(\d{1,5})$/.exec(line) ?? [];
    if (!layer) throw new Error(`${show(line)} is no line layer,expert of llama.cpp's moe-trace.`);
    if (!found.has(layer)) found.set(layer, []);
    found.get(layer).push(Number(expert));
    if (blocks.at(-1)?.layer === layer) blocks.at(-1).count++;
    else blocks.push({ layer, count: 1 });
  }
  const K = Math.min(...blocks.map(({ count }) => count));
  if (!blocks.length || blocks.some(({ count }) => count % K))
    throw new Error("this .csv does not say how many experts a token has: open it with minqwen explore --top-k.");
  const layers = [...found.keys()].sort((a, b) => a - b);
  const T = Math.max(...[...found.values()].map((experts) => experts.length)) / K;
  // In the last layer llama.cpp runs only the tokens whose logits it wants.
  if (layers.length > 1 && found.get(layers.at(-1)).length < T * K) layers.pop();
  if (layers.some((layer) => found.get(layer).length !== T * K))
    throw new Error("this .csv has different numbers of tokens in its layers.");
  const ids = [];
  for (let t = 0; t < T; t++)
    for (const layer of layers) ids.push(...found.get(layer).slice(t * K, (t + 1) * K));
  return made(ids, [T, layers.length, K], "llama.cpp");
}

function made(ids, [T, L, K], source) {
  const most = ids.reduce((a, b) => Math.max(a, b), 0);
  const wrong = ids.find((id) => id < 0 || id > MOST);
  if (wrong !== undefined) throw new Error(`${source}'s trace names expert ${wrong}, expected 0 to ${MOST}.`);
  const meta = {
    version: 1, source, model: "", length: T, layer_types: Array(L).fill("unknown"),
    num_experts: most + 1, tokens: null, prompt_length: null, pictures: [],
  };
  const tensors = { expert_ids: [[T, L, K], Uint16Array.from(ids)] };
  return safetensors(tensors, { minqwen_trace: JSON.stringify(meta) }).buffer;
}
