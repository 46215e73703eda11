// A conversation to what the model reads: chat_template.jinja's forms without tools.

/** A picture as its message holds it: one pad, which `tokens` makes many. */
const MARKS = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>"];

/**
 * messages: [{role: "user" or "assistant", text, pictures}], where `pictures` counts
 * those before the text. The prompt, up to where the answer begins.
 */
export function promptOf(messages, thinking = false) {
  const turns = messages.map(({ role, text, pictures = 0 }) =>
    `<|im_start|>${role}\n${MARKS.join("").repeat(pictures)}${text}<|im_end|>\n`);
  const open = "<|im_start|>assistant\n<think>\n";
  return turns.join("") + open + (thinking ? "" : "\n</think>\n\n");
}

/** The prompt's ids, each picture's pad as often as it has tokens; grids as `placed` takes. */
export function idsOf(tokenizer, prompt, grids) {
  const pad = tokenizer.id(MARKS[1]);
  const ids = tokenizer.encode(prompt);
  const given = ids.filter((id) => id === pad).length;
  if (given !== grids.length) {
    throw new Error(`the text holds ${given} ${MARKS[1]} for ${grids.length} pictures; leave them out.`);
  }
  let next = 0;
  return ids.flatMap((id) => {
    if (id !== pad) return [id];
    const [rows, columns] = grids[next++];
    return new Array(rows * columns).fill(pad);
  });
}

/**
 * A picture's pixels to patches: {width, height, data} of RGBA bytes, sides multiples of
 * 32. Each patch, [3 * 2 * 16 * 16], has two equal frames; blocks of 2 x 2.
 */
export function patchesOf({ width, height, data }, places, size = 16) {
  return places.map(([row, column]) => {
    const patch = new Float32Array(3 * 2 * size * size);
    let n = 0;
    for (let channel = 0; channel < 3; channel++) {
      for (let frame = 0; frame < 2; frame++) {
        for (let y = row * size; y < (row + 1) * size; y++) {
          for (let x = column * size; x < (column + 1) * size; x++) {
            patch[n++] = (data[4 * (y * width + x) + channel] / 255 - 0.5) / 0.5;
          }
        }
      }
    }
    return patch;
  });
}
