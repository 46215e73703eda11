"""Several processes that answer as one: who speaks, and what if one of them ends.

torchrun starts them, and tells each its number (RANK) and how many there are
(WORLD_SIZE). All do the same work on their own part of the model and meet in a
collective after each layer. Rank 0 alone is heard. When one ends, the others cannot go
on: whoever notices first says so, once, and all end.
"""

import os
import signal
import sys
import threading
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from ..errors import InputError, show

TOLD = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # to each process, by torchrun
TIMEOUT = timedelta(minutes=15)  # without a word from the others; loading takes less


def count():
    """How many processes torchrun has started; 1 without it."""
    return _number("WORLD_SIZE", 1)


def number():
    """This one's, from 0."""
    return _number("RANK", 0)


def _number(name, default):
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or len(text) > 9:
        raise InputError(
            f"{name}={show(text, 40)!r} is not a number; start with torchrun."
        )
    return int(text)


def join():
    """Meet the others, unless that is done; returns the store they share, or None."""
    # Collectives go over gloo between CPUs, over NCCL between GPUs.
    if dist.is_initialized():
        return None
    told = [name for name in TOLD if name not in os.environ]
    if told or not number() < count():
        raise InputError(
            f"WORLD_SIZE is {count()}, but {' and '.join(told) or 'RANK'} does not go "
            "with it; start with torchrun, or without WORLD_SIZE."
        )
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, rank, ranks = next(dist.rendezvous("env://", timeout=TIMEOUT))
    group = dist.PrefixStore("minqwen", store)
    dist.init_process_group(
        backend, store=group, rank=rank, world_size=ranks, timeout=TIMEOUT
    )
    return store


def leave():
    dist.destroy_process_group()


def device(asked=None):
    """What this process computes on: a GPU of its own where there are any."""
    if asked not in (None, "cuda"):
        return asked
    if asked is None and not torch.cuda.is_available():
        return "cpu"
    own, found = _number("LOCAL_RANK", 0), torch.cuda.device_count()
    if own >= found:
        raise InputError(
            f"this machine has {found} GPUs and no more processes may be started on "
            "it (--nproc-per-node); or give --device cpu."
        )
    torch.cuda.set_device(own)
    return f"cuda:{own}"


def add_up(x):
    """The sum of all ranks' x, in place of each."""
    with meeting():
        dist.all_reduce(x)
    return x


def gather(x):
    """The x of every rank, all of one shape, in their order."""
    parts = [torch.empty_like(x) for _ in range(count())]
    with meeting():
        dist.all_gather(parts, x.contiguous())
    return parts


class Alone(ConnectionError):
    """A collective could not be completed."""


@contextmanager
def meeting():
    """Within: collectives. Raises Alone when the others do not come."""
    try:
        yield
    except RuntimeError as err:  # as every failure of a collective is
        raise Alone(
            f"one of the {count()} processes has ended or fallen silent, so no answer "
            "can be completed; what it said, or torchrun says of it, tells why"
        ) from err


@contextmanager
def together():
    """A command run by all ranks: rank 0 is heard, and a failure is told once."""
    if count() == 1:
        yield
        return
    heard = sys.stdout, sys.stderr
    store = join()
    stop_when_told(store, heard[1])
    if number():
        sys.stdout = sys.stderr = open(os.devnull, "w")
    try:
        add_up(torch.zeros(1))  # who fails at once would be waited for in vain
        yield
        leave()
    except SystemExit:
        raise
    except BaseException:
        if not first(store):
            raise SystemExit(1) from None  # another has told
        sys.stdout, sys.stderr = heard
        raise


def first(store):
    """Is this the first rank to speak of a failure?"""
    try:
        return store.add("failures", 1) == 1
    except RuntimeError:  # the store is gone too
        return True


def stop_when_told(store, stderr):
    """End at once on SIGTERM, which torchrun sends when another rank has ended."""
    # From a thread: the main one may be waiting, outside Python, for who is not there.
    heard, told = os.pipe()
    os.set_blocking(told, False)

    def wait():
        while os.read(heard, 1) != bytes([signal.SIGTERM]):
            pass
        if first(store):
            why = f"as it does when one of the {count()} processes has ended"
            print(f"minqwen: stopped by torchrun, {why}", file=stderr, flush=True)
        os._exit(1)

    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    threading.Thread(target=wait, daemon=True).start()
