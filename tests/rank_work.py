"""What test_parallel.py has its processes do, and starting them.

They are forked from a server that has torch imported, which takes each of them no time;
what torchrun would tell them of each other is in their environment.
"""

import json
import multiprocessing
import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import torch
from tap_names import hear_all
from torch.distributed import TCPStore

from minqwen import generate
from minqwen.cli import commands as cli
from minqwen.parallel import part as parallel
from minqwen.parallel import ranks

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["rank_work", "tqdm"])
# The server finds modules as a fresh Python does, so it must be told where this one is.
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
PATIENCE = 120  # seconds; a test that takes them has failed


class Rank:
    """One process of several: started at once, with its own stdout and stderr."""

    def __init__(self, folder, environment, work, arguments):
        self.base = folder / environment["RANK"]
        given = str(self.base), environment, work, arguments
        self.process = CONTEXT.Process(target=_work, args=given)
        self.process.start()

    def end(self):
        """(exit code, stdout, stderr, what `work` returned)."""
        self.process.join(PATIENCE)
        code = self.process.exitcode
        self.process.kill()
        assert code is not None, "a process hangs"
        told = [Path(f"{self.base}.{name}").read_text() for name in ("out", "err")]
        result = Path(f"{self.base}.pt")
        return code, *told, torch.load(result) if result.exists() else None


def start(count, work, *arguments, each=lambda rank: ()):
    """`count` Ranks that do work(*each(rank), *arguments)."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    folder, started = Path(tempfile.mkdtemp()), []
    for i in range(count):
        told = {"RANK": i, "LOCAL_RANK": i, "WORLD_SIZE": count,
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port,
                "TORCHELASTIC_USE_AGENT_STORE": True,
                "TORCHELASTIC_RESTART_COUNT": 0}  # fmt: skip
        told = {name: str(value) for name, value in told.items()}
        started.append(Rank(folder, told, work, (*each(i), *arguments)))
        started[i].store = store  # the launcher's, which outlives every rank
    return started


def results(started):
    """What all of them returned; none may have failed."""
    ended = [rank.end() for rank in started]
    assert all(code == 0 for code, *_ in ended), [err for _, _, err, _ in ended]
    return [result for *_, result in ended]


def _work(base, environment, work, arguments):
    os.environ.update(environment)
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(f"{base}.{name}", os.O_WRONLY | os.O_CREAT), number)
    torch.set_num_threads(1)
    result = work(*arguments)
    torch.save(result, f"{base}.pt")


# ---- what they do ----


def bytes_asked_for():
    """All that this process has read through the system, or None without Linux."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return int(dict(line.split(": ") for line in lines)["rchar"])


@torch.inference_mode()
def forwards(model, inputs):
    """Logits of a model on {name: inputs}: at once, and in two pieces and a token."""
    found = {}
    for name, given in inputs.items():
        ids, mask = given["input_ids"], given.get("attention_mask")
        found[name] = model(**given)
        if "pixel_values" in given:
            continue
        B, T = ids.shape
        cache, parts = model.new_cache(B, T), []
        for low, high in ((0, 5), (5, T - 1), (T - 1, T)):
            own = None if mask is None else mask[:, :high]
            parts.append(model(ids[:, low:high], attention_mask=own, cache=cache))
        found[name + ", in pieces"] = torch.cat(parts, 1)
    return found


@torch.inference_mode()
def answers(model, inputs):
    """Everything that is compared with one process, of one checkpoint."""
    found, ids = forwards(model, inputs), inputs["plain"]["input_ids"][-1:]
    draft = 2 if hasattr(model, "mtp") else 0
    if draft:
        found["drafts"] = model.draft(model.hidden(ids)[:, :-1], ids[:, 1:])[0]
    steps = generate(model, {"input_ids": ids}, 6, temperature=1.0, stop_ids=[],
                     seed=3, draft=draft)  # fmt: skip
    found["text"] = torch.tensor([step.token for step in steps])
    return found


def compare(folders, inputs):
    """{name: answers, and what the rank holds and has read} of checkpoints."""
    parallel.load(next(iter(folders.values())))  # imports are read from files as well
    told = {}
    for name, folder in folders.items():
        before = bytes_asked_for()
        model = parallel.load(folder, dtype=None)
        read = None if before is None else bytes_asked_for() - before
        held = {
            name.removesuffix(".own"): tuple(p.shape)
            for name, p in model.named_parameters()
        }
        cache = model.new_cache(1, 8).num_bytes()
        found = answers(model, inputs[name])
        heard = hear_all(model, lambda m, given=inputs[name]["plain"]: m(**given))
        told[name] = dict(found=found, read=read, held=held, cache=cache, heard=heard)
    ranks.leave()
    return told


def command(line, patience=None):
    """A command line, as torchrun would start it; ends with its exit code."""
    if patience:
        ranks.TIMEOUT = timedelta(seconds=patience)
    sys.exit(cli.main(json.loads(line)))
