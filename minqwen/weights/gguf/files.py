"""Which GGUF files a path means: known by their first bytes, whatever their names.

It is one file, any part of a divided one, or a folder with one model. The file of a
vision tower (an mmproj) is found beside the model's.
"""

from ...errors import InputError, show
from ...files import Reader, telling
from .header import MAGIC, Header, first_part

KIND, TOWER = "general.architecture", "clip"  # of an mmproj


def find_gguf(path):
    """The GGUF file, or the first of its parts, that an existing path means; or None.

    InputError for a folder with several models, or if the first part is missing.
    """
    if not path.is_dir():
        return first_part(path) if path.suffix == ".gguf" or _is_gguf(path) else None
    with telling(path, "read"):
        names = sorted(path.iterdir())
    if any(".safetensors" in file.name for file in names):
        return None
    kinds = {first_part(file): kind_of(file) for file in names if _is_gguf(file)}
    # A file without architecture, such as an importance matrix, counts only alone.
    models = [f for f, kind in kinds.items() if kind not in (TOWER, None)]
    towers = [f for f, kind in kinds.items() if kind == TOWER]
    models = models or [f for f in kinds if f not in towers]
    if len(models) != 1 and kinds or len(towers) > 1:
        held = ", ".join(show(file.name) for file in list(kinds)[:10])
        raise InputError(
            f"{show(path)} holds {len(models)} models and {len(towers)} vision towers "
            f"as GGUF ({held}); give the model's file itself, with at most one mmproj "
            "beside it."
        )
    return models[0] if models else None


def kind_of(path):
    """general.architecture of a GGUF file, or None if it cannot be read."""
    try:
        with Reader(path) as file:
            pairs = Header(show(path.name), file).pairs()
            kind = next((value for key, value in pairs if key == KIND), None)
        return kind if isinstance(kind, str) else None
    except InputError:  # said when it is loaded
        return None


def towers_beside(path):
    """The mmproj files in a model's folder."""
    try:
        files = [file for file in sorted(path.parent.iterdir()) if file != path]
    except OSError:  # a folder that may not be listed, though its files may be read
        return []
    return [file for file in files if _is_gguf(file) and kind_of(file) == TOWER]


def _is_gguf(path):
    try:
        if path.name.startswith(".") or not path.is_file():
            return False
        with Reader(path) as file:
            return file.stat().st_size > 4 and file.read(4) == MAGIC
    except (OSError, InputError):  # said of the one that is asked for, if it is one
        return False
