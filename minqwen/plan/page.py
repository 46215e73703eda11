"""`minqwen plan`: the sums of budget.py as a page, and the commands that follow."""

import math

from ..errors import InputError
from ..model.members import SIZES, member, repository
from ..units import human
from . import budget
from .contents import survey
from .forms import quantisation

# Released in all forms, and later models, released in bf16 and FP8.
QUANTISED = "397B-A17B", "122B-A10B", "35B-A3B", "27B"
LATER = tuple(key for key in SIZES if key.startswith("Qwen"))
WORTH = 1.05  # times faster that a coarser form must be to be proposed
USUAL = "H100-80GB"  # proposed where no GPUs were named


def advise(path, context=None, batch=1, memory=None, disk_speed=5e9,
           memory_speed=5e10, gpu=None, measured=None):  # fmt: skip
    """The page for a folder, hub id or name. Sizes in bytes, speeds in bytes a second.

    `memory`: of a machine without GPUs; `gpu`: such as "8xH100-80GB"; `measured`: what
    measure.py found here, which replaces the speeds.
    """
    cfg, tensors, _ = survey(path)
    key = member(path)
    name = repository(key) if key else str(path)
    longest = cfg.text.max_position_embeddings
    context = context or longest
    if context > longest:
        raise InputError(
            f"context {context} is beyond this model's {longest} positions; give less"
        )
    lines = [f"{name}: context {context:,}, batch {batch}"]
    told = quantisation(path, cfg, tensors)
    lines += [f"{label}: {text}" for label, text in told if label and text != "no"]
    lines += size_table(cfg, context, batch)
    if gpu is None or memory is not None:
        memory = memory or 24 * 2**30
        lines += in_memory(
            cfg, name, context, batch, memory, disk_speed, memory_speed, measured
        )
    lines += ["", *servers(cfg, name, context, batch, gpu)]
    return "\n".join(lines)


def size_table(cfg, context, batch):
    """Bytes of the weights by part and form, of a step, and of the caches."""
    sizes = {form: budget.weight_bytes(cfg, form) for form in budget.FORMS}
    yield ""
    yield table_row("weights", *budget.FORMS)
    for part in sizes["bf16"]:
        yield table_row("  " + part, *(human(s[part]) for s in sizes.values()))
    yield table_row("  all", *(human(sum(s.values())) for s in sizes.values()))
    moved = (budget.step_bytes(cfg, context, batch, form) for form in budget.FORMS)
    yield table_row("moved for a step", *map(human, moved))
    yield "remembered"
    for what, size in budget.memory_bytes(cfg, context, batch).items():
        yield table_row("  " + what, human(size))


def table_row(label, *cells):
    return f"{label:<30}" + "".join(f"{cell:>12}" for cell in cells)


def in_memory(cfg, name, context, batch, memory, disk_speed, speeds, measured):
    """Each way to run from one memory, and commands for those that fit."""
    if measured:
        disk_speed, speeds = measured["disk"], measured["loops"]
    yield ""
    room = f"memory of {human(memory)}, of which {budget.SPARE:.0%} is filled"
    if measured:
        yield room
        each = (f"{form} {human(speeds[form])}/s" for form in budget.FORMS)
        yield f"measured here, by the loops that run: {', '.join(each)}"
        yield f"and by {measured['what']}: the disk {human(disk_speed)}/s"
    else:
        read = f"read at {human(speeds)}/s, the disk at {human(disk_speed)}/s"
        yield f"{room}; {read}"
    last = f"{'to load':>12}{'tokens/s':>12}" if measured else "tokens/s, at most"
    width = 24 if measured else 20
    yield f"{'':<36}{'needs':>12}{'left to cache':>15}{last:>{width}}"
    found = budget.choices(cfg, context, batch, memory, disk_speed, speeds)
    for choice in found:
        where = f"all in memory, {choice.form}"
        if choice.disk:
            where = f"experts on disk {choice.disk}, the rest {choice.form}"
        cache = human(choice.cache) if choice.cache else ""
        speed = f"{choice.speed * batch:.3g}" if choice.fits else "does not fit"
        if measured and choice.fits:
            speed = f"{duration(choice.need / disk_speed):>12}{speed:>12}"
        yield f"{where:<36}{human(choice.need):>12}{cache:>15}{speed:>{width}}"
    fitting = [choice for choice in found if choice.fits]
    if not fitting:
        yield "here: nothing fits; give more memory, or a shorter context"
        return
    yield "here, from the exact to the fast:" if len(fitting) > 1 else "here:"
    best = 0.0
    for choice in sorted(fitting, key=coarseness):
        commands = local_commands(name, choice)
        if choice.speed > WORTH * best and commands:
            yield from commands
            best = choice.speed


def duration(seconds):
    return f"{seconds / 60:.3g} min" if seconds >= 60 else f"{seconds:.2g} s"


def coarseness(choice):
    """A key to sort by: the exact first, then the faster."""
    order = list(budget.FORMS)
    forms = [order.index(form) for form in (choice.form, choice.disk) if form]
    return max(forms), sum(forms), -choice.speed


def local_commands(name, choice):
    """The commands for a Choice; none if no files of its form exist."""
    short = member(name) or name
    words, before = ["--dtype stored"], []
    if "fp8" in (choice.form, choice.disk):
        if short not in QUANTISED + LATER:
            return []
        name += "-FP8"
    if choice.disk == "int4":
        form = "int4" if choice.form == "int4" else f"int4:{choice.form}"
        made = f"{short.split('/')[-1]}-{form.replace(':', '-')}"
        before = [f"  minqwen convert {name} {made} --quantize {form}"]
        name = made
    elif choice.form in ("int8", "int4"):
        words.append(f"--quantize {choice.form}")
    if choice.disk:
        cache = f"{int(choice.cache // 1e6)}MB"
        words.append(f"--experts disk --expert-cache {cache} --stats")
    line = " ".join([f"  minqwen generate {name}", *words, '--prompt "Hello"'])
    return [*before, line]


def servers(cfg, name, context, batch, gpu):
    """Whether the GPUs hold it, how fast at most, and how to start the servers."""
    count, card = budget.gpus(gpu) if gpu else (0, budget.GPUS[USUAL])
    kind = gpu.partition("x")[2] if gpu else USUAL
    key, room = member(name), budget.SPARE * card.memory
    known = 3 if key in QUANTISED else 2 if key in LATER else 1
    releases = list(budget.RELEASED)[:known]
    fitting = None
    for release in releases:
        for n in [count] if count else [1, 2, 4, 8]:
            need = budget.per_gpu(cfg, release, n, context, batch)
            fits = need <= room
            if fits and fitting is None:
                fitting = n, release
            if count or fits:
                forms = budget.RELEASED[release]
                moved = budget.step_bytes(cfg, context, batch, *forms)
                speed = f"at most {batch * n * card.speed / moved:,.0f} tokens/s"
                label = f"{n} x {kind}, {release.strip('-') or 'bf16'}"
                said = f"{human(need)} on each, {speed if fits else 'does not fit'}"
                yield f"{label:<36}{said}"
                break
    if fitting is None:
        n = 1
        while budget.per_gpu(cfg, releases[-1], n, context, batch) > room:
            n *= 2
            if n > 10**6:
                raise InputError(f"no number of {kind} holds batch {batch}; give less")
        yield f"these do not hold it; {n} would, in the smallest release"
        return
    if batch == 1:
        yield "(by bytes alone: engines measured at batch 1 reach about a tenth of it)"
    yield from server_commands(name + fitting[1], fitting[0], context, batch)


def server_commands(repository, count, context, batch):
    """To run it here, in vLLM and in SGLang; more than 8 GPUs as nodes of 8."""
    nodes, each = math.ceil(count / 8), min(count, 8)
    # Here GPTQ is widened to the size of bf16, and processes cannot share FP8.
    ours = each == 1 if "-FP8" in repository else "-GPTQ" not in repository
    if nodes == 1 and ours:
        several = f"torchrun --nproc-per-node {each} -m minqwen"
        launch = several if each > 1 else "minqwen"
        yield f'  {launch} generate {repository} --dtype stored --prompt "Hello"'
    stages = f" --pipeline-parallel-size {nodes}" if nodes > 1 else ""
    yield (
        f"  vllm serve {repository} --tensor-parallel-size {each}{stages} "
        f"--max-model-len {context} --max-num-seqs {batch} --reasoning-parser qwen3"
    )
    more = f" --nnodes {nodes} --node-rank 0 --dist-init-addr HOST:5000"
    yield (
        f"  python -m sglang.launch_server --model-path {repository} --tp {count}"
        f"{more if nodes > 1 else ''} --context-length {context} "
        f"--max-running-requests {batch} --reasoning-parser qwen3"
    )
