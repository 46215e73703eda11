// What is shown, as files: a canvas as PNG, the same drawing as SVG, its numbers as CSV.
import { node, visible } from "./look.mjs";

const round = (x) => +x.toFixed(2);
const SIGNS = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const escaped = (text) => visible(String(text)).replace(/[&<>"]/g, (sign) => SIGNS[sign]);
const box = (x, y, w, h) => `M${round(x)} ${round(y)}h${round(w)}v${round(h)}h${round(-w)}z`;
const ruler = document.createElement("canvas").getContext("2d");
const STYLE = [
  "fillStyle", "strokeStyle", "lineWidth", "font", "textAlign", "textBaseline", "globalAlpha", "clipped", "dash",
];

/** Stands in for a canvas' context, and writes down the calls that the views make. */
class Drawing {
  constructor() {
    Object.assign(this, { fillStyle: "#000", strokeStyle: "#000", lineWidth: 1, font: "10px sans-serif" });
    Object.assign(this, { textAlign: "left", textBaseline: "alphabetic", globalAlpha: 1, clipped: "", dash: "" });
    Object.assign(this, { parts: [], kept: [], path: "", clips: 0 });
  }

  begin(width, height) {
    Object.assign(this, { width, height, parts: [] });
    return this;
  }

  text() {
    const size = `width="${this.width}" height="${this.height}" viewBox="0 0 ${this.width} ${this.height}"`;
    const parts = this.parts.map(({ head, d }) => (d ? `${head} d="${d}"/>` : head));
    return `<svg xmlns="http://www.w3.org/2000/svg" ${size}>\n${parts.join("\n")}\n</svg>\n`;
  }

  /** Adds a path; one that looks like the last becomes part of it. */
  draw(d, look) {
    const dash = this.dash && ` stroke-dasharray="${this.dash}"`;
    const head = `<path ${look} opacity="${round(this.globalAlpha)}"${dash}${this.clipped}`;
    const last = this.parts.at(-1);
    if (last?.head === head) last.d += d;
    else this.parts.push({ head, d });
  }

  fillRect(x, y, w, h) {
    if (w > 0 && h > 0) this.draw(box(x, y, w, h), `fill="${escaped(this.fillStyle)}"`);
  }

  strokeRect(x, y, w, h) {
    this.path = box(x, y, w, h);
    this.stroke();
  }

  fillText(words, x, y) {
    const anchor = { center: "middle", right: "end" }[this.textAlign] ?? "start";
    const down = this.textBaseline === "middle" ? "central" : "auto";
    const style = `style="font: ${escaped(this.font)}; white-space: pre" fill="${escaped(this.fillStyle)}"`;
    const place = `x="${round(x)}" y="${round(y)}" text-anchor="${anchor}" dominant-baseline="${down}"`;
    this.parts.push({ head: `<text ${place} ${style}${this.clipped}>${escaped(words)}</text>` });
  }

  drawImage(image, x, y, w = image.width, h = image.height) {
    const place = `x="${x}" y="${y}" width="${w}" height="${h}" preserveAspectRatio="none"`;
    const style = 'style="image-rendering: pixelated"';
    this.parts.push({ head: `<image ${place} ${style} href="${image.toDataURL()}"${this.clipped}/>` });
  }

  measureText(words) {
    ruler.font = this.font;
    return ruler.measureText(words);
  }

  beginPath() { this.path = ""; }
  moveTo(x, y) { this.path += `M${round(x)} ${round(y)}`; }
  lineTo(x, y) { this.path += `${this.path ? "L" : "M"}${round(x)} ${round(y)}`; }
  rect(x, y, w, h) { this.path += box(x, y, w, h); }
  /** A whole circle: the views draw no other arc. */
  arc(x, y, r) {
    const half = (way) => `a${round(r)} ${round(r)} 0 1 0 ${round(2 * r * way)} 0`;
    this.path += `M${round(x - r)} ${round(y)}${half(1)}${half(-1)}z`;
  }
  fill() { this.draw(this.path, `fill="${escaped(this.fillStyle)}"`); }
  stroke() {
    this.draw(this.path, `fill="none" stroke="${escaped(this.strokeStyle)}" stroke-width="${this.lineWidth}"`);
  }
  clip() {
    this.parts.push({ head: `<clipPath id="c${++this.clips}"><path d="${this.path}"/></clipPath>` });
    this.clipped = ` clip-path="url(#c${this.clips})"`;
  }
  setLineDash(lengths) { this.dash = lengths.join(" "); }
  save() { this.kept.push(STYLE.map((name) => this[name])); }
  restore() { this.kept.pop().forEach((value, i) => (this[STYLE[i]] = value)); }
  setTransform() {} // a canvas' pixels are none of a drawing's
}

/** The SVG of what `redraw` draws on a canvas by way of sizeCanvas. */
export function svgOf(canvas, redraw) {
  canvas.drawing = new Drawing();
  redraw();
  const text = canvas.drawing.text();
  delete canvas.drawing;
  return text;
}

/** A menu that saves: pictures() lists [name, canvas], redraw() draws them all, and numbers(),
 * if given, returns the CSV's rows. */
export function saveMenu(pictures, redraw, numbers = null) {
  const says = node("span", { class: "muted", role: "status" });
  function save(name, data, type) {
    const link = node("a", { download: name, href: URL.createObjectURL(new Blob([data], { type })) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
  const csv = () => numbers().map((row) => row.join(",")).join("\n") + "\n";
  const button = (text, run) => node("button", { onclick: run }, text);
  const buttons = node("div", { class: "bar" });
  const menu = node("details", { class: "save" }, node("summary", {}, "Save or copy"), buttons);
  menu.addEventListener("toggle", () => buttons.replaceChildren(
    ...pictures().flatMap(([name, canvas]) => [
      button(`${name}, PNG`, () => canvas.toBlob((data) => save(`${name}.png`, data, "image/png"))),
      button(`${name}, SVG`, () => save(`${name}.svg`, svgOf(canvas, redraw), "image/svg+xml")),
    ]),
    ...(numbers ? [
      button("numbers, CSV", () => save("experts.csv", csv(), "text/csv")),
      button("copy numbers", () => navigator.clipboard.writeText(csv()).then(
        () => (says.textContent = "Copied."), () => (says.textContent = "The browser did not allow it."))),
    ] : []), says));
  return menu;
}
