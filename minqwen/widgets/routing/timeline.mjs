// The whole text as one line: where the selection shows in it, a slider, and play.
import { button, node, reducedMotion, sizeCanvas } from "../shared/look.mjs";
import { whole } from "./words.mjs";

const HEIGHT = 30;
const INSET = 8; // half a slider's thumb: the strip's ends lie under its two ends
const SPEEDS = [2, 10, 30, 60]; // tokens a second

export function createTimeline({ reading, store, look, playing }) {
  const { pictures, trace } = reading;
  const prompt = trace.meta.prompt_length ?? null;
  const canvas = node("canvas", { class: "strip", "aria-hidden": "true" });
  const slider = node("input", {
    type: "range", min: 0, step: 1, "aria-label": "Token",
    oninput: () => store.token(Number(slider.value)),
  });
  const back = button("‹", "Previous token", () => store.step(-1));
  const on = button("›", "Next token", () => store.step(1));
  const play = button("Play", "Play", toggle);
  const speed = node("select", { "aria-label": "Tokens a second" },
    SPEEDS.map((n) => node("option", { value: n, selected: n === 10 }, `${n} a second`)));
  const place = node("span", { class: "place" });
  const element = node("div", { class: "timeline" },
    node("div", { class: "bar" }, back, play, on, speed, place),
    node("div", { class: "track" }, canvas, slider));
  let [width, values, frame] = [0, null, null];
  let found = []; // tokens that a search found

  /** Starts or stops; from the end it starts over. Slow where less movement is wanted. */
  function toggle() {
    if (frame !== null) return stop();
    const from = store.state.token >= reading.T - 1 ? 0 : store.state.token;
    let started = null;
    if (from !== store.state.token) store.token(from);
    const tick = (now) => {
      started ??= now;
      const rate = reducedMotion() ? Math.min(2, speed.value) : speed.value;
      const steps = Math.floor(((now - started) / 1000) * rate);
      if (steps > 0) {
        started += (steps * 1000) / rate;
        store.step(steps);
      }
      frame = store.state.token >= reading.T - 1 ? stop() : requestAnimationFrame(tick);
    };
    frame = requestAnimationFrame(tick);
    label();
  }

  function stop() {
    cancelAnimationFrame(frame);
    frame = null;
    label();
    return null;
  }

  function label() {
    play.textContent = frame === null ? "Play" : "Pause";
    play.setAttribute("aria-label", frame === null ? "Play" : "Pause");
    playing(frame !== null);
  }

  function draw() {
    if (width < 2 * INSET + 2) return;
    const theme = look.colours();
    const ctx = sizeCanvas(canvas, width, HEIGHT);
    const span = width - 2 * INSET;
    const x = (t) => INSET + (t / reading.T) * span;
    ctx.fillStyle = theme.panel;
    ctx.fillRect(INSET, 0, span, HEIGHT);
    ctx.fillStyle = theme.line;
    for (const { start, rows, columns } of pictures)
      ctx.fillRect(x(start), HEIGHT - 4, Math.max(1, x(start + rows * columns) - x(start)), 4);
    if (values) drawValues(ctx, theme, x, span);
    ctx.fillStyle = theme.ink;
    for (const t of found) ctx.fillRect(x(t), 0, Math.max(2, span / reading.T), 3);
    if (prompt && prompt < reading.T) {
      ctx.fillStyle = theme.muted;
      ctx.fillRect(x(prompt), 0, 1, HEIGHT);
      ctx.font = "10px system-ui, sans-serif";
      ctx.fillStyle = theme.paper;
      ctx.fillRect(x(prompt) + 1, 0, ctx.measureText("answer").width + 5, 12);
      ctx.fillStyle = theme.muted;
      ctx.fillText("answer", x(prompt) + 3, 9);
    }
    ctx.fillStyle = theme.accent;
    ctx.fillRect(x(store.state.token + 0.5) - 1, 0, 2, HEIGHT);
  }

  /** Bars; where several tokens share a pixel, the largest is what is seen. */
  function drawValues(ctx, theme, x, span) {
    const own = theme.ramp[look.root.dataset.theme === "dark" ? 1 : 2];
    ctx.fillStyle = reading.other ? theme.second : own;
    const gap = x(1) - x(0) > 4 ? 1 : 0;
    const bins = Math.min(reading.T, Math.floor(span));
    for (let bin = 0; bin < bins; bin++) {
      const [from, to] = [Math.floor((bin * reading.T) / bins), Math.floor(((bin + 1) * reading.T) / bins)];
      let most = 0;
      for (let t = from; t < to; t++) if (values[t] > most) most = values[t];
      const h = most && Math.max(2, most * (HEIGHT - 6));
      ctx.fillRect(x(from), HEIGHT - 4 - h, Math.max(1, x(to) - x(from) - gap), h);
    }
  }

  canvas.addEventListener("pointerdown", (event) => {
    store.visit(Math.floor(((event.offsetX - INSET) / (width - 2 * INSET)) * reading.T));
    slider.focus();
  });

  return {
    element, canvas, toggle, stop, draw,
    update() {
      const { token } = store.state;
      slider.max = reading.T - 1;
      slider.value = token;
      const name = reading.name.part(token);
      slider.setAttribute("aria-valuetext", `token ${whole(token)}: ${name.text ?? name}`);
      place.textContent = `token ${whole(token)} of ${whole(reading.T)}`;
      draw();
    },
    /** What the strip shows: a value in 0..1 for each token, or null. */
    show(tints) {
      values = tints;
      draw();
    },
    mark(tokens) {
      found = tokens;
      draw();
    },
    resize(w) {
      width = w;
      draw();
    },
  };
}
