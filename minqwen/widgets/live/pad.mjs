// A square to draw in, which is sent to the model as a picture of 64 x 64 pixels.

import { node } from "../shared/look.mjs";

export const SIDE = 64; // pixels of the picture; two by two tokens
const SHOWN = 192; // pixels on the page
const INKS = { black: "#141414", red: "#d71e23", green: "#1e963c", blue: "#2346d2", orange: "#f58c14" };

export class Pad {
  constructor() {
    this.canvas = node("canvas", { width: SIDE, height: SIDE, class: "pad", tabindex: 0,
      role: "img", "aria-label": "A square to draw in with a pointer" });
    this.canvas.style.width = this.canvas.style.height = `${SHOWN}px`;
    this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
    this.ink = node("select", { "aria-label": "Colour" },
      Object.keys(INKS).map((name) => node("option", {}, name)));
    const file = node("input", { type: "file", accept: "image/*", class: "unseen" });
    file.addEventListener("change", () => this.load(file.files[0]));
    this.root = node("div", { class: "pad-box" }, this.canvas,
      node("div", { class: "bar" }, this.ink,
        node("button", { type: "button", onclick: () => this.clear() }, "Clear"),
        node("label", { class: "pick" }, "Take a file", file)));
    const at = ({ offsetX, offsetY }) => [offsetX * (SIDE / SHOWN), offsetY * (SIDE / SHOWN)];
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.line(at(event), at(event));
      this.last = at(event);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!event.buttons || !this.last) return;
      this.line(this.last, at(event));
      this.last = at(event);
    });
    this.clear();
  }

  line([x, y], [toX, toY]) {
    Object.assign(this.pen, { strokeStyle: INKS[this.ink.value], lineWidth: 6, lineCap: "round" });
    this.pen.beginPath();
    this.pen.moveTo(x, y);
    this.pen.lineTo(toX, toY);
    this.pen.stroke();
    this.empty = false;
  }

  clear() {
    this.pen.fillStyle = "#ffffff";
    this.pen.fillRect(0, 0, SIDE, SIDE);
    this.empty = true;
  }

  /** A picture file, fitted into the square by the browser. */
  async load(file) {
    const picture = await createImageBitmap(file);
    const scale = SIDE / Math.max(picture.width, picture.height);
    const [width, height] = [picture.width * scale, picture.height * scale];
    this.clear();
    this.pen.drawImage(picture, (SIDE - width) / 2, (SIDE - height) / 2, width, height);
    this.empty = false;
  }

  /** The picture as `answer` takes it. */
  pixels() {
    const { data } = this.pen.getImageData(0, 0, SIDE, SIDE);
    return { width: SIDE, height: SIDE, data: new Uint8Array(data) };
  }

  /** A small copy to stand in the conversation. */
  copy() {
    const canvas = node("canvas", { width: SIDE, height: SIDE, role: "img", "aria-label": "a picture" });
    canvas.getContext("2d").drawImage(this.canvas, 0, 0);
    return canvas;
  }
}
