"""`minqwen convert`: a checkpoint in another form, of any size, in little memory.

Every shard is written whole under a temporary name, then renamed, so after a kill the
same command goes on with the next one. A file that says so lies in the folder until
the index and config.json, the last of all, are there: half a conversion never loads.
"""

import fcntl
import hashlib
import json
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

CHOICES = ("int8", "int4", "fp8", "bf16")
SHARD = 5_000_000_000  # bytes
GOES_ON = "; what is there is kept, and the same command goes on from it"
# What transformers wants beside our own files.
OTHERS = ("vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json")


def convert(source, folder, quantize="bf16", max_shard_bytes=SHARD, revision=None):
    """Write the checkpoint `source` (path or hub id) to `folder`; bytes of its tensors.

    quantize "bf16" (as trained), "fp8" (the released layout), "int8" or "int4", or of
    experts and the rest apart, such as "int4:int8" or "int4:bf16". Memory: a few times
    32 MB, and of GGUF one matrix of its delta layers. Raises InputError if the source
    does not fit its config.json, the folder is in use, or the disk refuses; what was
    written stays and is taken up again.
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
    shapes = {name: p.shape for name, p in model.named_parameters()}
    with telling(folder, "written", GOES_ON):
        options = scheme.experts, scheme.rest, max_shard_bytes
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
        said = scheme.config(unconverted(found, scheme, shapes))
        config |= {KEY: said} if said else {}
        write_whole(folder / "config.json", as_json(config))
        (folder / UNFINISHED).unlink()
        lock.close()
    return total


def _source(path, folder):
    """Rows to be read, the model on the meta device, its table, and the small files."""
    home = path if path.is_dir() else path.parent
    if file := find_gguf(path):
        if folder.resolve() == home.resolve():
            _refuse_own(folder)
        opened, model, plan = examine_gguf(file, torch.bfloat16)
        shapes = {name: p.shape for name, p in model.named_parameters()}
        said = "tokenizer.ggml.model" in opened.keys
        small = text_files(file) if said else {}
        return StoredRows(opened, plan, shapes), model, opened.table, small
    table, model, forms, plan = examine(path, torch.bfloat16)
    _keep_apart(home, folder)
    small = {n: read_whole(home / n) for n in (*FILES, *OTHERS) if (home / n).exists()}
    shapes = {name: p.shape for name, p in model.named_parameters()}
    return Rows(plan, table, forms, shapes), model, table, small


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


def unconverted(found, scheme, shapes):
    """Stored names of the modules whose matrices the scheme leaves as trained."""
    return [
        slot.stored.removesuffix(".weight")
        for slot in found
        if scheme.of(slot.name) is None and len(shapes[slot.name]) > 1
    ]


def fingerprint(table, cfg, *options):
    """What a conversion is made from, as text that another one does not share."""
    held = [
        [name, e.file.name, e.dtype, e.shape, e.start, e.stamp[2:]]  # size and time
        for name, e in sorted(table.items())
    ]
    text = json.dumps([held, cfg.to_dict(), options])
    return hashlib.sha256(text.encode()).hexdigest()


def _keep_apart(source, folder):
    source, target = source.resolve(), folder.resolve()
    if target == source or source in target.parents:
        _refuse_own(folder)


def _refuse_own(folder):
    raise InputError(
        f"{show(folder)} is the source's own folder or lies in it; write the "
        "conversion somewhere else."
    )


def _claim(folder, mark):
    """Begin, go on, or InputError; the file that keeps others out while open."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / UNFINISHED
    if begun.exists():
        if read_whole(begun).strip() != mark.encode():
            raise InputError(
                f"{show(folder)} holds part of a conversion of another source or with "
                "other options; finish that one, or remove the folder."
            )
        return _lock(begun)
    for file in sorted(folder.iterdir()):
        if ".safetensors" in file.name or file.name == "config.json":
            raise InputError(
                f"{show(folder)} holds {show(file.name)} already; convert into another "
                "folder."
            )
    write_whole(begun, (mark + "\n").encode())
    return _lock(begun)


def _lock(file):
    held = Reader(file)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{show(file.parent)} is being written by another minqwen convert; wait "
            "until it has finished."
        ) from None
    return held


def _write_shards(folder, shards, rows, scheme):
    sizes = {name: sum(slot.nbytes for slot in part) for name, part in shards.items()}
    missing = [name for name in shards if not finished(folder / name, shards[name])]
    for name in missing:
        temporary(folder / name).unlink(missing_ok=True)  # what a kill left
    needed, free = sum(sizes[name] for name in missing), disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{show(folder)}: {human(needed)} are to be written to a disk with "
            f"{human(free)} free; make room, and the same command goes on."
        )
    total = sum(sizes.values())
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
