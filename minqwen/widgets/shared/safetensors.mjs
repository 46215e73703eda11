// A safetensors file's bytes to typed arrays: eight bytes of length, a JSON header,
// then the tensors, end to end. Nothing in the header is believed without a check.

const SIZES = { F32: 4, F16: 2, BF16: 2, U8: 1, U16: 2, U32: 4, I64: 8 };
const ARRAYS = { F32: Float32Array, U8: Uint8Array, U32: Uint32Array };
const NAMES = { Float32Array: "F32", Uint8Array: "U8", Uint16Array: "U16", Uint32Array: "U32" };
const MAX_HEADER = 64 * 2 ** 20;

/** view: a Uint8Array. Returns {metadata, tensors}: a Map from names to {dtype, shape,
 * data}, typed arrays: F16 and BF16 become Float32Array, I64 becomes Float64Array.
 * Throws an Error of one sentence. */
export function readSafetensors(view) {
  const head = new DataView(view.buffer, view.byteOffset, view.byteLength);
  const size = view.length < 8 ? Infinity : Number(head.getBigUint64(0, true));
  if (size > Math.min(MAX_HEADER, view.length - 8))
    throw new Error("this is not a trace: it does not begin as a safetensors file.");
  const header = parseObject(view.subarray(8, 8 + size), "the trace's header");
  const metadata = header.__metadata__ ?? {};
  delete header.__metadata__;
  const entries = Object.entries(header);
  for (const [name, entry] of entries) checkEntry(name, entry);
  checkPlaces(entries, view.length - 8 - size);
  const tensors = new Map();
  for (const [name, entry] of entries) {
    tensors.set(name, decode(view, 8 + size, entry));
    checkFinite(name, tensors.get(name).data);
  }
  return { metadata, tensors };
}

/** A JSON object out of a text or its bytes; `what` begins the message otherwise. */
export function parseObject(text, what) {
  let value = null;
  try {
    const decoder = new TextDecoder("utf-8", { fatal: true });
    value = JSON.parse(typeof text === "string" ? text : decoder.decode(text));
  } catch {
    // said below
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw new Error(`${what} is not a JSON object; the file is damaged or no trace.`);
  }
  return value;
}

/** Whether it is a whole number from low to high. */
export function whole(n, low, high) {
  return Number.isSafeInteger(n) && n >= low && n <= high;
}

/** Text out of a file, fit for a one-line message. */
export function show(text) {
  const plain = String(text).replace(/[^\x20-\x7e]/g, "?");
  return plain.length > 60 ? `${plain.slice(0, 57)}...` : plain;
}

function checkEntry(name, entry) {
  const { dtype, shape, data_offsets: offsets } = entry ?? {};
  const numbers = (list) =>
    Array.isArray(list) && list.every((n) => whole(n, 0, Number.MAX_SAFE_INTEGER));
  const good = Object.hasOwn(SIZES, dtype) && numbers(shape) && shape.length <= 8;
  if (!good || !numbers(offsets) || offsets.length !== 2)
    throw new Error(`the trace's header does not describe ${show(name)} as a tensor.`);
  const size = shape.reduce((n, length) => n * length, SIZES[dtype]);
  if (size !== offsets[1] - offsets[0])
    throw new Error(`the trace's header gives ${show(name)} a wrong number of bytes.`);
}

/** The tensors lie end to end and fill the file. */
function checkPlaces(entries, held) {
  const places = entries.map(([name, entry]) => [...entry.data_offsets, name]);
  places.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  let at = 0;
  for (const [start, end, name] of places) {
    if (start !== at) throw new Error(`the trace is damaged: ${show(name)} is not at byte ${at}.`);
    at = end;
  }
  if (at !== held) throw new Error(`the trace is damaged: ${at} bytes announced, ${held} held.`);
}

function decode(view, base, { dtype, shape, data_offsets: [start, end] }) {
  const at = view.byteOffset + base + start;
  const aligned = at % SIZES[dtype] === 0; // else a typed array cannot look at it
  const buffer = aligned ? view.buffer : view.buffer.slice(at, at + end - start);
  const Raw = dtype === "I64" ? BigInt64Array : (ARRAYS[dtype] ?? Uint16Array);
  const raw = new Raw(buffer, aligned ? at : 0, (end - start) / SIZES[dtype]);
  let data = raw;
  if (dtype === "I64") data = Float64Array.from(raw, Number);
  if (dtype === "BF16") {
    const bits = new Uint32Array(raw.length);
    for (let i = 0; i < raw.length; i++) bits[i] = raw[i] << 16;
    data = new Float32Array(bits.buffer);
  } else if (dtype === "F16") {
    data = new Float32Array(raw.length);
    const values = halves();
    for (let i = 0; i < raw.length; i++) data[i] = values[raw[i]];
  }
  return { dtype, shape, data };
}

let byBits = null;

/** All 65,536 numbers of half precision, by their bits. */
function halves() {
  byBits ??= Float32Array.from({ length: 65536 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = (bits & 1023) / 1024;
    if (exponent === 0) return sign * fraction * 2 ** -14;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1 + fraction) * 2 ** (exponent - 15);
  });
  return byBits;
}

function checkFinite(name, data) {
  if (!(data instanceof Float32Array)) return;
  for (let i = 0; i < data.length; i++) {
    if (!Number.isFinite(data[i]))
      throw new Error(`${show(name)} in the trace holds a value that is not finite.`);
  }
}

/** {name: [shape, typed array]} and a dict of texts as a file's bytes. */
export function safetensors(tensors, metadata) {
  const header = { __metadata__: metadata };
  let end = 0;
  for (const [name, [shape, data]] of Object.entries(tensors)) {
    const dtype = NAMES[data.constructor.name];
    header[name] = { dtype, shape, data_offsets: [end, (end += data.byteLength)] };
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const size = 8 * Math.ceil(text.length / 8);
  const bytes = new Uint8Array(8 + size + end).fill(32, 8, 8 + size);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(size), true);
  bytes.set(text, 8);
  for (const [name, [, data]] of Object.entries(tensors)) {
    const [start] = header[name].data_offsets;
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), 8 + size + start);
  }
  return bytes;
}
