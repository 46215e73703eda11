"""The rooms of the house, how full they are, and which way their arrows point.

    python -m tools.rooms

An arrow is an import, also one inside a function. It may point to a floor below, or
along a floor where no circle closes; nothing imports a fast form but by its name.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLOORS = [
    "errors units terminal files",
    "model",
    "weights kernels prompt engine",
    "trace parallel plan",
    "analyse widgets serve train check bench",
    "cli",
    "minqwen",  # the package's own two files, which name everything
]
FLOOR = {room: n for n, rooms in enumerate(FLOORS) for room in rooms.split()}
BUDGET = {
    "errors units terminal files": 300, "model": 1900, "prompt": 1100, "engine": 900,
    "weights": 3900, "kernels": 3000, "parallel": 600, "trace": 900, "analyse": 500,
    "widgets": 650, "serve": 700, "train": 1600, "plan bench": 1300, "cli": 700,
    "check": 3300,
}  # fmt: skip
MODULES = 7000  # lines of the widgets' ES modules


def dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module):
    inside = module.split(".")[1:2]
    return inside[0] if inside and inside != ["__main__"] else "minqwen"


def graph(files=None):
    """{module: the modules that it imports}, within the package."""
    files = files or {
        dotted(path): (path.read_text(), path.stem == "__init__")
        for path in sorted((ROOT / "minqwen").rglob("*.py"))
    }
    return {
        name: {m for m in imports(text, name, package, files) if m != name}
        for name, (text, package) in files.items()
    }


def imports(text, name, package, known):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")
            above = above[: len(above) - node.level + package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield from {full if full in known else base} & set(known)


def circles(arrows):
    """The sets of two or more that reach each other."""
    reach = {start: set(ends) for start, ends in arrows.items()}
    for via in arrows:
        for ends in reach.values():
            if via in ends:
                ends |= reach[via]
    found = (
        frozenset(b for b in reach[a] if a in reach[b]) for a in arrows if a in reach[a]
    )
    return sorted(set(found), key=sorted)


def between(arrows):
    """{room: {room it points to: the (module, module) arrows}}."""
    rooms = {room(module): {} for module in arrows}
    for start, ends in arrows.items():
        for end in sorted(ends):
            if room(start) != room(end):
                rooms[room(start)].setdefault(room(end), []).append((start, end))
    return rooms


def wrong(arrows):
    """Every arrow, (module, module), that points up, in a circle, or at the kernels."""
    rooms = between(arrows)
    rounds = circles(rooms)
    return sorted(
        arrow
        for a, ends in rooms.items()
        for b, all_of_them in ends.items()
        for arrow in all_of_them
        if b == "kernels"
        or FLOOR[b] > FLOOR[a]
        or any(a in ring and b in ring for ring in rounds)
    )


def lines(name, ending="py"):
    place = ROOT / "minqwen" / name
    paths = place.rglob(f"*.{ending}") if place.is_dir() else [place.with_suffix(".py")]
    return sum(len(path.read_text().splitlines()) for path in paths)


def main():
    arrows = graph()
    rooms = between(arrows)
    for floor in reversed(FLOORS[:-1]):
        print()
        for name in (name for name in floor.split() if name in rooms):
            ends = " ".join(sorted(rooms[name], key=lambda r: (FLOOR[r], r)))
            print(f"{name:9} {lines(name):6,} lines -> {ends}")
    print("\nlines beside the budget")
    for names, budget in BUDGET.items():
        have = sum(lines(name) for name in names.split() if name in rooms)
        print(f"  {have:6,} of {budget:5,}  {names}")
    print(f"  {lines('widgets', 'mjs'):6,} of {MODULES:5,}  widgets' ES modules")
    print(f"  {lines('.'):6,} Python in all")
    bad, rings = wrong(arrows), circles(arrows)
    print(f"\n{len(bad)} arrows the wrong way, {len(rings)} circles of modules")
    for start, end in bad:
        print(f"  {start} -> {end}")
    for ring in rings:
        print("  circle:", " ".join(sorted(ring)))
    sys.exit(bool(bad or rings))


if __name__ == "__main__":
    main()
