"""The hybrid of notebook 10: pictures from the first step, or later, in equal time.

    python -m tools.experiment drawn

Writes notebooks/fused.json, seed by seed, and goes on where it stopped. Each way
(`WAYS`) is two stretches of equal time, half of that of `STEPS` mixed steps. How long a
step of each kind takes is measured first, in turn on one thread, and a stretch has as
many steps as fit into its time. Ways that begin alike share that stretch: what differs
between them is the second one alone.
"""

import copy
import json
import statistics
import time
from dataclasses import asdict

from minqwen.bench.machine import hardware
from minqwen.files import as_json, write_whole
from minqwen.train.course import learn, threads_of
from minqwen.train.drawn import BATCH, lesson, seeing
from minqwen.train.languages import recipe_of, untrained

from .execute import NOTEBOOKS
from .languages import PACED, RATES, SEEDS, plain

FILE = NOTEBOOKS / "fused.json"
STEPS, POINTS = 400, 4  # points of each stretch at which it is looked at
SHOWN = {"text": 0, "mixed": BATCH // 2, "tower": BATCH}  # drawn rows of a batch
WAYS = {
    "early": ("mixed", "mixed"),
    "adapter": ("text", "tower"),
    "later": ("text", "mixed"),
    "text alone": ("text", "text"),
}


def lesson_of(kind, model, recipe, begin=0):
    """In "tower" the language model is frozen: the tower learns alone, through it."""
    learners = model.model.visual if kind == "tower" else model
    return lesson(model, recipe, SHOWN[kind], learners, begin)


def paces():
    """Seconds of the processor that a step of each kind takes, medians."""
    recipe, times = recipe_of(100, 0), {kind: [] for kind in SHOWN}
    with threads_of(1) as pool:
        courses = {
            kind: lesson_of(kind, untrained(seeing(), 0), recipe) for kind in SHOWN
        }
        for number in range(2 + PACED):  # the first two compile
            for kind, course in courses.items():
                begun = time.process_time()
                learn(course, number, recipe, pool)
                times[kind].append(time.process_time() - begun)
    return {kind: statistics.median(some[2:]) for kind, some in times.items()}


def stretch(model, kind, seed, steps, begin):
    """Train it on; {steps, seconds of the processor, points on the way}."""
    recipe, seconds, points = recipe_of(steps, seed), 0.0, []
    course = lesson_of(kind, model, recipe, begin)
    with threads_of(1) as pool:
        for number in range(steps):
            begun = time.process_time()
            learn(course, number, recipe, pool)
            seconds += time.process_time() - begun
            if (number + 1) * POINTS // steps > number * POINTS // steps:
                points.append({name: plain(x) for name, x in course.look().items()})
                said = {k: x for k, x in points[-1].items() if k != "shares"}
                print(seed, kind, number + 1, said, flush=True)
    return {"steps": steps, "seconds": round(seconds, 1), "points": points}


def trained(seed, steps):
    """Each way's run; `steps`, how many of each kind fit into a stretch."""
    begun, runs = {}, {}
    for way, (first, second) in WAYS.items():
        if first not in begun:
            model = untrained(seeing(), seed)
            begun[first] = model, stretch(model, first, seed, steps[first], 0)
        model, before = begun[first]
        after = stretch(copy.deepcopy(model), second, seed, steps[second], 5_000)
        parts = before, after
        curve = [point for part in parts for point in part["points"]]
        runs[way] = curve[-1] | {
            "seed": seed,
            "steps": [part["steps"] for part in parts],
            "seconds": [part["seconds"] for part in parts],
            "curve": [{k: p[k] for k in p if k != "shares"} for p in curve],
        }
    return runs


def facts(steps=STEPS):
    """What all runs of a file have in common."""
    recipe = asdict(recipe_of(steps // 2, 0))
    return {"recipe": {name: recipe[name] for name in RATES}}


def run(seeds=SEEDS, file=FILE, steps=STEPS):
    """Make the seeds that are not there yet; write them after each."""
    found = json.loads(file.read_bytes()) if file.exists() else {}
    if not found.items() >= facts(steps).items():
        found = facts(steps) | {"machine": hardware(1), "paces": paces(), "runs": {}}
    mixed = found["paces"]["mixed"]
    fitting = {k: round(steps / 2 * mixed / pace) for k, pace in found["paces"].items()}
    for seed in seeds:
        if any(run["seed"] == seed for run in found["runs"].get("early", [])):
            continue
        for way, made in trained(seed, fitting).items():
            found["runs"].setdefault(way, []).append(made)
        write_whole(file, as_json(found))
