// The map's picture: layers as rows, experts as columns, a lit cell where one is chosen.
import { pixel, rampColour } from "../shared/look.mjs";

const LEFT = 44; // layer numbers
const TOP = 34; // the axes' names, and expert numbers
const SIDE = 74; // one column of bars, of which
const BAR = 34; // is a full bar; its number stands beside it
const SHADES = 48;
const LEVELS = 32; // of how much of a cell only one trace chose
const KINDS = 16; // more than there are kinds of token
const MANY = 3000; // cells

/** How much rows grow when columns are `zoom` times as wide: a `row` of up to 26 pixels. */
export const rowZoom = (zoom, row) => Math.min(zoom, Math.max(1, 26 / row));

/**
 * Where things are, in CSS pixels, for a canvas `width` wide. `view` is { zoom, x, y }:
 * zoom 1 shows all experts; x and y are the shares of columns and rows left of and above
 * what is seen. `sides`: how many columns of bars; `halves`: whether rows are split.
 */
export function geometry({ width, L, E, view, sides, halves, scale = 1 }) {
  const right = width >= 560 ? sides * SIDE : 0;
  const [least, most, high] = right ? [6, 40, 400] : [5, 24, 300]; // small where it is narrow
  const row = Math.min(most, Math.max(halves ? 7 : least, Math.floor(high / L)));
  const plot = { x: LEFT, y: TOP, w: width - LEFT - right - 2, h: L * row };
  const cw = (plot.w / E) * view.zoom;
  const ch = row * rowZoom(view.zoom, row);
  const snap = (v) => Math.round(v * scale) / scale;
  const left = (column) => snap(plot.x + (column - view.x * E) * cw);
  const top = (layer) => snap(plot.y + (layer - view.y * L) * ch);
  const gap = (size) => (size >= 5 ? 1 : 0);
  return {
    width, height: TOP + plot.h + 4, plot, row, cw, ch, right, L, E, halves, scale,
    visibleColumns: plot.w / cw,
    visibleRows: plot.h / ch,
    columnAt: (x) => Math.floor((x - plot.x) / cw + view.x * E),
    layerAt: (y) => Math.floor((y - plot.y) / ch + view.y * L),
    top,
    left,
    /** A cell's rectangle; `half` 1 or 2 is its upper or lower half. */
    box(column, layer, half = 0) {
      const [x, y] = [left(column), top(layer)];
      const w = Math.max(2, left(column + 1) - x - gap(cw)); // less is not seen
      const h = Math.max(1, top(layer + 1) - y - gap(ch));
      if (!half) return { x, y, w, h };
      const middle = snap(h / 2);
      return half === 1 ? { x, y, w, h: middle } : { x, y: y + middle, w, h: h - middle };
    },
  };
}

/** The view held inside the map: nothing beyond its edges is ever shown. */
export function clampView({ zoom, x, y }, { E, row }) {
  const z = Math.min(Math.max(1, E / 8), Math.max(1, zoom));
  const hold = (v, seen) => Math.min(Math.max(0, v), 1 - seen);
  return { zoom: z, x: hold(x, 1 / z), y: hold(y, 1 / rowZoom(z, row)) };
}

/** The colours from faint to strong: grey where two traces agree, so that others stand out. */
export function shades(theme, comparing) {
  return comparing ? [0.25, 1].map((x) => rampColour([theme.paper, theme.ink], x)) : theme.ramp;
}

/** The colours from none to all of a cell that only trace `half` (1 or 2) chose. */
export function differShades(theme, half, shade = 1) {
  const own = half === 1 ? theme.first : theme.second;
  return [rampColour(shades(theme, true), shade), rampColour([theme.paper, own], 0.5 + shade / 2)];
}

/** A lit cell's colour in a theme, (half, level of LEVELS, step of SHADES, kind) -> style. */
export function palette(theme, comparing) {
  const own = shades(theme, comparing);
  return (half, level, step, kind) => {
    const shade = step / (SHADES - 1);
    if (kind !== null) return rampColour([theme.paper, theme.kinds[kind]], shade);
    return level ? rampColour(differShades(theme, half, shade), level / LEVELS) : rampColour(own, shade);
  };
}

/**
 * Draws the map. scene: { g, theme, palette, styles (a Map, to keep what palette gave), cells,
 * found, columnOf, columns, axis, full, font, layer, marked: {layer, expert} or null, pointed:
 * the same }, and `lit`: a canvas on which drawLit has drawn this already, if there is one.
 */
export function drawMap(ctx, scene) {
  const { g, theme } = scene;
  ctx.fillStyle = theme.paper;
  ctx.fillRect(0, 0, g.width, g.height);
  ctx.save();
  if (scene.lit) {
    ctx.setTransform(1, 0, 0, 1, 0, 0); // pixel by pixel
    ctx.drawImage(scene.lit, 0, 0);
    ctx.setTransform(g.scale, 0, 0, g.scale, 0, 0);
    clip(ctx, g);
  } else drawLit(ctx, scene);
  drawFound(ctx, scene);
  ctx.restore();
  drawRings(ctx, scene);
  drawLayers(ctx, scene);
  drawExperts(ctx, scene);
  if (g.right) drawBars(ctx, scene);
}

function clip(ctx, { plot: { x, y, w, h } }) {
  ctx.beginPath();
  ctx.rect(x, y, w, h);
  ctx.clip();
}

/** The cells, lit and not: all of the map that a pointer on it does not change. */
export function drawLit(ctx, scene) {
  clip(ctx, scene.g);
  const many = scene.cells.length > MANY && ctx.createImageData;
  if (many) paintCells(ctx, scene);
  ctx.globalCompositeOperation = many ? "destination-over" : "source-over";
  drawGround(ctx, scene);
  ctx.globalCompositeOperation = "source-over";
  if (!many) eachCell(scene, (style, x, y, w, h) => {
    ctx.fillStyle = style;
    ctx.fillRect(x, y, w, h);
  });
}

/** Empty cells where they are large enough to be seen, else a band for each row. */
function drawGround(ctx, { g, theme }) {
  ctx.fillStyle = theme.panel;
  const first = Math.max(0, g.columnAt(g.plot.x));
  const last = Math.min(g.E - 1, g.columnAt(g.plot.x + g.plot.w));
  for (let layer = 0; layer < g.L; layer++) {
    const { y, h } = g.box(0, layer);
    if (y + h < g.plot.y || y > g.plot.y + g.plot.h) continue;
    if (g.cw < 5) {
      ctx.fillRect(g.plot.x, y, g.plot.w, h);
      continue;
    }
    for (let column = first; column <= last; column++) {
      const { x, w } = g.box(column, layer);
      ctx.fillRect(x, y, w, h);
    }
  }
}

/** Calls paint(style, x, y, w, h) for each lit cell in sight; faint ones first, so that
 * where cells share a pixel the brightest is seen. */
function eachCell({ g, palette, styles, cells, columnOf }, paint) {
  const steps = Array.from({ length: SHADES }, () => []);
  for (const cell of cells) steps[Math.round(cell.shade * (SHADES - 1))].push(cell);
  steps.forEach((same, step) => {
    for (const { layer, expert, half, differs, kind } of same) {
      const level = Math.round(differs * LEVELS);
      const key = ((step * (LEVELS + 1) + level) * 3 + half) * KINDS + (kind ?? KINDS - 1);
      if (!styles.has(key)) styles.set(key, palette(half, level, step, kind));
      const { x, y, w, h } = g.box(columnOf[layer * g.E + expert], layer, half);
      if (x + w > g.plot.x && x < g.plot.x + g.plot.w) paint(styles.get(key), x, y, w, h);
    }
  });
}

/** Many cells are written pixel by pixel, in a tenth of the time of as many rectangles. */
function paintCells(ctx, scene) {
  const { plot, scale } = scene.g;
  const [left, top, width, height] = [plot.x, plot.y, plot.w, plot.h].map((v) => Math.round(v * scale));
  const image = ctx.createImageData(width, height);
  const words = new Uint32Array(image.data.buffer);
  const values = new Map(); // a style's pixel
  eachCell(scene, (style, x, y, w, h) => {
    if (!values.has(style)) values.set(style, pixel(style));
    const value = values.get(style);
    const from = Math.max(0, Math.round(x * scale) - left);
    const to = Math.min(width, Math.round((x + w) * scale) - left);
    const end = Math.min(height, Math.round((y + h) * scale) - top);
    for (let row = Math.max(0, Math.round(y * scale) - top); row < end; row++)
      for (let at = row * width + from; at < row * width + to; at++) words[at] = value;
  });
  ctx.putImageData(image, left, top);
}

/** An outline around the cells that a search marks, or a line under small ones. */
function drawFound(ctx, { g, theme, columnOf, found }) {
  ctx.fillStyle = ctx.strokeStyle = theme.ink;
  ctx.lineWidth = 2;
  for (const { layer, expert } of found) {
    const { x, y, w, h } = g.box(columnOf[layer * g.E + expert], layer);
    if (Math.min(w, h) >= 8) ctx.strokeRect(x + 1, y + 1, w - 2, h - 2);
    else ctx.fillRect(x, y + h - 2, w, 2);
  }
}

function print(ctx, words, x, y, colour, align = "left") {
  [ctx.fillStyle, ctx.textAlign, ctx.textBaseline] = [colour, align, "middle"];
  ctx.fillText(words, x, y);
}

/** The row in focus, the expert in focus, and the cell under the pointer. */
function drawRings(ctx, { g, theme, columnOf, layer, marked, pointed }) {
  const inside = (y) => y >= g.plot.y - 1 && y <= g.plot.y + g.plot.h + 1;
  ctx.strokeStyle = theme.accent;
  if (layer !== null && inside(g.top(layer)) && inside(g.top(layer + 1))) {
    ctx.lineWidth = 1;
    // In the gaps between rows, so that no cell is covered.
    const [y, end] = [g.top(layer) - 0.5, g.top(layer + 1) - 0.5];
    ctx.strokeRect(g.plot.x - 0.5, y, g.plot.w + 1, end - y);
  }
  for (const [cell, width] of [[pointed, 1.5], [marked, 2.5]]) {
    if (!cell) continue;
    const { x, y, w, h } = g.box(columnOf[cell.layer * g.E + cell.expert], cell.layer);
    if (x + w < g.plot.x || x > g.plot.x + g.plot.w || !inside(y)) continue;
    ctx.lineWidth = width;
    // A cell of two pixels needs a ring around it, not on it.
    const room = Math.max(3, (11 - Math.min(w, h)) / 2);
    if (Math.min(w, h) < 9) {
      ctx.beginPath();
      ctx.arc(x + w / 2, y + h / 2, Math.max(w, h) / 2 + room, 0, 2 * Math.PI);
      ctx.stroke();
    } else ctx.strokeRect(x - 1.5, y - 1.5, w + 3, h + 3);
  }
}

function drawLayers(ctx, scene) {
  const { g, theme, full, layer: focus } = scene;
  ctx.font = `${Math.min(11, Math.max(9, g.ch))}px ${scene.font}`;
  const every = [1, 2, 5, 10, 20, 50].find((n) => n * g.ch >= 12) ?? 100;
  for (let layer = 0; layer < g.L; layer++) {
    const middle = (g.top(layer) + g.top(layer + 1)) / 2;
    if (middle < g.plot.y || middle > g.plot.y + g.plot.h) continue;
    if (full[layer]) {
      ctx.fillStyle = theme.muted;
      ctx.fillRect(g.plot.x - 8, g.top(layer), 4, Math.max(2, g.ch - 1));
    }
    const near = focus !== null && Math.abs(layer - focus) * g.ch < 10;
    if (layer !== focus && (layer % every || near)) continue;
    print(ctx, layer, g.plot.x - 13, middle, layer === focus ? theme.accent : theme.muted, "right");
  }
}

function drawExperts(ctx, scene) {
  const { g, theme, axis } = scene;
  ctx.font = `11px ${scene.font}`;
  const y = g.plot.y - 9;
  print(ctx, "layer ↓", 0, y, theme.muted);
  print(ctx, "expert →", g.plot.x, y - 15, theme.muted);
  if (axis) {
    print(ctx, axis[0], g.plot.x, y, theme.muted);
    print(ctx, axis[1], g.plot.x + g.plot.w, y, theme.muted, "right");
    return;
  }
  const every = [1, 2, 4, 8, 16, 32, 64, 128, 256].find((n) => n * g.cw >= 34) ?? 512;
  const first = Math.ceil(Math.max(0, g.columnAt(g.plot.x)) / every) * every;
  for (let e = first; e < g.E; e += every) {
    const x = g.left(e) + g.cw / 2;
    if (x > g.plot.x + g.plot.w - 8) break;
    print(ctx, e, Math.max(x, g.plot.x + 3), y, theme.muted, "center");
  }
}

/** One number for each layer and column: a bar on its scale, and in print where it fits. */
function drawBars(ctx, scene) {
  const { g, theme, columns, layer: focus } = scene;
  columns.forEach(({ title, values, top, label }, i) => {
    const x = g.plot.x + g.plot.w + i * SIDE + 10;
    ctx.font = `11px ${scene.font}`;
    print(ctx, title, x, g.plot.y - 24, theme.muted);
    ctx.font = `10px ${scene.font}`;
    const beyond = values.some((value) => value > top);
    print(ctx, `0 to ${label(top)}${beyond ? " ▸" : ""}`, x, g.plot.y - 9, theme.muted);
    for (let layer = 0; layer < g.L; layer++) {
      const { y, h } = g.box(0, layer);
      if (y < g.plot.y - 1 || y + h > g.plot.y + g.plot.h + 2) continue;
      ctx.fillStyle = theme.panel;
      ctx.fillRect(x, y, BAR, h);
      ctx.fillStyle = theme.edge;
      ctx.fillRect(x, y, BAR * Math.min(1, Math.max(0, values[layer] / top)), h);
      if (values[layer] > top) drawBeyond(ctx, x + BAR, y, h, theme);
      if (h < 9 && (layer !== focus || g.row < 6)) continue;
      const colour = layer === focus ? theme.accent : theme.muted;
      print(ctx, label(values[layer]), x + BAR + 5, y + h / 2, colour);
    }
  });
}

/** The end of a bar that goes on: a point, so that it is not taken for a full one. */
function drawBeyond(ctx, x, y, h, theme) {
  ctx.fillStyle = theme.ink;
  ctx.beginPath();
  ctx.moveTo(x - 4, y);
  ctx.lineTo(x, y + h / 2);
  ctx.lineTo(x - 4, y + h);
  ctx.fill();
}
