// Text with its pictures: pixels on a canvas, and over them an element for each patch.
import { node } from "./look.mjs";

export const PICTURE_CSS = `
.picture {
  display: inline-grid; position: relative; vertical-align: middle; margin: 2px 4px;
  gap: 0; white-space: normal; border: 1px solid var(--edge);
}
.picture canvas {
  position: absolute; inset: 0; width: 100%; height: 100%; image-rendering: pixelated;
}
.patch {
  position: relative; padding: 0; border-radius: 0;
  box-shadow: inset 0 0 0 0.5px var(--edge);
}
`;

const WIDTH = 300; // pixels across

/** Tokens [from, to) as elements, with the pictures that are whole among them in their
 * places: token(t) and patch(t) make a token's element. */
export function textParts(trace, from, to, token, patch) {
  const { pictures = [] } = trace.meta;
  const parts = [];
  for (let t = from; t < to;) {
    const i = pictures.findIndex((p) => p.start === t && t + p.rows * p.columns <= to);
    parts.push(i < 0 ? token(t) : pictureOf(trace, i, patch));
    t += i < 0 ? 1 : pictures[i].rows * pictures[i].columns;
  }
  return parts;
}

function pictureOf(trace, i, patch) {
  const { kind, start, rows, columns, name = `picture.${i}` } = trace.meta.pictures[i];
  const side = Math.max(10, Math.min(34, Math.floor(WIDTH / columns)));
  const canvas = paintPixels(trace.tensor(name));
  const patches = Array.from({ length: rows * columns }, (_, p) => patch(start + p));
  const label = `${kind}, ${rows} rows and ${columns} columns of patches`;
  const group = node("span", { class: "picture", role: "group", "aria-label": label }, canvas, patches);
  Object.assign(group.style, {
    gridTemplateColumns: `repeat(${columns}, ${side}px)`,
    gridAutoRows: `${side}px`,
  });
  return group;
}

function paintPixels({ shape: [height, width], data }) {
  const canvas = node("canvas", { width, height, "aria-hidden": "true" });
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    image.data.set(data.subarray(3 * i, 3 * i + 3), 4 * i);
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
