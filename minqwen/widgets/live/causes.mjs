// What each expert does to a text: masked one by one, and how far the distributions of the
// next token move. The numbers of minqwen/analyse/atlas.py: causal_map.

import { divergence, paced } from "./answer.mjs";
import { softmax } from "./arithmetic.mjs";

/**
 * read: the text's tokens [{x, position}] as `Model.step` takes them. Of each expert that
 * the text uses, the busiest first, tell(event) hears {kind: "cause", layer, expert, kl: the
 * mean KL(whole || masked) in bits, count: of tokens that chose it, done, of: work}, and before
 * all of {kind: "uses", chosen: [L][E]}. turn() as of `answer`. Returns whether all were masked.
 */
export async function causes(model, read, tell, turn) {
  const { num_hidden_layers: L, num_experts: E } = model.text;
  const chosen = Array.from({ length: L }, () => new Array(E).fill(0));
  const entering = read.map(() => []); // of each token, what comes into each layer
  const [whole, goesOn] = [[], paced(turn)];
  /** The text through the layers from `from` on; each(shares, t) hears what comes next. */
  async function through(from, off, heard, each) {
    const memory = model.memory();
    for (const [t, { x, position }] of read.entries()) {
      const taps = (n) => ({ router() {}, rule() {}, ...heard(n, t) });
      each(softmax(model.logits(model.step(from ? entering[t][from] : x, position, memory, taps, off, from))), t);
      if (!(await goesOn())) return false;
    }
    return true;
  }
  const hear = (n, t) => ({
    enters: (x) => (entering[t][n] = x),
    router: ({ ids }) => ids.forEach((id) => (chosen[n][id] += 1)),
  });
  if (!(await through(0, [], hear, (shares) => whole.push(shares)))) return false;
  tell({ kind: "uses", chosen });
  const used = chosen.flatMap((row, layer) => row.map((count, expert) => ({ layer, expert, count })))
    .filter(({ count }) => count).sort((a, b) => b.count - a.count);
  const of = used.reduce((sum, { layer }) => sum + L - layer, 0);
  let done = 0;
  for (const { layer, expert, count } of used) {
    let sum = 0;
    const off = { [layer]: { experts: new Set([expert]) } };
    // what lies below hears nothing of it
    if (!(await through(layer, off, () => null, (shares, t) => (sum += divergence(whole[t], shares))))) return false;
    done += L - layer;
    tell({ kind: "cause", layer, expert, count, kl: sum / read.length, done, of });
  }
  return true;
}
