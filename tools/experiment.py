"""What each part of the small model does for it: taken out, or never there.

    python -m tools.experiment damage          parts of assets/tiny taken out
    python -m tools.experiment all-delta       trained without, by a short recipe
    python -m tools.experiment all-attention
    python -m tools.experiment no-experts
    python -m tools.experiment whole           the short recipe with all parts
    python -m tools.experiment languages       notebook 09's own, see tools/languages.py
    python -m tools.experiment drawn           notebook 10's own, see tools/drawn.py
    python -m tools.experiment causes          experts masked, see tools/causes.py

Writes assets/tiny/experiments/NAME.json, seed by seed, and goes on where a run of the
same recipe has stopped. Of these the card makes a table (parts.py).
What a part is worth is seen when it is trained without: in a trained model all others
rely on it, so taking it out says how much they do, and no more.
"""

import argparse
import itertools
import json
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from minqwen.bench.machine import hardware
from minqwen.errors import InputError
from minqwen.files import ASSETS, as_json, write_whole
from minqwen.model.config import FULL, Config
from minqwen.model.moe import route
from minqwen.model.shapes import LINEAR
from minqwen.model.taps import listen
from minqwen.train.abilities import (
    answered,
    bits_per_byte,
    copy_bits,
    encoded,
    heldout,
    pictures,
)
from minqwen.train.cases import CASES
from minqwen.train.corpus import Corpus
from minqwen.train.corpus.tasks import TASKS
from minqwen.train.loop import train
from minqwen.train.parts import SHORT
from minqwen.train.recipe import Recipe
from minqwen.weights import load

from . import causes, drawn, languages

STEPS = 450  # of the short recipe
SEEDS = (0, 1, 2)


def figures(model, corpus, count):
    """{ability: share of chats that are right, or bits}."""
    found = {}
    for case in CASES:
        if (name := f"{case.task}: {case.what}") in SHORT:
            found[name] = sum(answered(model, corpus, case.chats(count))) / count
    few = min(count, 20)
    found["bits a token, 64 random tokens again"] = copy_bits(model, corpus, few)
    found["bits a byte, Python"], _ = bits_per_byte(model, corpus, "source", limit=few)
    return found


# Damage: what listeners take out of a trained model.


def heard(model, corpus, each):
    """Means [L, D] of each mixer's outputs; how tasks share experts: [tasks, L, E]."""
    text = model.cfg.text
    sums = torch.zeros(text.num_hidden_layers, text.hidden_size)
    counts = torch.zeros(len(TASKS), text.num_hidden_layers, text.num_experts)
    seen = 0
    for task, make in enumerate(TASKS.values()):

        def add(layer, x):
            sums[layer] += x.sum((0, 1))

        def count(layer, ids, task=task, **_):
            if layer != "mtp":
                fired = ids.flatten().bincount(minlength=text.num_experts)
                counts[task, layer] += fired

        for chat in heldout(make, each):
            ids = torch.tensor(encoded(corpus, chat)[0])[None]
            with torch.inference_mode(), listen(model, attn_out=add, router=count):
                model(ids, **pictures([chat]))
            seen += ids.numel()
    return sums / seen, counts / counts.sum(-1, keepdim=True)


def mean_mixers(layers, means):
    """Of these layers the mixer says the same of every token, its mean."""

    def replace(layer, x):
        return {"x": means[layer].expand_as(x)} if layer in layers else None

    return {"attn_out": replace}


def no_experts(layers):
    """In these layers the shared expert is left alone."""

    def silence(layer, weights, **_):
        return {"weights": torch.zeros_like(weights)} if layer in layers else None

    return {"router": silence}


def no_shared(layer, logit):
    return {"logit": torch.full_like(logit, -torch.inf)}


def forbidden(chosen):
    """No token is sent to the experts chosen [L, n]: the next best take its place."""

    def refuse(layer, weights, ids, logits):
        if layer == "mtp":
            return None
        logits = logits.index_fill(1, chosen[layer], -torch.inf)
        weights, ids = route(logits, ids.shape[1])
        return {"weights": weights, "ids": ids}

    return {"router": refuse}


def damage(model, corpus, count):
    """Rows {what is taken out: figures}, and what each task loses with its experts."""
    kinds = model.cfg.text.layer_types
    delta = [i for i, kind in enumerate(kinds) if kind == LINEAR]
    full = [i for i, kind in enumerate(kinds) if kind == FULL]
    means, shares = heard(model, corpus, max(2, count // 10))
    cuts = {"nothing": {}, "both attention layers": mean_mixers(full, means)}
    for pair in itertools.combinations(delta, 2):
        cuts[f"delta layers {pair[0]} and {pair[1]}"] = mean_mixers(pair, means)
    cuts["all delta layers"] = mean_mixers(delta, means)
    for layer in range(len(kinds)):
        cuts[f"the experts of layer {layer}"] = no_experts([layer])
    cuts["all experts"] = no_experts(range(len(kinds)))
    cuts["the shared experts"] = {"shared_gate": no_shared}
    rows = {}
    for name, cut in cuts.items():
        with listen(model, **cut):
            rows[name] = figures(model, corpus, count)
        print(name, {k: round(v, 3) for k, v in rows[name].items()}, flush=True)
    return {"rows": rows, "experts": experts_of(model, corpus, shares, count)}


def experts_of(model, corpus, shares, count):
    """For each task: right with all, without its two experts a layer, without others'.

    A task's experts are those that its tokens take most beyond what all tasks do.
    """
    more = shares - shares.mean(0)
    own = more.topk(2, dim=-1).indices  # [tasks, L, 2]
    found = {}
    for task, (name, make) in enumerate(TASKS.items()):
        chats = heldout(make, count)
        cuts = [None, *(forbidden(own[t]) for t in range(len(TASKS)))]
        right = []
        for cut in cuts:
            with listen(model, **(cut or {})):
                right.append(sum(answered(model, corpus, chats)) / count)
        others = [r for t, r in enumerate(right[1:]) if t != task]
        found[name] = {
            "all": right[0], "without its own": right[1 + task],
            "without another task's": sum(others) / len(others),
        }  # fmt: skip
        print(name, found[name], flush=True)
    return found


# Worth: what a model becomes that never had the part.


def only(kind, config):
    return config.replace(layer_types=(kind,) * config.text.num_hidden_layers)


def dense(config):
    """One MLP a layer, as wide as all that a token is sent to with experts."""
    whole = config.to_dict()
    text = whole["text_config"]
    width = text["num_experts_per_tok"] * text["moe_intermediate_size"]
    width += text["shared_expert_intermediate_size"]
    text = {k: v for k, v in text.items() if "expert" not in k and k[:3] != "moe"}
    text.pop("router_aux_loss_coef", None)
    text |= {"intermediate_size": width, "model_type": "qwen3_5_text"}
    return Config.from_dict(whole | {"model_type": "qwen3_5", "text_config": text})


CHANGES = {
    "whole": lambda config: config,
    "all-delta": partial(only, LINEAR),
    "all-attention": partial(only, FULL),
    "no-experts": dense,
}


# Of the course's own small hybrid; and what has seeds of its own.
OTHERS = {"languages": languages, "drawn": drawn, "causes": causes}


def short(steps, seed=0):
    """The short recipe."""
    return Recipe.read(steps=steps, seed=seed, points=0)


def retrained(name, seed, steps, count, threads, folder):
    """The short recipe's figures with one part never there; the folder's tokenizer."""
    recipe = short(steps, seed)
    with tempfile.TemporaryDirectory() as elsewhere:
        resume = Path(elsewhere) / "resume.pt"
        model, facts = train(folder, recipe, resume, threads, change=CHANGES[name])
    return {
        "seed": seed,
        "machine": hardware(threads),
        "seconds": facts["seconds"],
        "size": model.num_parameters(),
        "figures": figures(model, Corpus.build(folder), count),
    }


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tools.experiment", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("name", choices=["damage", *CHANGES, *OTHERS])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--count", type=int, default=100, help="chats a figure")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, default=ASSETS / "tiny")
    options = parser.parse_args()
    try:
        if options.name in OTHERS:
            return OTHERS[options.name].run(options.seeds)
        torch.set_num_threads(options.threads)
        run(**vars(options))
    except InputError as error:
        sys.exit(f"minqwen: {error}")


def run(name, seeds, steps, count, threads, model):
    """Make the figures that are not there yet; write them after each seed."""
    folder = model
    file = folder / "experiments" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    if name == "damage":
        found = damage(load(folder), Corpus.build(folder), count)
        facts = {"machine": hardware(threads), "chats": count}
        return write_whole(file, as_json(facts | found))
    facts = {"chats": count, "steps": steps, "recipe": asdict(short(steps))}
    facts = json.loads(as_json(facts))
    found = json.loads(file.read_bytes()) if file.exists() else {}
    runs = found.pop("runs", []) if found.items() >= facts.items() else []
    for seed in seeds:
        if not any(run["seed"] == seed for run in runs):
            runs.append(retrained(name, seed, steps, count, threads, folder))
            print(name, runs[-1], flush=True)
            write_whole(file, as_json(facts | {"runs": runs}))


if __name__ == "__main__":
    main()
