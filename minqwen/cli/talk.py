"""`chat`'s lines and pictures from the user, and its sampling by the checkpoint."""

import os
import sys
from contextlib import suppress

from ..engine.defaults import said_sampling
from ..engine.sampling import Sampling
from ..errors import show
from ..files import read_json
from ..terminal import complain, say

CHOSEN = ("temperature", "top_k", "top_p", "min_p", "presence_penalty")


def settle(options, processor):
    """Take sampling options that were not given from the generation config."""
    name = "generation_config.json"
    said = read_json(processor.files.get(name, b"{}"), name)
    found, left = said_sampling(said, name)
    for key in left:
        complain(f"{name}: {key} is {show(said[key], 40)}, which is not followed here")
    taken = []
    for key in CHOSEN:
        if getattr(options, key) is None:
            setattr(options, key, found.get(key, getattr(Sampling, key)))
            taken += [f"{key} {found[key]}"] if key in found else []
    if taken:
        say(f"[{', '.join(taken)}, as {name} says]")


def lines():
    """Lines from stdin, with a prompt and line editing where a person types them."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with suppress(ImportError):  # Windows, whose consoles edit lines themselves
        import readline  # noqa: F401  (gives input() its history)

    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        try:
            yield input()
        except EOFError:
            return


def existing(path):
    """The picture as a content item, in a list; empty, with a complaint, if absent."""
    path = os.path.expanduser(path)  # no shell does it here
    if os.path.isfile(path):
        return [{"type": "image", "image": path}]
    complain(f"/image {path}: no such file")
    return []
