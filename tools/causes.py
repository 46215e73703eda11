"""Which of the small model's experts matter for which task, beside experts as busy.

    python -m tools.experiment causes

For every task, on chats that no training batch holds. Fixed before it was run:

1. its experts: the SET that its chats use most beyond all other tasks' chats
   (`analyse.compare`), from DETECT chats of each task;
2. the same SET masked at once, on CHATS others: KL of the next token over the answer,
   and how many answers stay right; beside it `controls` sets drawn at random among
   experts of the same layers that are as busy in that task's chats (`analyse.matched`);
3. every expert masked alone, on MAPPED of those: the causal map.

A task's experts *matter* if masking them moves its answers further than every matched
set does, also for each choice that is taken away (busier experts are missed more); they
are *its own* if that moves its answers further than those of any other task.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch

import minqwen
from minqwen import analyse
from minqwen.analyse.atlas import after, apart
from minqwen.bench.machine import hardware
from minqwen.files import ASSETS, as_json, write_whole
from minqwen.train.abilities import encoded, heldout, pictures
from minqwen.train.corpus import Corpus
from minqwen.train.corpus.tasks import TASKS

SET, DETECT, CHATS, MAPPED, CONTROLS = 8, 12, 16, 6, 20
LEAST = 0.001  # bits


@dataclass
class Text:
    """A chat as the model reads it: inputs, and the first token of its answer."""

    inputs: dict
    start: int

    @classmethod
    def of(cls, corpus, chat):
        ids, start = encoded(corpus, chat)
        return cls({"input_ids": torch.tensor(ids)[None]} | pictures([chat]), start)

    def read(self, model):
        """Log probabilities of each token of the answer: [n, vocab]."""
        return after(model, self.inputs, self.start - 1)[:-1]

    def right(self, found):
        """Would the model write this answer?"""
        return bool(
            (found.argmax(-1) == self.inputs["input_ids"][0, self.start :]).all()
        )


def recorded(model, texts):
    traces = []
    for text in texts:
        with minqwen.record(model) as trace:
            model(**text.inputs)
        traces.append(trace.rows[0])
    return traces


def effect(model, texts, whole, experts):
    """Masking these: (KL in bits, share of answers still right), over the texts."""
    with analyse.masked(model, experts):
        found = [text.read(model) for text in texts]
    kl = [apart(*pair) for pair in zip(whole, found, strict=True)]
    right = [text.right(x) for text, x in zip(texts, found, strict=True)]
    weights = [len(x) for x in whole]
    return float(np.average(kl, weights=weights)), float(np.mean(right))


def grouped(pairs):
    """[(layer, expert)] as {layer: [expert, ...]}."""
    found = {}
    for layer, expert in sorted(pairs):
        found.setdefault(layer, []).append(expert)
    return found


def held_against(model, texts, whole, experts, load):
    """What masking a task's experts does, and what as many others as busy do."""

    def taken(chosen):
        return float(sum(load[layer, own].sum() for layer, own in chosen.items()))

    def told(chosen):
        kl, right = effect(model, texts, whole, chosen)
        return {"kl": kl, "right": right, "load": taken(chosen)}

    own = told(experts)
    others = [told(analyse.matched(load, experts, seed)) for seed in range(CONTROLS)]
    per_load = [x["kl"] / max(x["load"], 1e-9) for x in (own, *others)]
    over = sum(x["kl"] >= own["kl"] for x in others)
    over_per_load = sum(x >= per_load[0] for x in per_load[1:])
    right = [text.right(x) for text, x in zip(texts, whole, strict=True)]
    return {
        **own, "experts": {str(i): e for i, e in experts.items()},
        "whole right": float(np.mean(right)),
        "controls": {name: [x[name] for x in others] for name in own},
        "controls that do more": over,
        "controls that do more per choice": over_per_load,
        "matters": over == 0 and over_per_load == 0,
    }  # fmt: skip


def mapped(model, texts):
    """The causal map of several texts: means of kl over answers, load over texts."""
    maps = [analyse.causal_map(model, t.inputs, t.start - 1) for t in texts]
    weights = [t.inputs["input_ids"].shape[1] - t.start + 1 for t in texts]
    return analyse.CausalMap(
        np.average([m.kl for m in maps], axis=0, weights=weights),
        np.mean([m.load for m in maps], axis=0),
    )


def above(found):
    """Every expert that matters alone, the strongest first, beside its nearest in load:
    {"layer.expert": {kl, load, control}}, of those over LEAST bits."""
    order = np.argsort(-found.kl, axis=None)[: (found.kl > LEAST).sum()]
    places = zip(*np.unravel_index(order, found.kl.shape), strict=True)
    parts = {name: getattr(found, name) for name in ("kl", "load", "control")}
    return {
        f"{i}.{e}": {name: round(float(part[i, e]), 5) for name, part in parts.items()}
        for i, e in places
    }


def rank_correlation(a, b):
    """Spearman's, of two arrays' places in order."""
    places = [np.argsort(np.argsort(x, axis=None)) for x in (a, b)]
    return float(np.corrcoef(*places)[0, 1])


@torch.inference_mode()
def causes(model, corpus):
    """{task: what its experts do}, by the rules above."""
    made = {name: heldout(make, DETECT + CHATS) for name, make in TASKS.items()}
    texts = {n: [Text.of(corpus, chat) for chat in c] for n, c in made.items()}
    traces = {n: recorded(model, t[:DETECT]) for n, t in texts.items()}
    tests = {n: t[DETECT:] for n, t in texts.items()}
    whole = {n: [text.read(model) for text in t] for n, t in tests.items()}
    found = {}
    for name, own in traces.items():
        rest = [t for other, ts in traces.items() if other != name for t in ts]
        difference = analyse.compare(own, rest)
        experts = grouped(difference.top(SET))
        load = np.mean([analyse.counts.chosen(t).mean(0) for t in own], axis=0)
        row = held_against(model, tests[name], whole[name], experts, load)
        row["elsewhere"] = {
            other: effect(model, tests[other], whole[other], experts)[0]
            for other in tests if other != name
        }  # fmt: skip
        row["its own"] = row["kl"] > max(row["elsewhere"].values())
        atlas = mapped(model, tests[name][:MAPPED])
        row["rate difference and kl, rank correlation"] = rank_correlation(
            difference.rate, atlas.kl
        )
        row["alone"] = above(atlas)
        found[name] = row
        print(
            name,
            {k: v for k, v in row.items() if k not in ("map", "controls")},
            flush=True,
        )
    return found


def run(seeds=None, folder=ASSETS / "tiny", threads=1):
    """Write experiments/causes.json of the model in `folder`."""
    torch.set_num_threads(threads)
    begun = time.process_time()
    found = causes(minqwen.load(folder), Corpus.build(folder))
    facts = {
        "machine": hardware(threads), "seconds": round(time.process_time() - begun),
        "experts masked": SET, "seed of chats": 0, "controls, by seed": CONTROLS,
        "chats to find them": DETECT, "chats": CHATS, "chats mapped": MAPPED,
    }  # fmt: skip
    file = folder / "experiments" / "causes.json"
    write_whole(file, as_json(facts | {"tasks": found}))
