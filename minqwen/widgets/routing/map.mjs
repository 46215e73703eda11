// The map as something to point at: a canvas, its zoom, and what lies under the pointer.
import { node, sizeCanvas } from "../shared/look.mjs";
import { clampView, drawLit, drawMap, geometry, palette, rowZoom } from "./draw.mjs";
import { kindOf } from "./reading.mjs";

const REACH = 14; // pixels from the pointer to a lit cell that it snaps to
const AXES = {
  "by load": ["chosen most in its layer", "least"],
  "by specialisation": ["by the kind of token they read most", "no kind"],
};

/**
 * `look` is a frame of shared/look.mjs; `store` the selection; `hint(place, x, y)` is told
 * what the pointer is at, or null. Returns { canvas, update(), draw(), ... }.
 */
export function createMap({ reading, store, look, hint }) {
  const { L, E } = reading;
  const full = reading.trace.layerTypes.map((kind) => kind === "full_attention");
  const canvas = node("canvas", {
    class: "map", tabindex: "0", role: "application",
    "aria-roledescription": "map of layers and experts", "aria-describedby": "keys",
    "aria-label": `Map of ${L} layers and ${E} experts`,
  });
  let view = { zoom: 1, x: 0, y: 0 };
  let [cells, columns, g, pointed, colours] = [[], [], null, null, null];
  let [width, comparing] = [0, false];
  const lit = document.createElement("canvas"); // the cells alone, drawn when they change
  let found = []; // cells that a search marks
  let isLit = new Uint8Array(L * E);

  const columnOf = () => reading.order(store.state.order).columnOf;
  const expertAt = () => reading.order(store.state.order).expertAt;

  function draw() {
    if (!width) return;
    const theme = look.colours();
    if (colours?.theme !== theme || colours.comparing !== comparing)
      colours = {
        theme, comparing, palette: palette(theme, comparing), styles: new Map(),
        font: getComputedStyle(canvas).fontFamily,
      };
    const scale = window.devicePixelRatio || 1;
    const halves = Boolean(reading.other);
    g = geometry({ width, L, E, view, sides: columns.length, halves, scale });
    const ctx = sizeCanvas(canvas, g.width, g.height);
    const { layer, expert, selected, order } = store.state;
    const scene = { g, ...colours, cells, columnOf: columnOf() };
    const drawn = [cells, colours, columns.length, order, width, scale, view];
    if (!canvas.drawing && drawn.some((value, i) => value !== lit.drawn?.[i])) {
      const under = sizeCanvas(lit, g.width, g.height);
      under.clearRect(0, 0, g.width, g.height);
      under.save();
      drawLit(under, scene);
      under.restore();
      lit.drawn = drawn;
    }
    drawMap(ctx, {
      ...scene,
      lit: canvas.drawing ? null : lit,
      columns, found, full, pointed, axis: AXES[order],
      layer: kindOf(selected) === "all" && expert === null ? null : layer,
      marked: expert === null ? null : { layer, expert },
    });
  }

  /** Where zooming in should lead without a pointer: to the cell in focus, if it is seen. */
  function centre() {
    const { plot } = g;
    const { layer, expert } = store.state;
    if (expert !== null) {
      const { x, y, w, h } = g.box(columnOf()[layer * E + expert], layer);
      const inside = x >= plot.x && y >= plot.y && x < plot.x + plot.w && y < plot.y + plot.h;
      if (inside) return [x + w / 2, y + h / 2];
    }
    return [plot.x + plot.w / 2, plot.y + plot.h / 2];
  }

  /** Zooms by `factor`, keeping what is at (x, y) of the canvas where it is. */
  function zoomAt(factor, x = centre()[0], y = centre()[1]) {
    const before = {
      column: (x - g.plot.x) / g.cw + view.x * E,
      layer: (y - g.plot.y) / g.ch + view.y * L,
    };
    const { zoom } = clampView({ ...view, zoom: view.zoom * factor }, g);
    const [cw, ch] = [(g.plot.w / E) * zoom, g.row * rowZoom(zoom, g.row)];
    move({
      zoom,
      x: (before.column - (x - g.plot.x) / cw) / E,
      y: (before.layer - (y - g.plot.y) / ch) / L,
    });
  }

  function move(next) {
    view = clampView(next, g);
    draw();
  }

  /** Brings the cell the keyboard is at into sight. */
  function reveal() {
    if (!g || view.zoom === 1) return;
    const { layer, expert } = store.state;
    const column = expert === null ? null : columnOf()[layer * E + expert];
    const into = (start, seen, at, n) =>
      at === null || (at >= start * n && at + 1 <= start * n + seen)
        ? start
        : (at + 0.5 - seen / 2) / n;
    const [x, y] = [into(view.x, g.visibleColumns, column, E), into(view.y, g.visibleRows, layer, L)];
    view = clampView({ ...view, x, y }, g);
  }

  /** { layer, expert } at a point: the lit cell that is near, else the cell or the row. */
  function at(x, y) {
    const layer = g.layerAt(y);
    if (y < g.plot.y || y > g.plot.y + g.plot.h || layer < 0 || layer >= L) return null;
    const column = g.columnAt(x);
    const inPlot = x >= g.plot.x && x <= g.plot.x + g.plot.w && column >= 0 && column < E;
    if (!inPlot) return { layer, expert: null };
    if (g.cw >= 8) return { layer, expert: expertAt()[layer * E + column] };
    let [best, distance] = [null, REACH];
    const within = (n, end) => Math.max(0, Math.min(end - 1, n));
    const [first, last] = [-REACH, REACH].map((by) => within(g.columnAt(x + by), E));
    const [top, bottom] = [-REACH, REACH].map((by) => within(g.layerAt(y + by), L));
    for (let row = top; row <= bottom; row++)
      for (let column = first; column <= last; column++) {
        const expert = expertAt()[row * E + column];
        if (!isLit[row * E + expert]) continue;
        const box = g.box(column, row);
        const far = Math.hypot(x - box.x - box.w / 2, y - box.y - box.h / 2);
        if (far < distance) [best, distance] = [{ layer: row, expert }, far];
      }
    return best ?? { layer, expert: null };
  }

  /** Selects what was clicked; once more goes back to the token. */
  function choose(place) {
    if (!place) return;
    const { layer, expert } = place;
    const now = store.state.selected;
    if (now.layer === layer && (now.expert ?? null) === expert) store.token(store.state.token);
    else if (expert === null) store.layer(layer);
    else store.expert(layer, expert);
  }

  let held = null; // where the button went down, and the view then
  const point = (event) => [event.offsetX, event.offsetY];
  const listeners = {
    pointerdown(event) {
      if (event.button) return;
      const [x, y] = point(event);
      held = { x, y, view, moved: false };
      canvas.setPointerCapture(event.pointerId);
    },
    pointermove(event) {
      const [x, y] = point(event);
      if (held && Math.hypot(x - held.x, y - held.y) > 4) held.moved = true;
      if (held?.moved && view.zoom > 1) {
        const shift = { x: (held.x - x) / g.cw / E, y: (held.y - y) / g.ch / L };
        return move({ ...view, x: held.view.x + shift.x, y: held.view.y + shift.y });
      }
      const place = at(x, y);
      hint(place, x, y);
      const next = place?.expert == null ? null : place;
      if (next?.layer === pointed?.layer && next?.expert === pointed?.expert) return;
      pointed = next;
      canvas.style.cursor = place ? "pointer" : "default";
      draw();
    },
    pointerup(event) {
      if (held && !held.moved) choose(at(...point(event)));
      held = null;
    },
    pointercancel: () => (held = null),
    pointerleave() {
      pointed = null;
      hint(null);
      draw();
    },
    wheel(event) {
      // A plain wheel scrolls the page that the map is in; a pinch arrives with ctrl.
      if (event.ctrlKey || event.metaKey) zoomAt(2 ** (-event.deltaY / 200), ...point(event));
      else if (view.zoom > 1 && (event.shiftKey || event.deltaX)) {
        const by = (event.deltaX || event.deltaY) / g.cw / E;
        move({ ...view, x: view.x + by });
      } else return;
      event.preventDefault();
    },
  };
  for (const [name, run] of Object.entries(listeners))
    canvas.addEventListener(name, run, { passive: false });

  return {
    canvas, draw, zoomAt, reveal,
    fit: () => move({ zoom: 1, x: 0, y: 0 }),
    /** New cells and bars, after selection or colour changed; whether colours compare. */
    show(next, bars, compare) {
      [cells, columns, comparing] = [next, bars, compare];
      isLit = new Uint8Array(L * E);
      for (const cell of cells) isLit[cell.layer * E + cell.expert] = 1;
      reveal();
      draw();
    },
    mark(next) {
      found = next;
      draw();
    },
    resize(w) {
      width = w;
      draw();
    },
    /** The lit experts of a layer, in the order in which they stand. */
    litIn(layer) {
      const found = new Set(cells.filter((c) => c.layer === layer).map((c) => c.expert));
      const place = (e) => columnOf()[layer * E + e];
      return [...found].sort((a, b) => place(a) - place(b));
    },
    columnOf: (layer, expert) => columnOf()[layer * E + expert],
  };
}
