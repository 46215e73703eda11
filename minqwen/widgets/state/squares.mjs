// Maps of token by token, and the overview of all heads, on canvas.

import { brief, empty, image, text } from "./draw.mjs";

const LEFT = 48; // a margin with room for 0.0512

/**
 * A Square of numbers: tokens to the right ("now"), tokens asked about downwards, with
 * the column of the present token beside it and the row of the probe below it.
 * data: {square, token, probe, column, rows, top}; column: numbers of the window's
 * tokens; rows: [{values from the probe on, dash, colour}]; top: the full scale; what goes
 * beyond it ends in a point or a tick.
 */
export function drawSquare(canvas, width, data, colours) {
  const { square, token, probe, top } = data;
  const { from, side } = square;
  const [left, aside, below] = [LEFT, 74, 64];
  const space = Math.min(width - left - aside - 4, 400);
  const cell = space < 3 * side ? space / side : Math.min(24, Math.floor(space / side));
  const heat = { x: left, y: 16, w: cell * side, h: cell * side };
  const height = heat.y + heat.h + 22 + below;
  const context = empty(canvas, width, height, colours);
  const picture = image(square.values, side, side, top, colours);
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, heat.x, heat.y, heat.w, heat.h);
  const place = { cell, heat, height, from, side };
  drawAxes(context, place, colours);
  drawAside(context, place, data, colours);
  drawBelow(context, place, data, colours);
  drawCross(context, place, token, probe, colours);
  return place;
}

function drawAxes(context, { cell, heat, from, side }, colours) {
  context.strokeStyle = colours.line;
  context.lineWidth = 1;
  context.strokeRect(heat.x - 0.5, heat.y - 0.5, heat.w + 1, heat.h + 1);
  const every = [1, 2, 5, 10, 20, 50].find((n) => n * cell >= 34) ?? 100;
  for (let n = Math.ceil(from / every) * every; n < from + side; n += every) {
    const at = (n - from + 0.5) * cell;
    text(context, n, heat.x + at, heat.y + heat.h + 9, colours.muted, "center");
    text(context, n, heat.x - 5, heat.y + at, colours.muted, "right");
  }
  text(context, "↓ this token", heat.x, heat.y - 8, colours.muted);
  if (heat.w > 150) text(context, "now →", heat.x + heat.w, heat.y - 8, colours.muted, "right");
}

/** Zero's place and a unit's length on an axis that shows up to `top` and what is below. */
function axis(length, values, top) {
  let least = -top / 3;
  for (const x of values) if (x < least) least = Math.max(x, -top);
  const unit = length / (top - least);
  const fit = (x) => Math.max(least, Math.min(top, x || 0));
  return { zero: -least * unit, unit, fit, beyond: (x) => Math.abs(x) > top };
}

/** The column of the present token: a bar for each token asked about. */
function drawAside(context, { cell, heat, from, side }, { column, top, token }, colours) {
  const [x, wide] = [heat.x + heat.w + 10, 62];
  const { zero, unit, fit, beyond } = axis(wide, column, top);
  context.fillStyle = colours.edge;
  context.fillRect(Math.round(x + zero), heat.y, 1, heat.h);
  for (let j = from; j <= Math.min(token, from + side - 1); j++) {
    const value = fit(column[j - from]);
    context.fillStyle = value < 0 ? colours.second : colours.first;
    const [y, gap] = [heat.y + (j - from) * cell, cell > 3 ? 1 : 0];
    const start = x + zero + Math.min(0, value * unit);
    context.fillRect(start, y, Math.abs(value) * unit, Math.max(1, cell - gap));
    if (!beyond(column[j - from])) continue;
    context.fillStyle = colours.ink; // the bar goes on
    context.fillRect(value < 0 ? start - 2 : start + value * unit - 1, y, 3, Math.max(1, cell - gap));
  }
  text(context, "at now", x, heat.y - 8, colours.muted);
  text(context, "0", x + zero - 3, heat.y + heat.h + 9, colours.muted);
  text(context, brief(top), x + wide, heat.y + heat.h + 9, colours.muted, "right");
}

/** The row of the probe: lines over the tokens since it was written. */
function drawBelow(context, { cell, heat, from, side }, { rows, top, probe }, colours) {
  const [y, high] = [heat.y + heat.h + 24, 54];
  const { zero, unit, fit, beyond } = axis(high, rows.flatMap(({ values }) => [...values]), top);
  const ground = y + high - zero;
  context.fillStyle = colours.edge;
  context.fillRect(heat.x, Math.round(ground), heat.w, 1);
  for (const { values, dash = [], colour = "first" } of rows) {
    context.strokeStyle = colours[colour];
    context.lineWidth = dash.length ? 1.5 : 2;
    context.setLineDash(dash);
    context.fillStyle = colours.ink;
    context.beginPath();
    for (let t = Math.max(from, probe); t < from + side; t++) {
      if (!(t - probe in values) || Number.isNaN(values[t - probe])) continue; // not yet there
      const [right, up] = [heat.x + (t - from + 0.5) * cell, fit(values[t - probe]) * unit];
      context.lineTo(right, ground - up);
      if (beyond(values[t - probe])) context.fillRect(right - cell / 2, ground - up - 3, cell, 2);
    }
    context.stroke();
  }
  context.setLineDash([]);
  text(context, brief(top), heat.x - 5, y, colours.muted, "right");
  text(context, "0", heat.x - 5, ground, colours.muted, "right");
}

/** Lines through the present token and the probe. */
function drawCross(context, { cell, heat, from, side }, token, probe, colours) {
  context.strokeStyle = colours.accent;
  context.lineWidth = 1;
  const [x, y] = [heat.x, heat.y].map((at, i) => at + ([token, probe][i] - from + 0.5) * cell);
  context.beginPath();
  line(context, x, heat.y, x, heat.y + heat.h + 80);
  if (probe >= from && probe < from + side) line(context, heat.x, y, heat.x + heat.w + 72, y);
  context.stroke();
}

function line(context, x, y, toX, toY) {
  context.moveTo(x, y);
  context.lineTo(toX, toY);
}

/**
 * Every head by its half-life (to the right, logarithmic) and its state's mean norm
 * (upwards). Full dots can be opened, rings are known by these two numbers alone.
 */
export function drawHeads(canvas, width, { heads, selected, height }, colours) {
  const box = { x: LEFT, y: 14, w: width - LEFT - 26, h: height - 52 };
  const context = empty(canvas, width, height, colours);
  const top = Math.max(...heads.map(({ norm }) => norm)) * 1.08 || 1;
  const decades = heads.map(({ halfLife }) => decade(halfLife));
  const [low, high] = [Math.floor(Math.min(...decades)), Math.ceil(Math.max(...decades) + 0.01)];
  const across = (life) => box.x + ((decade(life) - low) / (high - low)) * box.w;
  context.strokeStyle = colours.line;
  context.lineWidth = 1;
  context.strokeRect(box.x - 0.5, box.y - 0.5, box.w + 1, box.h + 1);
  for (let n = low; n <= high; n++) {
    const life = 10 ** n;
    context.fillStyle = colours.line;
    context.fillRect(Math.round(across(life)), box.y, 1, box.h);
    const words = life.toLocaleString("en");
    text(context, words, across(life), box.y + box.h + 10, colours.muted, "center");
  }
  text(context, "half-life in tokens", box.x + box.w / 2, height - 10, colours.muted, "center");
  text(context, brief(top), box.x - 5, box.y + 4, colours.muted, "right");
  text(context, "0", box.x - 5, box.y + box.h, colours.muted, "right");
  text(context, "norm", 2, box.y + box.h / 2, colours.muted);
  const dots = heads.map(({ halfLife, norm }) => [across(halfLife), box.y + box.h * (1 - norm / top)]);
  heads.forEach(({ recorded }, n) => drawDot(context, dots[n], recorded, n === selected, colours));
  if (selected >= 0) {
    const [[x, y], { layer, head }] = [dots[selected], heads[selected]];
    const [by, align] = x > box.x + box.w - 70 ? [-11, "right"] : [11, "left"];
    text(context, `layer ${layer}, head ${head}`, x + by, y, colours.ink, align);
  }
  return { height, dots };
}

/** Powers of ten, from a hundredth of a token to a million. */
const decade = (life) => Math.log10(Math.max(0.01, Math.min(1e6, life)));

function drawDot(context, [x, y], full, selected, colours) {
  context.beginPath();
  context.arc(x, y, selected ? 6 : 4, 0, 2 * Math.PI);
  context.strokeStyle = full ? colours.first : colours.edge;
  context.fillStyle = selected ? colours.accent : colours.first;
  context.globalAlpha = selected ? 1 : 0.65;
  context.lineWidth = 1.5;
  if (full) context.fill();
  else context.stroke();
  context.globalAlpha = 1;
}
