"""What the poster is drawn with. Places are pixels from the upper left corner."""

from course import arrow, colour
from matplotlib.colors import to_rgb
from matplotlib.patches import Circle, FancyBboxPatch, Polygon, Rectangle

DELTA, FULL, MOE, VISION = colour.green, colour.blue, colour.orange, colour.pink
PLAIN = colour.grey
LEFT, RIGHT = 284, 752  # where the boxes of an enlarged part begin and end


def tint(paint, share):
    """A colour mixed with white."""
    return [1 - share * (1 - part) for part in to_rgb(paint)]


def note(ax, x, y, text, size=8, ha="left", **kw):
    ax.text(x, y, text, fontsize=size, ha=ha, va="center", zorder=5, **kw)


def tile(ax, x, y, width, height, fill, edge="none", lw=0.8, zorder=1):
    look = {"facecolor": fill, "edgecolor": edge, "lw": lw, "zorder": zorder}
    ax.add_patch(Rectangle((x, y), width, height, **look))


def area(ax, points, paint, share):
    look = {"facecolor": tint(paint, share), "zorder": 0}
    ax.add_patch(Polygon(points, edgecolor="none", **look))


def box(ax, x, y, end, text="", paint=PLAIN, h=22, fill=0.16, **kw):
    """A box from x to `end`, its text in the middle."""
    style = "round,pad=0,rounding_size=4"
    look = {"facecolor": tint(paint, fill), "edgecolor": paint, "lw": 0.9, "zorder": 3}
    ax.add_patch(FancyBboxPatch((x, y), end - x, h, boxstyle=style, **look))
    note(ax, (x + end) / 2, y + h / 2, text, ha="center", **kw)


def flow(ax, *points, label="", side="left", head=True):
    """A line through points to an arrowhead; `label` stands beside its last part."""
    *_, (x0, y0), (x1, y1) = points
    ax.plot(*zip(*points, strict=True), color=colour.ink, lw=0.9, zorder=2)
    if head:
        look = {"lw": 0.9, "mutation_scale": 7}
        arrow(ax, (x0, y0), (x1, y1), colour.ink, **look)
    place = x1 + (4 if side == "left" else -4), (y0 + y1) / 2 - 1
    note(ax, *place, label, 7.5, side, color=PLAIN)


def plus(ax, x, y):
    ax.add_patch(Circle((x, y), 7, facecolor="white", edgecolor=colour.ink, zorder=4))
    note(ax, x, y, "+", 9, "center")


def tag(ax, x, y, number):
    """The notebook that builds it."""
    look = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": PLAIN}
    note(ax, x, y, number, 7, "center", color=PLAIN, bbox=look | {"lw": 0.6})


def enlarged(ax, y, end, source, paint, title, count, notebooks, keeps):
    """The frame of a part: a heading, and below what it keeps.

    It enlarges the box of the stack that goes from one height to the other of `source`.
    """
    x, width = LEFT - 12, RIGHT - LEFT + 24
    area(ax, [(232, source[0]), (x, y), (x, end), (232, source[1])], paint, 0.13)
    tile(ax, x, y, width, end - y, "white")
    tile(ax, x, y, width, 22, paint)
    tile(ax, x, end - 24, width, 24, tint(paint, 0.13))
    tile(ax, x, y, width, end - y, "none", paint, 1.2, zorder=3)
    ink = colour.ink if paint == MOE else "white"
    note(ax, LEFT, y + 11, title, 10, weight="bold", color=ink)
    note(ax, RIGHT + 4 - 26 * len(notebooks), y + 11, count, 8, "right", color=ink)
    for place, number in enumerate(reversed(notebooks)):
        tag(ax, RIGHT - 5 - 24 * place, y + 11, number)
    note(ax, LEFT, end - 12, keeps)


def projections(ax, y, width, columns):
    """A matrix for each (x, end, name), all fed the same x; returns their middles."""
    middles = [(x + end) / 2 for x, end, _ in columns]
    flow(ax, (middles[0], y), (middles[-1], y), head=False)
    note(ax, LEFT, y - 9, f"x  [B, T, {width:,}], after RMSNorm", 7.5, color=PLAIN)
    for middle, (x, end, name) in zip(middles, columns, strict=True):
        flow(ax, (middle, y), (middle, y + 10))
        box(ax, x, y + 10, end, name, fill=0.05, weight="bold")
    return middles
