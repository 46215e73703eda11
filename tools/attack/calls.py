"""Calls of the package's own functions, an argument of which is wrong."""

from functools import partial

import numpy as np
import torch

from minqwen import Config, Processor, Trace, generate, load, record, save
from minqwen.engine.sampling import Sampling
from minqwen.errors import show

from . import DEEP, NO_COUNTS, NO_NUMBERS, ODD, PATHS, TINY, Case
from .configs import IDS, small
from .traces import recorded

NUMBERS, COUNTS = [*NO_NUMBERS.values(), None], [*NO_COUNTS.values(), None]
USER = {"role": "user", "content": "x"}
DARK = np.zeros((8, 8, 3), np.uint8)


def cases(folder):
    model = small(mtp_num_hidden_layers=1)
    save(model, folder / "model")
    processor, (_, trace) = Processor.load(TINY), recorded()

    def write(given=IDS, **options):
        return [*generate(model, given, **{"max_new_tokens": 2} | options)]

    def chat(messages=(USER,), **options):
        return processor.chat(list(messages), **options)

    def listen(heads):
        with record(model, heads):
            pass

    def loads(**options):
        return load(**{"path_or_hub_id": folder / "model"} | options)

    def ask(content):
        return processor.chat([USER | {"content": content}])

    found = []

    def add(call, values, words=(), name=None):
        for value in values:
            run = partial(call, **{name: value}) if name else partial(call, value)
            made = getattr(call, "__name__", "save")
            title = f"{made}: {name or ''} {show(value, 40)}"
            found.append(Case(title, run, words))

    for name, values in {
        "temperature": [*NUMBERS, -1], "top_k": COUNTS, "top_p": [*NUMBERS, 0, 1.1],
        "min_p": [*NUMBERS, -1, 1.1], "presence_penalty": NUMBERS, "seed": COUNTS,
    }.items():  # fmt: skip
        for call in (write, Sampling):
            add(call, values, (name,), name)
    add(write, [*COUNTS, 0], ("max_new_tokens",), "max_new_tokens")
    add(write, COUNTS, ("draft",), "draft")
    add(write, [None, 5, "x", [5], [""], ["x"]], ("stop",), "stop")
    add(write, [5, "x", ["x"], [None], [-1], [1.5], [[1]]], ("stop_ids",), "stop_ids")
    add(write, inputs())
    add(loads, [*ODD[2:], *PATHS, "a/b/c"], (), "path_or_hub_id")
    add(loads, [*ODD[2:], "abacus", "cuda:99", "meta"], ("device",), "device")
    add(loads, [*ODD[2:], torch.int8, torch.float64], ("dtype",), "dtype")
    add(loads, [*ODD, "A" * 10**6], ("experts",), "experts")
    add(loads, [*ODD, "A" * 10**6], (), "kernels")
    add(loads, [5, "x", "int8:x", "A" * 10**6], ("int8",), "quantize")
    add(loads, [*NO_COUNTS.values(), 0], ("expert_cache",), "expert_cache")
    add(loads, ["main"], ("revision",), "revision")
    add(chat, [[], *([each] for each in ODD), [[USER], []], [USER, [USER]], [{}]])
    add(processor.chat, [*ODD, DEEP])
    add(chat, [[USER | {"role": role}] for role in (None, 5, [], {}, DEEP)])
    kinds = "text", "image", "video"
    for kind in kinds:
        add(
            ask,
            [[{"type": kind}], [{"type": kind, kind: None}], [{"type": kind.upper()}]],
        )
    add(ask, [5, True, {}, b"x", [None], ["x"], [{}], [[]], DEEP, "\ud800",
              "<|image_pad|>", [{"type": "text", "text": 5}], [{"type": DEEP}],
              [{"type": "text", "text": "", "x": DEEP}]])  # fmt: skip
    images = (5, True, object(), [], {}, b"", b"\x89PNG", DARK * 1.0, DARK[:0], DARK[0,
            0],
              np.zeros((8, 8, 5), np.uint8), np.zeros((1, 999), np.uint8))  # fmt: skip
    add(ask, [[{"type": "image", "image": each}] for each in (*images, *PATHS)])
    videos = (
        5,
        True,
        object(),
        b"x",
        [],
        [DARK],
        [DARK, DARK[:4]],
        [5, 5],
        {0: DARK, 1: DARK},
    )
    add(ask, [[{"type": "video", "video": each}] for each in (*videos, *PATHS)])
    film = {"type": "video", "video": [DARK] * 4}
    add(ask, [[film | {"fps": fps}] for fps in (*NUMBERS[:-1], 0, -1)], ("fps",))
    add(chat, [5, "x", True, {"a": 1}, [5], [DEEP], [object()]], ("tool",), "tools")
    add(chat, [DEEP, b"x", {1, 2}, print], ("variable",), "x")
    add(processor.encode, [None, 5, b"x", [], "\ud800"])
    add(processor.decode, [None, 5, "x", ["a"], [None], [-1], [2**40], [[1]], [1.5]])
    add(trace.first, [*COUNTS, 0, trace.length + 1], ("first",))
    add(trace.__getitem__, ["x", "\x1b" * 10**6, 5])
    bare = Trace(trace.meta | {"num_experts": 0}, {})
    add(trace.compare, [bare,
        Trace(trace.meta, {"expert_ids": trace["expert_ids"][:, :2]})])  # fmt: skip
    for call in (trace.save, Trace.load, Config.from_json, Processor.load):
        add(call, [None, 5, *PATHS])
    add(partial(save, model), [None, 5, *PATHS[3:7]])
    add(listen, [5, [5], "x", [(0,)], [(0, 1, 2)], [(9, 0)], [(0, 9)], [(-1, 0)],
                 [("0", "1")], [(0.0, 1)], [(True, 1)], [None], [(None,
                         1)]])  # fmt: skip
    add(partial(save, model, "x"), [*COUNTS, 0], (), "max_shard_bytes")
    add(Config.from_dict, [*ODD, {"model_type": "x"}])
    add(Config.named, ODD)
    return found


def inputs():
    """What `generate` is given, of which something is wrong."""
    yield from (*ODD[:5], *ODD[6:], [[]], [[1], [1, 2]], ["a"], [-1], [10**6],
                [2**63], [10**400],
                [[[1]]], IDS.float(), IDS.to(torch.complex64), IDS[:, :0], IDS - 9,
                [301],
                [302], IDS.expand(1100, -1).reshape(1, -1))  # fmt: skip
    good = {"input_ids": IDS}
    for name, values in {
        "attention_mask": (5, "x", [1], [[1, 1, 1, 0]], [[1, 0, 1, 1]], [[0] * 4],
                           [[1] * 5], [[0.5] * 4], [[2] * 4]),
        "pixel_values": (5, "x", [1.0], torch.zeros(4, 1536), torch.zeros(4, 7),
                         torch.full((4, 1536), torch.nan), torch.zeros(4, 1536).long()),
        "image_grid_thw": (5, [[1, 2, 2]], [[0] * 3], [[-1, -2, 2]], [[2**40] * 3]),
        "inputs_embeds": (torch.zeros(1, 4, 64),), "\x1b[2J": (1,), 5: (1,),
    }.items():  # fmt: skip
        yield from (good | {name: value} for value in values)
    for size, grid in (
        ((4, 1536), [[1, 2, 2]] * 2), ((4, 1536), [[1, 1, 4]]), ((8, 1536), [[1, 2,
                4]]),
        ((4, 1536), [[1, 3, 3]]), ((4, 1535), [[1, 2, 2]]), ((4, 1536), None),
        ((4, 1536), [[4, 1, 1]]), ((0, 1536), [[1, 2, 2]]),
    ):  # fmt: skip
        given = {"input_ids": [[303, 301, 304]], "pixel_values": torch.zeros(size)}
        yield given | {"image_grid_thw": grid}
