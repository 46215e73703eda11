// The explorer's page with a model in it: what it answers is shown as a trace at once.

import { held, start as startExplorer } from "../explorer.mjs";
import { readAddress } from "../shared/address.mjs";
import { LIVE_CSS, Live } from "./view.mjs";

/** Fills the page's body; done when the model has been handed to its worker. */
export async function start() {
  const given = readAddress(location.hash);
  const page = await startExplorer(LIVE_CSS);
  const text = document.getElementById("minqwen-worker").textContent;
  const source = new Blob([text], { type: "text/javascript" });
  const worker = new Worker(URL.createObjectURL(source));
  const live = new Live(worker, page.look, (bytes, other) => {
    page.open("trace", bytes.buffer, other ? "before" : "");
    if (other) page.open("other", other.buffer, "asked again");
    page.opened();
    const point = () => live.glow.point(page.model.get("head"), page.model.get("token"), page.traces.trace.tokens);
    page.model.on("change", point);
    point();
  }, given, (selected) => page.follow({ view: "experts", selected }));
  page.above(live.root);
  const [config, tokenizer, weights] = await Promise.all(
    ["config", "tokenizer", "weights"].map((name) => held(name)));
  const json = (bytes) => JSON.parse(new TextDecoder().decode(bytes));
  worker.postMessage({
    kind: "load", config: json(config), tokenizer: json(tokenizer),
    weights: new Uint8Array(weights),
  }, [weights]);
}
