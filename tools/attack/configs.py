"""config.json: every field with every wrong kind of value, and files that are none."""

import copy
import json
import os
from functools import partial

import torch
from tiny_models import small_model

import minqwen
from minqwen.errors import show

from . import NAMES, NO_COUNTS, NO_NUMBERS, ODD, Case

IDS = torch.tensor([[1, 2, 3, 4]])
OPTIONAL = {"initializer_range", "router_aux_loss_coef", "mtp_num_hidden_layers"}
FREE = {"max_position_embeddings", "num_experts_per_tok"}  # of which no tensor tells
TEXT, ROPE, TOWER = "text_config", "text_config.rope_parameters", "vision_config"
SPECIAL = {
    "missing": lambda file: None,
    "a folder": lambda file: file.mkdir(),
    "a pipe": os.mkfifo,
    "a link to itself": lambda file: file.symlink_to(file.name),
    "a link to nothing": lambda file: file.symlink_to("gone"),
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "a link out": lambda file: file.symlink_to("/etc/passwd"),
    "a terabyte": lambda file: file.touch() or os.truncate(file, 1 << 40),
}


def small(**changes):
    """A model with four experts, whose files take a moment to read."""
    return small_model(num_experts=4, num_experts_per_tok=2, **changes)


def put(values, path, value=None, drop=False):
    """A copy of nested dicts in which `path`, a.b.c, is another value, or gone."""
    values = copy.deepcopy(values)
    *parts, last = path.split(".")
    at = values
    for part in parts:
        at = at[part]
    at.pop(last, None) if drop else at.update({last: value})
    return values


def special(file, make, read):
    """Read what `make` puts in the place of a file."""
    file.unlink(missing_ok=True)
    make(file)
    try:
        read()
    finally:
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink(True)


def cases(folder):
    model = small(mtp_num_hidden_layers=1)
    minqwen.save(model, folder)
    file, good = folder / "config.json", model.cfg.to_dict()
    with torch.no_grad():
        logits = minqwen.load(folder)(IDS)

    def load(content, same=True):
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        file.write_bytes(raw)
        with torch.no_grad():
            found = minqwen.load(folder)(IDS)
        assert found.isfinite().all() and (not same or found.equal(logits))

    found = []

    def add(name, content, *words, expect="refused", same=True):
        words = ("config.json", *words)
        found.append(Case(name, partial(load, content, same), words, expect))

    for at, key, value in numbers(good):
        path = f"{at}.{key}" if at else key
        wrong = NO_COUNTS if isinstance(value, int) else NO_NUMBERS | {"-1": -1}
        for label, bad in wrong.items():
            add(f"{path} is {label}", put(good, path, bad), key)
        expect = "accepted" if key in OPTIONAL else "refused"
        lost = put(good, path, drop=True), put(good, path, None)
        for label, content in zip(("missing", "null"), lost, strict=True):
            add(f"{path} is {label}", content, key, expect=expect, same=False)
        if at in (TEXT, TOWER) and isinstance(value, int) and key not in FREE:
            expect = "either" if key in ("num_heads", *OPTIONAL) else "refused"
            for other in (value + 1, value * 2, value // 2):
                add(
                    f"{path} is {other}",
                    put(good, path, other),
                    expect=expect,
                    same=False,
                )
    for path, value, word in fields():
        add(f"{path} is {show(value, 40)}", put(good, path, value), word)
    for raw in raws(good):
        add(f"file: {show(raw, 20)}, {len(raw)} long", raw)
    for name, make in SPECIAL.items():
        run = partial(special, file, make, partial(minqwen.load, folder))
        found.append(Case(f"config.json is {name}", run, (file.name,)))
    for path, value in harmless():
        title = f"right: {path} is {show(value, 40)}"
        add(title, put(good, path, value), expect="accepted")
    add("right: spread out", json.dumps(good, indent=9).encode(), expect="accepted")
    for key, value in ("num_experts_per_tok", 1), ("rms_norm_eps", 1e-5):
        changed = put(good, f"{TEXT}.{key}", value)
        add(f"right: {key} is {value}", changed, expect="accepted", same=False)
    for key in ("num_key_value_heads", "num_hidden_layers", "num_experts_per_tok"):
        for value in (7, -1, "4", None, 2.5):  # as users change a Config
            run = partial(model.cfg.replace, **{key: value})
            found.append(Case(f"replace {key} by {value!r}", run, ("replace",)))
    return found


def numbers(values):
    """(where, key, value) of every number that a config.json has."""
    parts = {"": values, TEXT: values[TEXT], TOWER: values[TOWER]}
    for at, part in (parts | {ROPE: values[TEXT]["rope_parameters"]}).items():
        for key, value in part.items():
            if type(value) in (int, float) and key != "eos_token_id":
                yield at, key, value


def fields():
    """(path, value, what the message must name) of fields that are no numbers."""
    wrong = {
        "model_type": (*ODD, *NAMES.values()),
        "tie_word_embeddings": ("false", 1, 0.5, [], {}),
        TEXT: ODD, ROPE: ODD, TOWER: [*ODD[1:6], [1] * 10**5],
        "eos_token_id": (*ODD[1:4], -1, 1.5, {"a": 1}, [[1]], [None], ["a"], 10**400),
        TEXT + ".layer_types": (*ODD[1:], ["mamba"] * 4, [None] * 4, [[]] * 4, "abcd"),
        ROPE + ".mrope_section": (*ODD, [1, 1, 1], [2, 1, 1, 0], [9, -6, 1], [None, 3,
                1],
                                  ["2", 1, 1], [2.0, 1, 1], [True, 2, 1], [[2], 1, 1]),
        ROPE + ".rope_type": (*ODD[2:], "yarn", "llama3"), ROPE + ".type": ("yarn",
                "x"),
        ROPE + ".mrope_interleaved": (False,),
        TEXT + ".rope_scaling": ({"type": "yarn"},),
        TEXT + ".partial_rotary_factor": (0.5,),
        "quantization_config": (*ODD[1:], {"quant_method": "fp8"},
                                {"quant_method": "minqwen", "group_size": 128}),
        TOWER + ".hidden_act": ("gelu", 5), TOWER + ".deepstack_visual_indexes": ([3],),
    }  # fmt: skip
    for key, value in {
        "hidden_act": "gelu", "attention_bias": True, "attn_output_gate": False,
        "mamba_ssm_dtype": "bfloat16", "mlp_only_layers": [1],
        "mtp_use_dedicated_embeddings": True, "output_gate_type": "sigmoid",
        "norm_topk_prob": False, "decoder_sparse_step": 2,
    }.items():  # fmt: skip
        wrong[f"{TEXT}.{key}"] = value, "\x1b" * 10**5, {"a": [1]}
    for path, values in wrong.items():
        key = path.rpartition(".")[2]
        word = {"quantization_config": "quant", "rope_type": "rope_parameters"}.get(
            key, key
        )
        for value in values:
            empty = path in (TEXT, ROPE) and value in (None, {}, {"a": 1})
            yield path, value, "missing" if empty else word
    for key in ("image_token_id", "video_token_id", "vision_start_token_id"):
        yield key, 10**6, key  # beyond the vocabulary
    for key in ("mscale", "long_factor", *list(NAMES.values())[:5]):
        yield f"{ROPE}.{key}", 1.5, "would change"
    yarn = {"rope_theta": 1e7, "partial_rotary_factor": 0.25, "mrope_section": [2, 1,
            1],
            "rope_type": "yarn", "factor": 4.0,
            "original_max_position_embeddings": 64}  # fmt: skip
    for key in ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow"):
        for value in (*NO_NUMBERS.values(), -4, 0):
            yield ROPE, yarn | {key: value}, key


def raws(good):
    """Bytes that are no such file."""
    text = json.dumps(good)
    yield from (text[:at].encode() for at in (0, 1, 20, len(text) // 2, len(text) - 1))
    for key in ("model_type", "hidden_size", "rope_theta", "depth"):
        yield text.replace(f'"{key}":', f'"{key}": 1, "{key}":').encode()
    yield from (text.encode("utf-16"), b"\xef\xbb\xbf" + text.encode(), b"\xff{}")
    for raw in ("null", "[]", "5", '"x"', "nan", "{}", "[" * 100_000, text + "}",
                "\0" * 9,
                text.replace("64", "064"), text.replace("64", "9" * 10**5), "{'a': 1}",
                text.replace('"depth"', '"\\ud800"')):  # fmt: skip
        yield raw.encode()


def harmless():
    """(path, value) that are unusual and right, and change no number."""
    yield from (
        (path, {"a": [1, None]}) for path in ("new", TEXT + ".new", TOWER + ".new")
    )
    yield from {
        "dtype": "float32", "use_cache": False, "eos_token_id": [300, 301],
        "\u00fc": "\x1b",
        TEXT + ".eos_token_id": None, TEXT + ".attention_dropout": 0.5, TOWER: None,
        TEXT + ".rope_theta": 1e7, TEXT + ".output_gate_type": "silu",
        TEXT + ".sliding_window": None,
        TEXT + ".hidden_act": None, ROPE + ".type": "default",
        "quantization_config": None,
        TEXT + ".partial_rotary_factor": 0.25, TEXT + ".rope_scaling": None,
    }.items()  # fmt: skip
