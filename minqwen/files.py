"""Files: read with one sentence for whatever fails, written whole or not at all."""

import errno
import json
import os
import stat
import weakref
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock

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
# What lies beside weights, by the ends of names, and the most bytes of each: some ten
# times the largest known. The first end that fits counts.
SMALL = {
    ".safetensors.index.json": 100_000_000,
    "tokenizer.json": 200_000_000,
    "vocab.json": 200_000_000,
    "merges.txt": 200_000_000,
    ".json": 16_000_000,
    ".jinja": 16_000_000,
}
LARGE = 4 << 30  # bytes of any other file that is read whole, as traces are
STEP = 256 << 20  # bytes asked of the system at once, so that a progress bar moves
# Opening a pipe would wait. Windows has none there, and would read text without the
# second.
PLAIN = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
ONE_AT_A_TIME = Lock()


@contextmanager
def telling(path, what, remedy=""):
    """Within: an error of the system becomes "PATH cannot be `what`: why"."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"{show(path)} cannot be {what}: {why}{remedy}.") from None


def a_path(path, what) -> Path:
    """`path` as a Path; InputError for what is none, which cannot be `what`."""
    if not isinstance(path, str | os.PathLike) or "\0" in str(path) or path == "":
        raise InputError(f"{show(path)} cannot be {what}: it is no path.")
    return Path(path)


def inside(path, name):
    """The file that a path means: `name` in a folder, or itself."""
    path = a_path(path, "read")
    with telling(path, "read"):  # it may be too long to ask for
        return path / name if path.is_dir() else path


def followed(path):
    """Where a checkpoint's file lies: a link may lead to its own folder, or to blobs.

    Those are the hub cache's. Raises InputError for a link to anywhere else.
    """
    if not path.is_symlink():
        return path
    folder, target = (Path(os.path.realpath(each)) for each in (path.parent, path))
    allowed = {folder}
    if folder.parent.name == "snapshots":
        allowed.add(folder.parent.parent / "blobs")
    if target.parent not in allowed:
        raise InputError(
            f"{show(path.name)} is a link to {show(target)}, outside the checkpoint's "
            "folder; put the file itself there."
        )
    return target


class Reader:
    """A regular file, open to be read at any place of it, by several threads at once.

    `own`: it belongs to a checkpoint, whose links may not lead elsewhere. Raises
    InputError, one sentence, for whatever goes wrong. Closed by `close`, at the end of
    a `with` block, or when nobody has it any more.
    """

    def __init__(self, path, own=False):
        self.path = a_path(path, "read")
        flags = os.O_RDONLY | PLAIN
        with telling(path, "read"):
            if own:
                path = followed(self.path)
                flags |= getattr(os, "O_NOFOLLOW", 0)  # not on Windows
            self.descriptor = os.open(path, flags)
        self.close = weakref.finalize(self, os.close, self.descriptor)
        if not stat.S_ISREG(self.stat().st_mode):
            self.close()
            name = show(self.path.name)
            raise InputError(f"{name} is not a regular file and cannot be read.")

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
            with telling(self.path, "read"):
                count = read_at(self.descriptor, left[:STEP], at)
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


def read_at(descriptor, buffer, at):
    """Fill a buffer from a place in a file, or as much of it as comes; how much."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], at)
    with ONE_AT_A_TIME:  # on Windows all threads share the place where a file is read
        os.lseek(descriptor, at, os.SEEK_SET)
        content = os.read(descriptor, len(buffer))
    buffer[: len(content)] = content
    return len(content)


def read_whole(path):
    """All bytes of a file; InputError if it is longer than files of its kind are.

    A file that SMALL names is taken for a checkpoint's own (see Reader).
    """
    name = os.path.basename(path)
    most = next((most for end, most in SMALL.items() if name.endswith(end)), None)
    with Reader(path, own=most is not None) as file:
        size = file.stat().st_size
        if size > (most or LARGE):
            raise InputError(
                f"{show(name)} is {size} bytes long, and at most {most or LARGE} are "
                "read of such a file; is it what its name says?"
            )
        return file.read(size)


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


def destination(path, what="written"):
    """Where what is written to `path` goes: itself, or the file that it links to.

    Asked before the work, since that would be lost. Raises InputError if the folder is
    not there or may not be written, or if `path` is there and no regular file.
    """
    path = a_path(path, what)
    with telling(path, what):
        if path.is_symlink():
            path = Path(os.path.realpath(path, strict=True))
        if path.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is not a regular file")
        TemporaryFile(dir=path.parent).close()  # it has no name there, or loses it
    return path


def temporary(path):
    """Where a file is written before it has its name: never taken for the file."""
    return path.with_name(path.name + ".tmp")


@contextmanager
def created(path):
    """A file to fill, on the disk when the block ends; none is there if it fails."""
    path.unlink(missing_ok=True)  # what a kill left, or a link that leads elsewhere
    try:
        with open(path, "xb") as file:
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
    path = destination(path)
    with created(temporary(path)) as file:
        yield file
    publish(path)


def write_whole(path, content):
    """Put bytes in the place of a file: all of them, or InputError and none."""
    with telling(path, "written"), replaced(path) as file:
        file.write(content)


def as_json(value):
    """The bytes of a JSON file that people may read too."""
    return (json.dumps(value, indent=2) + "\n").encode()
