// The model in a thread of its own. It hears {kind: "load", config, tokenizer, weights},
// {kind: "ask", ...} as `answer` takes it, `again` if it is the last one's question, and
// {kind: "stop"}, and tells {kind: "ready"}, what `answer` tells, and {kind: "finished",
// text, reason, bytes, moved: as of `moved`, of a question asked again} or {kind: "failed", words}.

import { answer, moved } from "./answer.mjs";
import { Model } from "./model.mjs";
import { Tokenizer } from "./tokenizer.mjs";
import { readWeights } from "./weights.mjs";

/** scope: a worker's own `self`, or what has its two methods. */
export function serve(scope) {
  let [model, tokenizer, going, last] = [null, null, false, null];
  // Messages that wait, such as to stop, come between two turns of the event loop.
  const turn = () => new Promise((go) => setTimeout(() => go(going)));
  const tell = (event, transfer = []) => scope.postMessage(event, transfer);
  const hear = {
    load({ config, tokenizer: words, weights }) {
      model = new Model(config, readWeights(weights));
      tokenizer = new Tokenizer(words);
      tell({ kind: "ready", text: model.text });
    },
    async ask(asked) {
      going = true;
      const { choices, ...found } = await answer(model, tokenizer, asked, tell, turn);
      const change = asked.again && last && moved(last, choices, tokenizer);
      last = choices;
      tell({ kind: "finished", ...found, moved: change }, [found.bytes.buffer]);
    },
    stop() {
      going = false;
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
