"""The files of a checkpoint: which belong to it, and whether they agree.

Only headers are read. A folder is not trusted: its index may name only plain files
beside it, and what it says must be what the files hold.
"""

import warnings
from pathlib import Path, PurePosixPath, PureWindowsPath

from ...errors import InputError, show
from ...files import read_json, read_whole
from .header import read_table

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
INDEX = ".safetensors.index.json"


def open_checkpoint(path):
    """Name -> Entry for a folder of safetensors files or for one such file.

    A folder's index, when there is one, says which files belong to the checkpoint
    and must agree with their headers; without one, every safetensors file of the
    folder does. Raises InputError naming the file, and the tensor if it is one.
    """
    path = Path(path)
    if path.is_dir():
        index = _find_index(path)
        return _follow(index) if index else _merge(_files_of(path))
    _refuse_pickle(path)
    if path.suffix != ".safetensors":
        raise InputError(
            f"{show(path)} is neither a folder nor a .safetensors or .gguf file; give "
            "the checkpoint's folder."
        )
    return read_table(path)


def _refuse_pickle(path):
    if path.suffix.lower() in PICKLES:
        raise InputError(
            f"{show(path.name)} is a pickle, which can run code when opened, and is "
            "refused; save the weights as .safetensors first."
        )


def _find_index(folder):
    found = sorted(file for file in folder.glob("*" + INDEX))
    if len(found) > 1:
        # Variants (model.fp16.safetensors.index.json) may lie beside the plain one.
        found = [file for file in found if file.name == "model" + INDEX] or found
    if len(found) > 1:
        names = ", ".join(show(file.name) for file in found)
        raise InputError(
            f"{show(folder)} has several indexes ({names}); keep the one you mean."
        )
    return found[0] if found else None


def _files_of(folder):
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        for file in sorted(folder.iterdir()):
            _refuse_pickle(file)
        gguf = next((show(f.name) for f in sorted(folder.glob("*.gguf"))), None)
        advice = f"; give {gguf} itself" if gguf else ""
        raise InputError(f"{show(folder)} holds no .safetensors file{advice}.")
    return files


def _merge(files):
    table = {}
    for file in files:
        for tensor, entry in read_table(file, own=True).items():
            if tensor in table:
                raise InputError(
                    f"{show(tensor)} is in both {show(table[tensor].file.name)} and "
                    f"{show(file.name)}; one of them does not belong here."
                )
            table[tensor] = entry
    return table


def _follow(index):
    """The table of all files an index names, after checking that they agree."""
    name = show(index.name)
    content = read_json(read_whole(index), name)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{name} has no weight_map from tensor names to files.")
    for tensor, shard in weight_map.items():
        _check_shard_name(f"{name}: {show(tensor)}", shard)
    shards = sorted(set(weight_map.values()))
    single = index.parent / "model.safetensors"
    if single.exists() and single.name not in shards:
        raise InputError(
            f"{show(index.parent)} holds model.safetensors, but {name} names other "
            "files; keep one of the two checkpoints."
        )
    for shard in shards:
        if not (index.parent / shard).exists():
            raise InputError(
                f"{show(shard)} is missing from {show(index.parent)}, though {name} "
                "names it; download it again."
            )
    table = _merge([index.parent / shard for shard in shards])
    _check_agreement(name, weight_map, table)
    _check_total(name, content.get("metadata"), table)
    return table


def _check_agreement(name, weight_map, table):
    for tensor in sorted(weight_map.keys() | table.keys()):
        said, found = weight_map.get(tensor), table.get(tensor)
        if found is None:
            raise InputError(
                f"{show(said)} lacks {show(tensor)}, which {name} puts there."
            )
        if found.file.name != said:
            place = f"puts it in {show(said)}" if said else "does not mention it"
            raise InputError(
                f"{show(found.file.name)} holds {show(tensor)}, but {name} {place}."
            )


def _check_total(name, metadata, table):
    """A total that differs is only told: tools disagree on what to count in it."""
    if not isinstance(metadata, dict | None):
        raise InputError(f"{name}: metadata must be an object, as {INDEX} files have.")
    said = (metadata or {}).get("total_size")
    found = sum(entry.nbytes for entry in table.values())
    if said is not None and (type(said) not in (int, float) or not said >= 0):
        raise InputError(f"{name}: total_size is {show(said)}, not a number of bytes.")
    if said is not None and said != found:
        warnings.warn(
            f"{name}: total_size is {show(said)}, the shards hold {found} bytes of "
            "tensors; every tensor it lists is there",
            stacklevel=2,
        )


def _check_shard_name(where, shard):
    if not isinstance(shard, str) or not shard.isprintable():
        raise InputError(f"{where} is not mapped to a file name.")
    plain = PurePosixPath(shard).name == shard == PureWindowsPath(shard).name
    if not plain or shard in (".", ".."):
        raise InputError(
            f"{where} is said to lie in {show(shard)}; a shard must be a plain file "
            "name inside the checkpoint's folder."
        )
    _refuse_pickle(Path(shard))
    if not shard.endswith(".safetensors"):
        raise InputError(f"{where} lies in {show(shard)}, not in a .safetensors file.")
