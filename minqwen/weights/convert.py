"""`minqwen convert`: a checkpoint in another form, of any size, in little memory.

Every shard is written whole under a temporary name, then renamed, so after a kill the
same command goes on with the next one. A marker file stays in the folder until the
index and config.json have been written, last of all: half a conversion never loads.
"""

import hashlib
import json
from functools import partial
from itertools import groupby
from shutil import disk_usage

import torch
from tqdm import tqdm

from ..errors import InputError, number, show
from ..files import (
    FILES,
    Reader,
    a_path,
    as_json,
    destination,
    read_whole,
    replaced,
    telling,
    temporary,
    write_whole,
)
from ..units import human
from .checkpoint.header import lay_out
from .checkpoint.hub import UNFINISHED, resolve
from .checkpoint.index import INDEX
from .checkpoint.layout import LABELS, bytes_of
from .checkpoint.reading import BAR_FROM
from .checkpoint.shards import FORMAT, index_of, slots, split
from .gguf.files import find_gguf
from .gguf.load import examine_gguf
from .gguf.rows import StoredRows
from .gguf.text import text_files
from .load import examine
from .quantised.codecs import FORMS, read_choice, rows_of
from .quantised.requantise import Rows
from .quantised.settings import KEY, Scheme

try:
    import fcntl
except ImportError:  # Windows: nobody is kept from converting into the same folder
    fcntl = None  # type: ignore[assignment]

CHOICES = ("int8", "int4", "fp8", "bf16")
SHARD = 5_000_000_000  # bytes
GOES_ON = "; what is there is kept, and the same command goes on from it"
# Read by transformers alone, but part of a checkpoint.
OTHERS = ("vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json")


def convert(source, folder, quantize="bf16", max_shard_bytes=SHARD, revision=None):
    """Write the checkpoint `source` (path or hub id) to `folder`; bytes of its tensors.

    quantize is "bf16" (as trained), "fp8" (the released layout), "int8" or "int4", or
    two forms, for experts and the rest, such as "int4:int8". Takes a few times 32 MB of
    memory, and for GGUF one matrix of a delta layer. Raises InputError if the source
    does not fit its config.json, the folder is in use, or the disk refuses; what was
    written stays, and the next run goes on from it.
    """
    number(max_shard_bytes, "max_shard_bytes", int, 1)
    scheme = read_target(quantize)
    path = resolve(source, revision)
    folder = a_path(folder, "written")
    rows, model, table, small = _source(path, folder)
    found = list(slots(model, scheme))
    parts = [list(group) for _, group in groupby(found, lambda s: (s.name, s.part))]
    total = sum(slot.nbytes for slot in found)
    groups = [(part, sum(slot.nbytes for slot in part)) for part in parts]
    shards = split(groups, max_shard_bytes)
    options = scheme.experts, scheme.rest, max_shard_bytes
    with telling(folder, "written", GOES_ON):
        lock = _claim(folder, fingerprint(table, model.cfg, *options))
        for name in small:
            destination(folder / name)
        _write_shards(folder, shards, rows, scheme)
        rows.check()
        for name, content in small.items():
            write_whole(folder / name, content)
        if len(shards) > 1:
            names = {file: [s.stored for s in part] for file, part in shards.items()}
            write_whole(folder / ("model" + INDEX), as_json(index_of(names, total)))
        config = model.cfg.to_dict() | {"dtype": "bfloat16"}
        said = scheme.config(unconverted(found, scheme, model))
        config |= {KEY: said} if said else {}
        write_whole(folder / "config.json", as_json(config))
        (folder / UNFINISHED).unlink()
        lock.close()
    return total


def _source(path, folder):
    """Rows to be read, the model on the meta device, its table, and the small files."""
    file, home = find_gguf(path), path if path.is_dir() else path.parent
    own, target = home.resolve(), folder.resolve()
    # A GGUF file may lie in a folder of many models, and their conversions.
    if target == own or not file and own in target.parents:
        raise InputError(
            f"{show(folder)} is the source's own folder or lies in it; write the "
            "conversion somewhere else."
        )
    if file:
        opened, model, plan = examine_gguf(file, torch.bfloat16)
        table, rows = opened.table, partial(StoredRows, opened, plan)
        small = text_files(file) if "tokenizer.ggml.model" in opened.keys else {}
    else:
        table, model, forms, plan = examine(path, torch.bfloat16)
        rows = partial(Rows, plan, table, forms)
        there = [name for name in (*FILES, *OTHERS) if (home / name).exists()]
        small = {name: read_whole(home / name) for name in there}
    shapes = {name: p.shape for name, p in model.named_parameters()}
    return rows(shapes), model, table, small


def read_target(quantize):
    """The Scheme of what is to be written."""
    if quantize == "bf16":
        return Scheme()
    scheme = Scheme(*read_choice(quantize, CHOICES[:-1], "bf16"))
    if "fp8" in (scheme.experts, scheme.rest) and scheme.experts != scheme.rest:
        raise InputError(
            f"quantize={quantize!r} mixes fp8 with another form, which the released "
            "layout cannot say; give 'fp8' alone."
        )
    return scheme


def unconverted(found, scheme, model):
    """Stored names of the modules whose matrices the scheme leaves as trained."""
    named = model.named_parameters()
    kept = {name for name, p in named if p.ndim > 1 and scheme.of(name) is None}
    return [s.stored.removesuffix(".weight") for s in found if s.name in kept]


def fingerprint(table, cfg, *options):
    """A text that tells this conversion from those of other sources or options."""
    held = [
        [name, e.file.name, e.dtype, e.shape, e.start, e.stamp[2:]]  # size and time
        for name, e in sorted(table.items())
    ]
    text = json.dumps([held, cfg.to_dict(), options])
    return hashlib.sha256(text.encode()).hexdigest()


def _claim(folder, mark):
    """The folder's marker file, new or kept, locked while open; else InputError."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / UNFINISHED
    if begun.exists():
        if read_whole(begun).strip() != mark.encode():
            raise InputError(
                f"{show(folder)} holds part of a conversion of another source or with "
                "other options; finish that one, or remove the folder."
            )
    else:
        for file in sorted(folder.iterdir()):
            if ".safetensors" in file.name or file.name == "config.json":
                raise InputError(
                    f"{show(folder)} holds {show(file.name)} already; convert into "
                    "another folder."
                )
        write_whole(begun, (mark + "\n").encode())
    lock = Reader(begun)
    if fcntl is None:  # where an open file could not be removed either
        lock.close()
        return lock
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{show(folder)} is being written by another minqwen convert; wait until "
            "it has finished."
        ) from None
    return lock


def _write_shards(folder, shards, rows, scheme):
    sizes = {name: sum(slot.nbytes for slot in part) for name, part in shards.items()}
    missing = [name for name in shards if not finished(folder / name, shards[name])]
    for name in missing:
        temporary(folder / name).unlink(missing_ok=True)  # what a kill left
    total, free = sum(sizes.values()), disk_usage(folder).free
    needed = sum(sizes[name] for name in missing)
    if needed > free:
        raise InputError(
            f"{show(folder)}: {human(needed)} are to be written to a disk with "
            f"{human(free)} free; make room, and the same command goes on."
        )
    with tqdm(
        total=total, unit="B", unit_scale=True, desc="converting",
        disable=total < BAR_FROM,
    ) as bar:  # fmt: skip
        bar.update(total - needed)
        for name in missing:
            _write_shard(folder / name, shards[name], rows, scheme, bar.update)


def _header(part):
    """The first bytes of a shard, and {stored name: its first byte}."""
    return lay_out({s.stored: (LABELS[s.dtype], s.shape) for s in part}, FORMAT)


def finished(file, part):
    """Is this the whole shard, as far as its size and its header say?"""
    if not file.exists():
        return False
    raw, _ = _header(part)
    if file.stat().st_size != len(raw) + sum(s.nbytes for s in part):
        return False
    with Reader(file) as there:
        return there.read(len(raw)) == raw


def _write_shard(path, part, rows, scheme, progress):
    raw, places = _header(part)
    groups = {}
    for slot in part:
        groups.setdefault((slot.name, slot.part), {})[slot.suffix] = slot
    with replaced(path) as f:
        f.write(raw)
        f.truncate(len(raw) + sum(slot.nbytes for slot in part))
        for (name, of), group in groups.items():
            form, first = scheme.of(name), of[1] if of else 0
            count = of[2] - first if of else rows.shapes[name][-2]
            for e, low, high in rows.pieces(name, of):
                wide = rows.read(name, e, low, high)
                packed = FORMS[form].pack(wide) if form else {"": wide}
                for suffix, tensor in packed.items():
                    slot, tensor = group[suffix], tensor.to(group[suffix].dtype)
                    shape = slot.shape[-2:] if form else (count, 0)
                    row, _ = rows_of(shape, low - first, high - first, count)
                    row += shape[0] * e if of is None and e else 0
                    data = bytes_of(tensor.contiguous())
                    f.seek(places[slot.stored] + row * data.nbytes // len(tensor))
                    f.write(data)
                    progress(data.nbytes)
