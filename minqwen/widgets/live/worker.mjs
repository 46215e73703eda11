// The model in a thread of its own. It hears {kind: "load", config, tokenizer, weights},
// {kind: "ask", ...} as `answer` takes it, `again` if it is the last one's question, and
// {kind: "stop"}, and tells {kind: "ready"}, what `answer` tells, and {kind: "finished",
// text, reason, bytes, moved: as of `moved`, of a question asked again} or {kind: "failed", words}.
// To {kind: "map"} it tells what `causes` does of the last answer's text, and {kind: "mapped",
// whole: was every expert masked?}.

import { answer, moved } from "./answer.mjs";
import { causes } from "./causes.mjs";
import { Model } from "./model.mjs";
import { Tokenizer } from "./tokenizer.mjs";
import { readWeights } from "./weights.mjs";

/** scope: a worker's own `self`, or what has its two methods. */
export function serve(scope) {
  let [model, tokenizer, last, current] = [null, null, null, 0];
  // Messages that wait, such as to stop, come between two turns of the event loop. What
  // begins ends what went on.
  function begin() {
    const mine = ++current;
    return () => new Promise((go) => setTimeout(() => go(mine === current)));
  }
  const tell = (event, transfer = []) => scope.postMessage(event, transfer);
  const hear = {
    load({ config, tokenizer: words, weights }) {
      model = new Model(config, readWeights(weights));
      tokenizer = new Tokenizer(words);
      tell({ kind: "ready", text: model.text });
    },
    async ask(asked) {
      const { choices, read, ...found } = await answer(model, tokenizer, asked, tell, begin());
      const change = asked.again && last && moved(last.choices, choices, tokenizer);
      last = { choices, read };
      tell({ kind: "finished", ...found, moved: change }, [found.bytes.buffer]);
    },
    async map() {
      tell({ kind: "mapped", whole: await causes(model, last.read, tell, begin()) });
    },
    stop() {
      current += 1;
    },
  };
  scope.onmessage = async ({ data }) => {
    try {
      await hear[data.kind](data);
    } catch (error) {
      tell({ kind: "failed", words: error.message });
    }
  };
}
