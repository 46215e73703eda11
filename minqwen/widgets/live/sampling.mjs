// Which token follows: the likeliest, or a draw, as engine/sampling.py.

import { largestOf, softmax } from "./arithmetic.mjs";

/** logits [V]; random() gives numbers from 0 up to 1. Temperature 0 takes the likeliest. */
export function choose(logits, { temperature = 0, topK = 0, topP = 1 } = {}, random = Math.random) {
  if (!temperature) return largestOf(logits, 1)[0];
  const order = largestOf(logits, topK || logits.length);
  const shares = softmax(order.map((id) => logits[id] / temperature));
  let [kept, sum] = [0, 0];
  while (kept < order.length && sum < topP) sum += shares[kept++];
  // in the order of ids, so that a number means the same as in Python
  const drawn = order.slice(0, kept).map((id, i) => [id, shares[i]]).sort((a, b) => a[0] - b[0]);
  let left = random() * sum;
  for (const [id, share] of drawn) {
    left -= share;
    if (left < 0) return id;
  }
  return drawn.at(-1)[0];
}
