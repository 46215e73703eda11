"""The files of a checkpoint: which of a folder's are its weights.

Only headers are read, and they count: one warning tells where the index disagrees and
which files are not weights. A folder is not trusted: its index may name only plain
files beside it.
"""

import re
import warnings
from pathlib import Path, PurePosixPath, PureWindowsPath

from ...errors import InputError, show
from ...files import read_json, read_whole
from .foreign import refuse_folder, refuse_pickle
from .header import read_table
from .layout import part_of, released

INDEX = ".safetensors.index.json"
SINGLE = "model.safetensors"
NUMBERED = re.compile(r".+-\d{5}(-of-\d{5})(?:\.safetensors)?")


def open_checkpoint(path):
    """Name -> Entry for a folder of safetensors files or for one such file.

    In a folder, the files that its index names, or model.safetensors, or the numbered
    shards, or else all; and others that hold a part which these lack, such as
    mtp.safetensors. Raises InputError naming the file, and the tensor if there is one.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    refuse_pickle(path)
    if path.suffix != ".safetensors":
        raise InputError(
            f"{show(path)} is neither a folder nor a .safetensors or .gguf file; give "
            "the checkpoint's folder."
        )
    return _merge([path], own=False)


def _open_folder(folder):
    refuse_folder(folder)
    names = sorted(f.name for f in folder.glob("*.safetensors"))
    # macOS leaves a file "._x" beside every x on other systems' disks.
    files = [name for name in names if not name.startswith("._")]
    index, content, said = _read_index(folder)
    notes = []
    if SINGLE in files and said and SINGLE not in said.values():
        notes.append(_obsolete(folder, index, said))
        content, said = {}, {}
    main = _main_files(folder, files, said.values())
    table = _merge([folder / file for file in main])
    named = sum(entry.nbytes for entry in table.values())
    others = [file for file in files if file not in main]
    aside = _add_parts(folder, others, table, said)
    notes += _check_total(index, content, named, table)
    if aside := aside + [file for file in names if file not in files]:
        listed = ", ".join(map(show, aside))[:600]
        notes.append(f"left aside, as no weights of this model: {listed}")
    notes += _disagreements(folder, index, said, table)
    if notes:
        # stacklevel 5: the line that called load.
        warnings.warn(f"{show(folder)}: {'; '.join(notes)}", stacklevel=5)
    return table


def _obsolete(folder, index, said):
    """A note on an index that names other files than the single one beside it."""
    if all((folder / shard).exists() for shard in set(said.values())):
        raise InputError(
            f"{show(folder)} holds {SINGLE}, but {index} names other files; keep one "
            "of the two checkpoints."
        )
    return f"{index} names files that are not there, so {SINGLE} is read"


def _main_files(folder, files, shards):
    """The files that are surely weights."""
    return (
        sorted({*files} & {*shards})
        or [file for file in files if file == SINGLE]
        or [file for file in files if NUMBERED.fullmatch(file)]
        or [f for f in files if any(map(released, _merge([folder / f])))]
        or files
    )


def _merge(files, own=True):
    table = {}
    for file in files:
        for tensor, entry in read_table(file, own).items():
            if tensor in table:
                raise InputError(
                    f"{show(tensor)} is in both {show(table[tensor].file.name)} and "
                    f"{show(file.name)}; one of them does not belong here."
                )
            table[tensor] = entry
    return table


def _add_parts(folder, others, table, said):
    """Add the files of parts that the table lacks; the names of the other files."""
    parts = {part_of(name) for name in map(released, table) if name}
    series = {_series(file) for file in {e.file.name for e in table.values()}} - {None}
    aside, listed = [], said.keys() - table.keys()

    def lacking(tensor):
        name = released(tensor)
        return tensor in listed or name and part_of(name) not in parts

    for file in others:
        try:
            found = read_table(folder / file, own=True)
        except InputError as error:
            aside.append(f"{file} ({error})")
            continue
        sister = _series(file) in series and not found.keys() & table.keys()
        if found and (sister or all(map(lacking, found))):
            table |= found
        else:
            aside.append(file)
    return aside


def _series(file):
    """What the names of a checkpoint's numbered shards share, such as -of-00094."""
    found = NUMBERED.fullmatch(file)
    return found and found[1]


def _read_index(folder):
    """The index's name or None, its content, and its {tensor: file}."""
    found = sorted(folder.glob("*" + INDEX))
    found = [f for f in found if not f.name.startswith(("._", "adapter"))]
    # Variants (model.fp16.safetensors.index.json) may lie beside the plain one.
    found = [file for file in found if file.name == "model" + INDEX] or found
    if len(found) > 1:
        names = ", ".join(show(file.name) for file in found)
        raise InputError(
            f"{show(folder)} has several indexes ({names}); keep the one you mean."
        )
    if not found:
        return None, {}, {}
    name = show(found[0].name)
    content = read_json(read_whole(found[0]), name)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{name} has no weight_map from tensor names to files.")
    for tensor, shard in weight_map.items():
        _check_shard_name(f"{name}: {show(tensor)}", shard)
    return name, content, weight_map


def _disagreements(folder, index, said, table):
    """Notes on where index and files disagree; InputError for a missing file."""
    lost = [tensor for tensor in said if tensor not in table]
    for tensor in lost:
        if not (folder / said[tensor]).exists():
            raise InputError(
                f"{show(said[tensor])} is missing from {show(folder)}, though {index} "
                "names it; download it again."
            )
    shards = set(said.values())
    unsaid = [t for t, e in table.items() if t not in said and e.file.name in shards]
    moved = [t for t in said if t in table and table[t].file.name != said[t]]
    wrong = {
        "lists {}, which no file holds": lost,
        "omits {}": unsaid,
        "puts {} in another file than holds it": moved,
    }
    for phrase, names in wrong.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield f"{index} {phrase.format(show(names[0]) + more)}; the files count"


def _check_total(name, content, named, table):
    """A note on a wrong total, or InputError if it is no number of bytes.

    It may count the files that the index names, `named` bytes, or all there are.
    """
    metadata = content.get("metadata")
    if not isinstance(metadata, dict | None):
        raise InputError(f"{name}: metadata must be an object, as {INDEX} files have.")
    said = (metadata or {}).get("total_size")
    found = sum(entry.nbytes for entry in table.values())
    if said is not None and (type(said) not in (int, float) or not said >= 0):
        raise InputError(f"{name}: total_size is {show(said)}, not a number of bytes.")
    if said is not None and said not in (named, found):
        held = f"the shards hold {found} bytes of tensors"
        yield f"{name}: total_size is {show(said)}, {held}"


def _check_shard_name(where, shard):
    if not isinstance(shard, str) or not shard.isprintable():
        raise InputError(f"{where} is not mapped to a file name.")
    plain = PurePosixPath(shard).name == shard == PureWindowsPath(shard).name
    if not plain or shard in (".", ".."):
        raise InputError(
            f"{where} is said to lie in {show(shard)}; a shard must be a plain file "
            "name inside the checkpoint's folder."
        )
    refuse_pickle(Path(shard))
    if not shard.endswith(".safetensors"):
        raise InputError(f"{where} lies in {show(shard)}, not in a .safetensors file.")
