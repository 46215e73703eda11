// An answer: the prompt is read, then token after token is written and told of.

import { largestOf, softmax } from "./arithmetic.mjs";
import { idsOf, patchesOf, promptOf } from "./chat.mjs";
import { placed } from "./model.mjs";
import { Recorder } from "./recorder.mjs";
import { choose } from "./sampling.mjs";
import { inBlocks } from "./tower.mjs";

const STOPS = ["<|im_end|>", "<|endoftext|>"];
const PATIENCE = 25; // milliseconds of work before others get a turn

/**
 * asked: {messages as `promptOf` takes them, pictures: RGBA pixels in turn, thinking,
 * most: tokens to write at most, sampling, off as of `Model.step`}. tell(event) hears of every token that has
 * been read {kind: "read", done, of, lights}, and of every token written {kind: "token",
 * text, thinking}. turn() lets others have a turn, and says whether to go on. Returns
 * {bytes: the trace, text, reason, choices: of each next token {id,
 * shares [V]}, read: of each token that was read {x, position}}.
 */
export async function answer(model, tokenizer, asked, tell, turn, random) {
  const { messages, pictures = [], thinking = false, most = 256, sampling } = asked;
  const seen = pictures.map((picture) => see(model, picture));
  const ids = idsOf(tokenizer, promptOf(messages, thinking), seen.map(({ grid }) => grid));
  const { tokens, next } = placed(ids, seen.map(({ grid }) => grid), tokenizer.id("<|image_pad|>"));
  const run = new Run(model, turn, tell, asked.off);
  let state = null;
  for (const { id, position, picture, patch } of tokens) {
    const x = picture === undefined ? model.embed(id) : seen[picture].vectors[patch];
    state = run.read(id, x, position, tokens.length);
    if (!(await run.goesOn())) break;
  }
  const stops = STOPS.map((mark) => tokenizer.id(mark));
  const reader = tokenizer.reader();
  const closing = tokenizer.id("</think>");
  let [inside, text, reason, choices] = [thinking, "", "length", []];
  for (let n = 0; n < most && run.going; n++) {
    const logits = model.logits(state);
    const id = choose(logits, sampling, random);
    choices.push({ id, shares: softmax(logits) });
    if (stops.includes(id)) {
      reason = "stop";
      break;
    }
    const more = id === closing ? "" : reader(id);
    if (!inside) text += more;
    tell({ kind: "token", text: more, thinking: inside });
    inside = inside && id !== closing;
    state = run.read(id, model.embed(id), [next + n, next + n, next + n], tokens.length + n + 1);
    await run.goesOn();
  }
  if (!run.going) reason = "stopped";
  return { text: text.trimStart(), reason, choices, read: run.fed, bytes: run.trace(tokenizer, tokens, seen) };
}

/**
 * Where the next token moved, of two answers' choices: where they first chose differently,
 * or else where KL(before || after) is largest. {text: written before it by both, bits:
 * that KL, rows: of the likeliest tokens [text, share before, share after]}, or null.
 */
export function moved(before, after, tokenizer, most = 5) {
  const both = before.slice(0, after.length).map(({ shares }, i) => divergence(shares, after[i].shares));
  if (!both.length) return null;
  const parted = both.findIndex((_, i) => before[i].id !== after[i].id);
  const at = parted < 0 ? largestOf(both, 1)[0] : parted;
  const [p, q] = [before[at].shares, after[at].shares];
  const ids = largestOf(p.map((share, id) => Math.max(share, q[id])), most);
  const texts = tokenizer.texts(ids);
  const text = tokenizer.texts(before.slice(0, at).map(({ id }) => id)).join("");
  return { text, bits: both[at], rows: ids.map((id, i) => [texts[i], p[id], q[id]]) };
}

/** KL(p || q) in bits, of two distributions. */
export function divergence(p, q) {
  return p.reduce((sum, share, i) => sum + (share && share * Math.log2(share / q[i])), 0);
}

/** A function that gives others a turn where there was enough work; whether to go on. */
export function paced(turn) {
  let [going, since] = [true, performance.now()];
  return async () => {
    if (performance.now() - since > PATIENCE) [going, since] = [await turn(), performance.now()];
    return going;
  };
}

/** A picture through the tower: its vectors, its size in tokens and its pixels. */
function see({ tower, config }, pixels) {
  const { patch_size: size, spatial_merge_size: m } = config.vision_config;
  const [height, width] = [pixels.height / size, pixels.width / size];
  const patches = patchesOf(pixels, inBlocks(height, width, m), size);
  return { pixels, grid: [height / m, width / m], vectors: tower.see(patches, height, width) };
}

class Run {
  constructor(model, turn, tell, off) {
    Object.assign(this, { model, tell, off, going: true, pace: paced(turn), fed: [] });
    this.memory = model.memory();
    this.recorder = new Recorder(model);
  }

  read(id, x, position, of) {
    this.fed.push({ x, position });
    const heard = (n) => this.recorder.heard(n);
    const state = this.model.step(x, position, this.memory, heard, this.off);
    const { layers } = this.recorder.keep(id, this.memory);
    const lights = layers.map(({ router: { ids, weights }, rule }) => ({ ids, weights, beta: rule?.beta }));
    this.tell({ kind: "read", done: this.recorder.tokens.length, of, lights });
    return state;
  }

  async goesOn() {
    return (this.going = await this.pace());
  }

  /** What was read and written, as a trace file's bytes. */
  trace(tokenizer, prompt, seen) {
    const texts = tokenizer.texts(this.recorder.tokens.map(({ id }) => id));
    const pictures = seen.map(({ pixels, grid: [rows, columns] }, i) => {
      const start = prompt.findIndex(({ picture }) => picture === i);
      return { pixels, rows, columns, start };
    });
    const read = Math.min(prompt.length, texts.length);
    const meta = { model: "the model in this page", tokens: texts, prompt_length: read };
    return this.recorder.bytes(meta, pictures.filter(({ start, rows, columns }) =>
      start + rows * columns <= read));
  }
}
