"""Files: read with one sentence for whatever fails, written whole or not at all."""

import json
import os
import stat
import weakref
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError, show

# The small model, a picture and a trace: a wheel has them inside the package, a clone
# beside it.
ASSETS = Path(__file__).resolve().parent / "assets"
if not ASSETS.is_dir():
    ASSETS = ASSETS.parents[1] / "assets"
# A checkpoint's small files, which say what text and pictures are to it.
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "generation_config.json",
)
STEP = 256 << 20  # bytes asked of the system at once, so that a progress bar moves


@contextmanager
def telling(path, what, remedy=""):
    """Within: an error of the system becomes "PATH cannot be `what`: why"."""
    try:
        yield
    except OSError as error:
        raise _refusal(path, what, error, remedy) from None


def _refusal(path, what, error, remedy=""):
    why = error.strerror or error
    return InputError(f"{show(path)} cannot be {what}: {why}{remedy}.")


class Reader:
    """A regular file, open to be read at any place of it, by several threads at once.

    Raises InputError, one sentence, for whatever goes wrong. Closed by `close`, at the
    end of a `with` block, or when nobody has it any more.
    """

    def __init__(self, path):
        self.path = Path(path)
        with telling(path, "read"):
            if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait
                name = show(self.path.name)
                raise InputError(f"{name} is not a regular file and cannot be read.")
            self.descriptor = os.open(path, os.O_RDONLY)
        self.close = weakref.finalize(self, os.close, self.descriptor)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def fileno(self):
        return self.descriptor

    def stat(self):
        """What the file is now, which may not be what it was when it was opened."""
        return os.fstat(self.descriptor)

    def fill(self, target, at, what="it", progress=lambda count: None):
        """Fill a buffer of bytes with the file's from `at` on; `what` they are."""
        left = memoryview(target)
        while left:
            try:
                count = os.preadv(self.descriptor, [left[:STEP]], at)
            except OSError as error:
                raise _refusal(self.path, "read", error) from None
            if not count:
                raise self.shorter(what)
            progress(count)
            left, at = left[count:], at + count

    def read(self, count, at=0):
        """`count` bytes from `at` on."""
        content = bytearray(count)
        self.fill(content, at)
        return bytes(content)

    def shorter(self, what="it"):
        return InputError(
            f"{show(self.path.name)} became shorter while {show(what)} was read; load "
            "again when nobody writes to it."
        )


def read_whole(path):
    """All bytes of a file."""
    with Reader(path) as file:
        return file.read(file.stat().st_size)


def read_json(content, name):
    """The JSON object in `content`, bytes of what `name` names; no key twice."""

    def pairs(items):
        found = {}
        for key, value in items:
            if key in found:
                raise InputError(f"{name} has the key {show(key)} twice.")
            found[key] = value
        return found

    try:
        value = json.loads(content.decode(), object_pairs_hook=pairs)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{name} is not JSON ({show(error)}); copy it again from the checkpoint."
        ) from None
    if not isinstance(value, dict):
        raise InputError(f"{name} is not a JSON object; copy it from the checkpoint.")
    return value


def temporary(path):
    """Where a file is written before it has its name: never taken for the file."""
    return path.parent / (path.name + ".tmp")  # "." and ".." have no name to change


@contextmanager
def created(path):
    """A file to fill, on the disk when the block ends; none is there if it fails."""
    try:
        with open(path, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def publish(*paths):
    """Give files of one folder, written under temporary names, their own in turn."""
    try:
        for path in paths:
            os.replace(temporary(path), path)
    finally:
        for path in paths:
            temporary(path).unlink(missing_ok=True)
    with suppress(OSError):  # not every system can write a folder's names to the disk
        folder = os.open(paths[0].parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def replaced(path):
    """A file to fill, which takes the place of `path` when the block ends: whole."""
    with created(temporary(path)) as file:
        yield file
    publish(path)


def write_whole(path, content):
    """Put bytes in the place of a file: all of them, or InputError and none."""
    with telling(path, "written"), replaced(Path(path)) as file:
        file.write(content)


def as_json(value):
    """The bytes of a JSON file that people may read too."""
    return (json.dumps(value, indent=2) + "\n").encode()
