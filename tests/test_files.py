"""Reading files that vanish, shrink or fail, and writing on disks that are full."""

import errno
import os
import stat
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from tiny_models import small_model

import minqwen
from minqwen.errors import InputError
from minqwen.files import (
    LARGE,
    SMALL,
    Reader,
    created,
    publish,
    read_whole,
    replaced,
    temporary,
    write_whole,
)
from minqwen.parallel.slices import Piece, read_piece
from minqwen.trace import Trace
from minqwen.trace.engines import from_llama_csv
from minqwen.weights import open_checkpoint
from minqwen.weights.checkpoint.header import lay_out, read_table
from minqwen.weights.gguf.header import read_gguf
from minqwen.weights.quantised.requantise import Rows
from minqwen.widgets.explore import write_html

OPENERS = {
    "safetensors": read_table,
    "gguf": read_gguf,
    "trace": Trace.load,
    "csv": from_llama_csv,
    "plain": read_whole,
}


def sentence(error, *words):
    """The one sentence of an InputError, which names all of the words."""
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


@contextmanager
def small_disk():
    """Within: no file may pass 1,000 bytes. Not even what pytest's output goes to."""
    import resource  # not on Windows

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# ---- reading


@pytest.mark.parametrize("opener", OPENERS.values(), ids=OPENERS)
def test_what_cannot_be_opened_is_told_alike_everywhere(opener, tmp_path):
    with pytest.raises(InputError) as error:
        opener(tmp_path / "gone")
    sentence(error, f"{tmp_path / 'gone'} cannot be read: No such file")
    with pytest.raises(InputError) as error:
        opener(tmp_path)
    sentence(error, tmp_path.name, "not a regular file")
    if os.name == "posix":
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError) as error:
            opener(tmp_path / "pipe")  # which nobody writes to: opening would wait
        sentence(error, "pipe is not a regular file")
    if hasattr(os, "geteuid") and os.geteuid():
        (tmp_path / "locked").touch(mode=0)
        with pytest.raises(InputError) as error:
            opener(tmp_path / "locked")
        sentence(error, "locked cannot be read: Permission denied")


def test_no_message_can_steer_a_terminal_or_fill_it():
    said = str(InputError("of \x1b[31m\n\x07 \ud800\u202e, Grüße 文 " + "x" * 10_000))
    assert said.startswith(r"of \x1b[31m\n\x07 \ud800\u202e, Grüße 文 xx")
    assert len(said) == 2000


@pytest.mark.parametrize("opener", OPENERS.values(), ids=OPENERS)
def test_a_disk_that_fails(opener, tmp_path, monkeypatch):
    file = tmp_path / "file"
    header, _ = lay_out({"x": ("F32", (2,))}, {})
    file.write_bytes(header + bytes(8))

    def broken(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", broken)
    if opener is read_gguf:  # whose header is read ahead by Python's own buffer
        monkeypatch.setattr("minqwen.weights.gguf.header.Header.take", broken)
    with pytest.raises(InputError) as error:
        opener(file)
    sentence(error, f"{file} cannot be read: Input/output error")


def test_a_read_that_gives_some_at_a_time_is_gone_on_with(tmp_path, monkeypatch):
    write_whole(tmp_path / "file", bytes(range(100)))
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, to, at: whole(fd, [to[0][:7]], at))
    counts, target = [], np.zeros(90, np.uint8)
    with Reader(tmp_path / "file") as file:
        file.fill(target, 5, progress=counts.append)
    assert target.tolist() == list(range(5, 95))
    assert sum(counts) == 90 and max(counts) == 7


def test_without_preadv_a_place_is_sought(tmp_path, monkeypatch):
    """As on Windows, whose Python lacks it."""
    write_whole(tmp_path / "file", bytes(range(100)))
    monkeypatch.delattr(os, "preadv")
    with Reader(tmp_path / "file") as file:
        assert file.read(90, 5) == bytes(range(5, 95)) and file.read(1) == b"\0"


def test_readers_close_themselves(tmp_path):
    write_whole(tmp_path / "file", b"x")
    file = Reader(tmp_path / "file")
    number = file.fileno()
    del file
    with pytest.raises(OSError):
        os.fstat(number)
    with Reader(tmp_path / "file") as file:
        number = file.fileno()
    with pytest.raises(OSError):
        os.fstat(number)


def test_threads_read_at_their_own_places(tmp_path):
    content = np.random.default_rng(0).integers(0, 256, 1 << 20).astype(np.uint8)
    write_whole(tmp_path / "file", content.tobytes())
    out = np.empty_like(content)
    with Reader(tmp_path / "file") as file:
        threads = [
            threading.Thread(target=file.fill, args=(out[at : at + 4096], at))
            for at in range(0, len(out), 4096)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (out == content).all()


def rows_of_embedding(folder, table, name):
    shape = table[name].shape
    rows = Rows([(name, name, None)], table, {name: None}, {name: shape})
    os.truncate(folder / "model.safetensors", table[name].start + 10)
    rows.read(name, None, 0, shape[0])


def columns_of_embedding(folder, table, name):
    entry = table[name]
    target = torch.empty(entry.shape[0], 2)
    piece = Piece(name, entry, entry.start, target, entry.shape[1] * 4)
    with Reader(entry.file) as file:
        os.truncate(folder / "model.safetensors", entry.start + 10)
        read_piece(piece, None, file, lambda count: None)


@pytest.mark.parametrize("read", [rows_of_embedding, columns_of_embedding])
def test_a_file_that_becomes_shorter_is_told_alike(read, tmp_path):
    minqwen.save(small_model(moe=False), tmp_path)
    table = open_checkpoint(tmp_path)
    with pytest.raises(InputError) as error:
        read(tmp_path, table, "model.language_model.embed_tokens.weight")
    sentence(error, "model.safetensors became shorter", "nobody writes to it")


@pytest.mark.parametrize("name", [*SMALL, "trace.csv"])
def test_a_file_longer_than_its_kind_is_not_read(name, tmp_path):
    file = tmp_path / f"x{name}"
    most = SMALL.get(name, LARGE)
    file.touch()
    os.truncate(file, most + 1)  # without a block on the disk
    with pytest.raises(InputError) as error:
        read_whole(file)
    sentence(error, f"{file.name} is {most + 1} bytes long", f"at most {most} are")
    file.write_bytes(b"{}")
    assert read_whole(file) == b"{}"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json",
                                  "generation_config.json"])  # fmt: skip
def test_what_a_checkpoint_may_have_beside_its_weights(name, tmp_path):
    """Links lead no further than its folder and the hub's blobs; nothing waits."""
    secret, folder = tmp_path / "secret", tmp_path / "model"
    secret.write_text("{}")
    minqwen.save(small_model(moe=False), folder)
    file = folder / name
    for make, word in (
        (lambda: file.symlink_to(secret), "outside the checkpoint's folder"),
        (lambda: file.symlink_to("/dev/zero"), "outside the checkpoint's folder"),
        (lambda: file.symlink_to(file.name), "link"),
        (lambda: os.mkfifo(file), "not a regular file"),
    ):
        file.unlink(missing_ok=True)
        make()
        with pytest.raises(InputError) as error:
            minqwen.load(folder)
        sentence(error, name, word)


# ---- writing


def odd_names(folder):
    """Names that must stay what they are: (name, what is said of it)."""
    for kind in ("pipe", "device", "to a device", "to nothing", "to itself"):
        path = folder / kind.replace(" ", "_")
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            try:  # the system's own random bytes, under another name
                os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 9))
            except PermissionError:  # for root alone
                continue
        else:
            path.symlink_to({"device": "/dev/null", "nothing": "gone"}.get(
                kind.removeprefix("to a ").removeprefix("to "), path.name))  # fmt: skip
        yield path


def test_nothing_but_a_regular_file_is_replaced(tmp_path):
    for path in odd_names(tmp_path):
        before, names = os.lstat(path), set(os.listdir(tmp_path))
        for write in writers().values():
            with pytest.raises(InputError) as error:
                write(path)
            sentence(error, f"{path} cannot be written: ")
        after = os.lstat(path)
        assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
        assert set(os.listdir(tmp_path)) == names


def test_a_link_to_a_file_stays_and_its_file_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_bytes(b"before")
    (tmp_path / "link").symlink_to("there/file")
    write_whole(tmp_path / "link", b"after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_bytes() == b"after"
    assert len(list(tmp_path.rglob("*"))) == 3


def test_a_temporary_name_that_leads_elsewhere_is_not_followed(tmp_path):
    (tmp_path / "other").write_bytes(b"before")
    (tmp_path / "out.tmp").symlink_to("other")
    write_whole(tmp_path / "out", b"x")
    assert (tmp_path / "other").read_bytes() == b"before"
    assert sorted(os.listdir(tmp_path)) == ["other", "out"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_that_cannot_take_a_model_is_told_before_the_work(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError) as error:
        minqwen.save(small_model(moe=False), tmp_path)
    sentence(error, f"{name} cannot be written: it is not a regular file")
    assert os.listdir(tmp_path) == [name]


def writers():
    trace = Trace(
        {"version": 1, "source": "", "model": "", "length": 4000, "layer_types": [],
         "num_experts": 0, "tokens": None, "prompt_length": None, "pictures": []},
        {"token_ids": np.arange(4000, dtype=np.uint32)},
    )  # fmt: skip
    return {
        "bytes": lambda path: write_whole(path, bytes(2000)),
        "trace": trace.save,
        "page": lambda path: write_html(path, [trace]),
    }


@pytest.mark.parametrize("kind", ["bytes", "trace", "page"])
def test_a_full_disk_leaves_the_old_file_and_no_other(kind, tmp_path):
    path = tmp_path / "out"
    for old in (None, b"before"):
        if old:
            path.write_bytes(old)
        write = writers()[kind]
        with pytest.raises(InputError) as error, small_disk():
            write(path)
        sentence(error, f"{path} cannot be written: File too large")
        assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == (
            {"out": old} if old else {}
        )


def test_training_on_a_full_disk_keeps_what_it_had(tmp_path):
    from minqwen.train.loop import course, keep
    from minqwen.train.recipe import Recipe

    model = small_model(moe=False)
    recipe = Recipe.read()
    (tmp_path / "resume.pt").write_bytes(b"before")
    with pytest.raises((InputError, RuntimeError)), small_disk():
        keep(
            tmp_path / "resume.pt",
            model,
            course(model, None, recipe),
            recipe,
            (1, 1),
            {},
        )
    assert [f.read_bytes() for f in tmp_path.iterdir()] == [b"before"]


def test_whatever_stops_a_writer_leaves_nothing(tmp_path):
    for fault in (ValueError, KeyboardInterrupt):
        with pytest.raises(fault), replaced(tmp_path / "out") as file:
            file.write(b"some")
            raise fault
    assert not list(tmp_path.iterdir())


def test_a_name_that_cannot_be_given(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError) as error:
        write_whole(tmp_path / "out", b"x")
    sentence(error, f"{tmp_path / 'out'} cannot be written: Is a directory")
    with pytest.raises(InputError) as error:
        write_whole(tmp_path / "no" / "out", b"x")
    sentence(error, "out cannot be written: No such file")
    monkeypatch.chdir(tmp_path / "out")
    for name in (".", ".."):
        with pytest.raises(InputError) as error:
            write_whole(name, b"x")
        sentence(error, f"{name} cannot be written: ")
    assert [f.name for f in tmp_path.rglob("*")] == ["out"]


def test_bytes_are_on_the_disk_before_the_name_is_given(tmp_path, monkeypatch):
    """And the name is on the disk, folder and all, before the writer goes on."""
    seen = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, real=real, name=name: (seen.append(name), real(*a))
        )
    write_whole(tmp_path / "out", b"x")
    assert seen == ["fsync", "replace", "fsync"]
    assert (tmp_path / "out").read_bytes() == b"x"


def test_several_files_get_their_names_in_turn(tmp_path):
    names = [tmp_path / "b", tmp_path / "a"]
    for name in names:
        with created(temporary(name)) as file:
            file.write(name.name.encode())
    publish(*names)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == {
        "a": b"a", "b": b"b"}  # fmt: skip


def test_headers_are_those_of_the_safetensors_library(tmp_path):
    from safetensors.numpy import load_file

    arrays = {
        "ä": np.arange(6, dtype=np.float32).reshape(2, 3),
        "ids": np.arange(5, dtype=np.uint16),
        "none": np.zeros((0, 4), np.float16),
        "bytes": np.arange(3, dtype=np.uint8),
    }
    labels = {"float32": "F32", "uint16": "U16", "float16": "F16", "uint8": "U8"}
    kinds = {name: (labels[a.dtype.name], a.shape) for name, a in arrays.items()}
    raw, places = lay_out(kinds, {"note": "größer"})
    assert len(raw) % 8 == 0 and min(places.values()) == len(raw)
    content = raw + b"".join(arrays[name].tobytes() for name in places)
    write_whole(tmp_path / "x.safetensors", content)
    back = load_file(tmp_path / "x.safetensors")
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (back[name] == array).all() and back[name].dtype == array.dtype
        assert places[name] % array.itemsize == 0
    entries = read_table(tmp_path / "x.safetensors")
    assert {name: entry.start for name, entry in entries.items()} == places
