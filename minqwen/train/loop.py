"""A small trainer: first the vision tower alone, then everything, in hours on a CPU.

`minqwen train --out FOLDER` makes the embedded checkpoint by recipe.toml. Every step
is a function of (seed, step), so a run that was killed goes on from its last
checkpoint as if nothing had happened; and each half of a batch is computed by one
thread, so that one thread or two make the same file.
"""

import pickle
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import get_ident

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from ..errors import InputError
from ..files import replaced, telling
from ..model.forms import using
from ..model.moe import balance_loss
from ..model.qwen import Qwen
from ..model.rope import positions
from ..model.taps import listen
from ..weights import load, save
from .abilities import glance
from .card import COUNT, made_by, write_card
from .corpus import Corpus, write_processor
from .course import Course, learn, optimizers, threads_of
from .recipe import Recipe, plan, tiny_config
from .start import start
from .tower import tower_course


def losses(model, part, drafts=True):
    """Next-token loss and, with `drafts`, the next-but-one loss of the MTP head.

    part: input_ids and targets [B, T], -100 where nothing is to be learned, and
    pictures if any. Both are means over a row's targets, then over the rows, so that
    the few words of an answer count as much as a page of text.
    """
    part = dict(part)
    targets, ids = part.pop("targets"), part["input_ids"]
    learned = targets >= 0
    everyone = torch.ones_like(learned)
    where, _ = positions(
        ids, everyone, ids.new_zeros(len(ids)), model.cfg,
        part.get("image_grid_thw"), part.get("video_grid_thw"),
    )  # fmt: skip
    hidden = model.hidden(**part, position_ids=where)
    loss = {"next": row_loss(model, hidden, targets)}
    if drafts:
        _, states = model.draft(
            hidden[:, :-1], ids[:, 1:], where[:, :, :-1], last_only=True
        )
        loss["mtp"] = row_loss(model, states, targets[:, 1:])
    return loss


def row_loss(model, hidden, targets):
    """Mean over each row's targets, then over rows; hidden [B, T, D], targets [B, T].

    Logits are made only where there is a target: they cost a tenth of the step.
    """
    learned = targets >= 0
    weight = learned / learned.sum(1, keepdim=True).clamp(min=1) / len(targets)
    logits = model.logits(hidden[learned])
    each = F.cross_entropy(logits, targets[learned], reduction="none")
    return (each * weight[learned]).sum()


def run(out, recipe=None, resume=None, threads=2, count=COUNT, begin=None):
    """Train the tiny model, save it into folder `out`, measure it on `count` chats
    a case and write its card.

    `begin` is the folder of a model that `run` made, to be trained further; by default
    the weights are new. `resume` is the file in which a run that was killed finds where
    it was, by default `out`/resume.pt; it is removed when the model is saved. A folder
    without a tokenizer gets the one this corpus makes, or that of `begin`. Returns the
    card's figures. Raises InputError if the resume file is of another recipe, or
    `begin` not a model that `run` made.
    """
    recipe, out = recipe or Recipe.read(), Path(out)
    resume = Path(resume or out / "resume.pt")
    kept(resume, recipe, begin)
    write_processor(out, begin)
    model, facts = train(out, recipe, resume, threads, begin=begin)
    save(model.to(torch.bfloat16), out)
    figures = write_card(out, recipe, facts, count)
    resume.unlink(missing_ok=True)
    return figures


def train(
    out, recipe, resume, threads=2, save_every=200, change=lambda config: config,
    begin=None,
):  # fmt: skip
    """The loop itself: the trained model (fp32), and {seconds, threads, curve, before}.

    The tower learns alone first, unless there is a folder `begin`, whose model has one
    that sees. `change` makes another Config of the tiny model's, for experiments.
    """
    saved = kept(resume, recipe, begin)
    corpus = Corpus.build(out, seed=recipe.seed)
    corpus.check()
    torch.manual_seed(recipe.seed)
    model = load(begin, dtype=torch.float32) if begin else new(corpus, change)
    courses = [course(model.train(), corpus, recipe)]
    if not begin:
        courses.insert(0, tower_course(model, corpus, recipe))
    facts = {"seconds": 0.0, "threads": threads, "curve": []}
    facts["before"] = runs_before(begin)
    number, step = 0, 0
    if saved:
        number, step, facts = saved["course"], saved["step"], saved["facts"]
        restore(model, courses[number], saved)
    clock = time.monotonic() - facts["seconds"]

    def save(place):
        facts["seconds"] = time.monotonic() - clock
        keep(resume, model, courses[place[0]], recipe, place, facts)

    with threads_of(threads) as pool:
        while number < len(courses):
            now = courses[number]
            bar = tqdm(range(step, now.steps), now.name, now.steps, initial=step)
            for step in bar:
                figures = learn(now, step, recipe, pool)
                bar.set_postfix({k: f"{v:.3f}" for k, v in figures.items()})
                if recipe.points and (step + 1) % -(-now.steps // recipe.points) == 0:
                    point = {"course": now.name, "step": step + 1}
                    point["seconds"] = time.monotonic() - clock
                    facts["curve"].append(point | figures | now.look())
                if (step + 1) % save_every == 0 and step + 1 < now.steps:
                    save((number, step + 1))
            now.end()
            number, step = number + 1, 0
            if number < len(courses):
                save((number, 0))
    facts["seconds"] = time.monotonic() - clock
    return model.eval(), facts


def new(corpus, change):
    """A model with the weights that training begins with."""
    config = tiny_config(corpus.tokenizer.get_vocab_size(), corpus.end)
    model = Qwen(change(config))
    start(model)
    return model


def course(model, corpus, recipe):
    """All of the model, on all tasks."""

    def loss(part, step):
        imbalance, mine = [], get_ident()

        def weigh(layer, ids, logits, **_):
            if get_ident() == mine:  # NOTE: a listener hears calls of all threads
                imbalance.append(balance_loss(logits, ids))

        with listen(model, router=weigh), using("train"):
            found = losses(model, part, step >= recipe.drafts_from * recipe.steps)
        total = found["next"] + recipe.mtp_weight * found.get("mtp", 0.0)
        if imbalance:
            found["balance"] = torch.stack(imbalance).mean()
            total = total + model.cfg.text.router_aux_loss_coef * found["balance"]
        return total, found

    def parts(step):
        return corpus.batch(step, **plan(step, recipe))

    def slower(name):
        return recipe.tower_rate if name.startswith("model.visual.") else 1.0

    learning = optimizers(model, recipe, slower)
    learners = nn.ModuleList([model])
    look = partial(glance, model, corpus, recipe.mixture)
    return Course("all", recipe.steps, learners, learning, parts, loss, look)


def keep(path, model, course, recipe, place, facts):
    """Write all that is needed to go on, whole or not at all."""
    number, step = place
    whole = {
        "recipe": asdict(recipe),
        "course": number,
        "step": step,
        "facts": facts,
        "model": model.state_dict(),
        "learners": course.learners.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in course.optimizers],
    }
    with telling(path, "written"), replaced(path) as file:
        torch.save(whole, file)


def runs_before(begin):
    return made_by(begin) if begin else []


def kept(path, recipe, begin=None):
    """What `keep` wrote, or None; InputError if it belongs to another recipe or began
    with another model, or `begin` has no card."""
    before = runs_before(begin)
    if not path.exists():
        return None
    try:
        saved = torch.load(path, weights_only=True)
        written_by = saved["recipe"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError):
        raise InputError(
            f"{path} is not what minqwen train wrote; delete it to start anew"
        ) from None
    if written_by != asdict(recipe):
        raise InputError(f"{path} is of another recipe; delete it to start anew")
    if saved["facts"]["before"] != before:
        what = begin or "a new one"
        raise InputError(f"{path} began with another model than {what}; delete it "
                         "to start anew")  # fmt: skip
    return saved


def restore(model, course, saved):
    model.load_state_dict(saved["model"])
    course.learners.load_state_dict(saved["learners"])
    for optimizer, state in zip(course.optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(state)
