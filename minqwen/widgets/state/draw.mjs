// A head's memory and one step of it, on canvas. Each function draws from plain numbers,
// at a width in CSS pixels, and returns where it put things, for pointers and for tests.

import { pixel, rgb, sizeCanvas } from "../shared/look.mjs";
import { peak } from "./data.mjs";

const STRIP = 13; // a vector's thickness
const FONT = "11px system-ui, sans-serif";

/** Where -1 .. 1 stands in colour: by the square root, so that small numbers are seen. */
const curve = (x) => Math.sign(x) * Math.sqrt(Math.min(1, Math.abs(x)));

const palettes = new WeakMap(); // a theme's colours -> its 511 of orange, paper and blue

/** The colours as pixels of a canvas are stored, one 32-bit number each. */
function palette(colours) {
  if (!palettes.has(colours)) {
    const [paper, ...ends] = [colours.paper, colours.second, colours.first].map(rgb);
    const bytes = Array.from({ length: 511 }, (_, n) => {
      const [end, part] = [ends[+(n > 255)], Math.abs(n - 255) / 255];
      return [...paper.map((zero, i) => Math.round(zero + part * (end[i] - zero))), 255];
    });
    palettes.set(colours, new Uint32Array(Uint8Array.from(bytes.flat()).buffer));
  }
  return palettes.get(colours);
}

/** A number in -1 .. 1 as a style: paper at zero, blue above, orange below. */
function signed(x, colours) {
  const pixel = palette(colours).subarray(Math.round(255 * curve(x)) + 255);
  return `rgb(${new Uint8Array(pixel.buffer, pixel.byteOffset, 3).join(", ")})`;
}

/** A number in print: three digits. */
export function brief(x) {
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "none";
  return String(+x.toPrecision(3)).replaceAll("-", "−");
}

/**
 * A matrix as one pixel a number, to be drawn at any size without blur. `limit` is the
 * size that has the full colour; NaN is shown as the panel's colour.
 */
export function image(values, rows, columns, limit, colours) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [columns, rows];
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  const words = new Uint32Array(pixels.data.buffer);
  const all = palette(colours);
  const none = pixel(colours.panel);
  for (let n = 0; n < words.length; n++) {
    const x = values[n] / (limit || 1);
    words[n] = Number.isNaN(x) ? none : all[Math.round(255 * curve(x)) + 255];
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** Where a memory's parts go: the matrix, k and q beside it, four vectors below it. */
export function memoryLayout(width, K, V) {
  const left = 3 * STRIP + 8;
  const cell = Math.max(1, Math.floor(Math.min(width - left - 62, 400) / Math.max(K, V)));
  const [x, y] = [left, 18];
  const below = y + K * cell + 8;
  return {
    cell, height: below + 4 * (STRIP + 5) + 16,
    matrix: { x, y, w: V * cell, h: K * cell },
    key: { x: 2, y, w: STRIP, h: K * cell },
    query: { x: STRIP + 8, y, w: STRIP, h: K * cell },
    rows: Object.fromEntries(
      ["known", "value", "error", "output"].map((name, i) => [
        name, { x, y: below + i * (STRIP + 5), w: V * cell, h: STRIP },
      ]),
    ),
  };
}

// What takes part in each step, so that the eye is led.
const ACTIVE = {
  forget: ["matrix"],
  ask: ["matrix", "key", "known"],
  compare: ["known", "value", "error"],
  write: ["matrix", "key", "error"],
  answer: ["matrix", "query", "output"],
};
const ROW_NAMES = { known: "gets back", value: "value", error: "error", output: "output" };

/**
 * A head's memory and the vectors around it.
 * parts: Replay.step's, memory [K, V] as shown, step: its name, limits: {memory, value}.
 */
export function drawMemory(canvas, width, { parts, memory, step, limits, K, V }, colours) {
  const place = memoryLayout(width, K, V);
  const context = empty(canvas, width, place.height, colours);
  drawMatrix(context, place.matrix, memory, K, V, limits.memory, colours);
  const vectors = [
    ["key", place.key, peak(parts.key), false],
    ["query", place.query, peak(parts.query), false],
    ["known", place.rows.known, limits.value, true],
    ["value", place.rows.value, limits.value, true],
    ["error", place.rows.error, limits.value, true],
    ["output", place.rows.output, peak(parts.output), true],
  ];
  for (const [name, box, limit, across] of vectors) {
    const known = name !== "output" || step === "answer";
    const values = known ? parts[name] : new Float32Array(parts[name].length);
    const named = { name: across ? ROW_NAMES[name] : name[0], values, limit };
    drawVector(context, box, named, across, ACTIVE[step].includes(name), colours);
  }
  outline(context, place.matrix, ACTIVE[step].includes("matrix"), colours);
  drawScale(context, place.matrix.x, place.height - 12, limits.memory, colours);
  return place;
}

/** A step's own matrix, in the same place as the memory's, and the sums of its columns. */
export function drawStepMatrix(canvas, width, { values, sums, limit, K, V }, colours) {
  const place = memoryLayout(width, K, V);
  const context = empty(canvas, width, place.height, colours);
  drawMatrix(context, place.matrix, values, K, V, limit, colours);
  outline(context, place.matrix, true, colours);
  if (sums) {
    const box = place.rows.known;
    drawVector(context, box, sums, true, true, colours);
    text(context, "columns add up to", place.matrix.x, box.y + 2 * STRIP + 4, colours.muted);
  }
  drawScale(context, place.matrix.x, place.height - 12, limit, colours);
  return place;
}

/** Value, what the key gets back, and the error, as bars one below the other. */
export function drawCompare(canvas, width, { parts, K, V }, colours) {
  const limit = Math.max(peak(parts.value), peak(parts.known), peak(parts.error)) || 1;
  const place = memoryLayout(width, K, V);
  const context = empty(canvas, width, place.height, colours);
  const { x, w } = place.matrix;
  const high = Math.floor((place.height - 34) / 3) - 10;
  ["value", "known", "error"].forEach((name, i) => {
    const middle = 14 + i * (high + 10) + high / 2;
    context.fillStyle = colours.edge;
    context.fillRect(x, Math.round(middle), w, 1);
    parts[name].forEach((value, j) => {
      const size = (Math.min(1, Math.abs(value) / limit) * high) / 2;
      context.fillStyle = value < 0 ? colours.second : colours.first;
      const gap = place.cell > 3 ? 1 : 0;
      context.fillRect(x + j * place.cell, middle - (value > 0 ? size : 0), place.cell - gap, size);
    });
    const box = { x, y: middle - STRIP / 2, w, h: STRIP };
    label(context, ROW_NAMES[name], box, true, true, colours);
  });
  text(context, `the longest bar: ${brief(limit)}`, x, place.height - 12, colours.muted);
  return place;
}

/** The canvas' context, at this size, with nothing but paper on it. */
export function empty(canvas, width, height, colours) {
  const context = sizeCanvas(canvas, width, height);
  context.fillStyle = colours.paper;
  context.fillRect(0, 0, width, height);
  context.font = FONT;
  context.textBaseline = "middle";
  return context;
}

function drawMatrix(context, { x, y, w, h }, values, rows, columns, limit, colours) {
  context.imageSmoothingEnabled = false;
  context.drawImage(image(values, rows, columns, limit, colours), x, y, w, h);
}

function drawVector(context, box, { name, values, limit }, across, strong, colours) {
  const [rows, columns] = across ? [1, values.length] : [values.length, 1];
  drawMatrix(context, box, values, rows, columns, limit, colours);
  outline(context, box, strong, colours);
  label(context, name, box, across, strong, colours);
}

function outline(context, { x, y, w, h }, strong, colours) {
  context.strokeStyle = strong ? colours.accent : colours.line;
  context.lineWidth = strong ? 2 : 1;
  context.strokeRect(x - 1, y - 1, w + 2, h + 2);
}

function label(context, words, { x, y, w, h }, across, strong, colours) {
  context.font = strong ? `bold ${FONT}` : FONT;
  const colour = strong ? colours.accent : colours.muted;
  if (across) text(context, words, x + w + 6, y + h / 2, colour);
  else text(context, words, x + w / 2, y - 9, colour, "center");
  context.font = FONT;
}

export function text(context, words, x, y, colour, align = "left") {
  context.fillStyle = colour;
  context.textAlign = align;
  context.fillText(words, x, y);
}

/** From -limit to limit, in colour and in numbers. */
function drawScale(context, x, y, limit, colours) {
  const number = brief(limit);
  text(context, `−${number}`, x, y, colours.muted);
  const from = x + context.measureText(`−${number}`).width + 5;
  for (let i = 0; i < 60; i++) {
    context.fillStyle = signed(i / 29.5 - 1, colours);
    context.fillRect(from + i, y - 5, 1, 10);
  }
  text(context, number, from + 65, y, colours.muted);
}
