// What a page without a trace shows: samples, a place to drop a file, and how to record one.
// Dropping works on any page.
import { node } from "./shared/look.mjs";

const SAMPLES = {
  note: ["A note, overwritten and recalled", "Where is the key? Its memory opens where the answer is due."],
  picture: ["A digit, read", "Which experts see the picture, which write the answer."],
  film: ["A film, watched", "Three frames, and what moves in them."],
};
const COMMAND =
  'minqwen trace PATH --prompt "..." --state LAYER.HEAD -o my-trace.safetensors';

export const WELCOME_CSS = `
.hint { max-width: 46em; margin: 24px auto; display: grid; gap: 10px; }
.hint h2 { font-size: 20px; }
.hint .code { display: block; margin: 4px 0; white-space: pre-wrap; }
.offers { display: grid; gap: 8px; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); }
.offers button { text-align: left; padding: 10px 12px; }
.offers b { display: block; font-size: 14px; color: var(--focus); }
.drop { border: 2px dashed var(--edge); border-radius: 8px; padding: 22px 12px; text-align: center; }
.dropping .drop, .dropping main { outline: 3px solid var(--focus); outline-offset: 2px; }
`;

/** The page's first view; open(name): shows the sample of that name. */
export function welcome(open) {
  const names = Object.keys(SAMPLES).filter((name) => document.getElementById(`minqwen-sample-${name}`));
  const samples = names.map((name) => {
    const [title, about] = SAMPLES[name];
    return node("button", { onclick: () => open(name) }, node("b", {}, title), about);
  });
  return node("div", { class: "hint" },
    node("h2", {}, "See which experts read each token, and what a memory keeps"),
    samples.length > 0 && node("p", {}, "Look at what the small model of this course did:"),
    samples.length > 0 && node("div", { class: "offers" }, samples),
    node("p", { class: "drop" }, node("b", {}, "Drop a trace here"),
      ", or two to compare: .safetensors, vLLM's .npy, llama.cpp's .csv.",
      node("br"), node("span", { class: "muted" }, "It stays in this browser; nothing is sent anywhere.")),
    node("p", {}, "To record one:", node("span", { class: "code" }, COMMAND)));
}

/** Calls take(files) with what is dropped anywhere; `root` is marked while it hovers. */
export function onDrop(root, take) {
  const mark = (on) => (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    root.classList.toggle("dropping", on);
  };
  document.addEventListener("dragover", mark(true));
  document.addEventListener("dragleave", mark(false));
  document.addEventListener("drop", (event) => {
    mark(false)(event);
    const files = [...event.dataTransfer.files];
    if (files.length) take(files);
  });
}
