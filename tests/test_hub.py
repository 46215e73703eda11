"""Hub ids, against a small server that speaks the hub's protocol and breaks off."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.parse
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from tiny_models import small_model

import minqwen
from minqwen.errors import InputError
from minqwen.units import human
from minqwen.weights import resolve

pytestmark = pytest.mark.slow

STEP = 10 * 1024 * 1024  # bytes that the client writes at a time
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOAD = """
import sys
import minqwen
for name in sys.argv[1:]:
    try:
        model = minqwen.load(*name.split("@")[:1], dtype=None,
                             revision=(name.split("@") + [None])[1])
        print("loaded", sum(p.double().sum().item() for p in model.parameters()))
    except minqwen.InputError as err:
        print(err)
"""


class Hub(ThreadingHTTPServer):
    """Serves one repository, org/model; other names are missing, gated or broken.

    `log` lists the files fetched and from which byte. `cut` maps a file's name to the
    number of bytes after which its first transfer is broken off, and `lost` the files
    that nothing more is sent of after that; `stall` is the name of a file whose
    transfers stop half way and leave the client waiting. `claimed` maps names to sizes
    that are not theirs.
    """

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in folder.rglob("*")
            if file.is_file()
        }
        self.log, self.cut, self.stall = [], {}, None
        self.lost, self.claimed = set(), {}
        self.stalled, self.release = threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        headers.setdefault("Content-Length", len(body))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        parts = path.removeprefix("/api/models").strip("/").split("/")
        repo, rest = "/".join(parts[:2]), parts[2:]
        if repo == "org/gated":
            self.answer(403, X_Error_Code="GatedRepo")
        elif repo == "org/private":
            self.answer(401)
        elif repo == "org/broken":
            self.answer(500)
        elif repo != "org/model":
            self.answer(404, X_Error_Code="RepoNotFound")
        elif rest[:1] == ["revision"] and rest[1] not in ("main", COMMIT):
            self.answer(404, X_Error_Code="RevisionNotFound")
        elif rest[:1] == ["tree"]:
            self.answer(
                200, json.dumps([self.entry(n) for n in self.server.files]).encode()
            )
        elif rest[:1] == ["resolve"]:
            self.transfer("/".join(rest[2:]))
        else:
            siblings = [{"rfilename": name} for name in self.server.files]
            info = {"id": repo, "sha": COMMIT, "siblings": siblings}
            self.answer(200, json.dumps(info).encode())

    def entry(self, name):
        body = self.server.files[name]
        return {"type": "file", "path": name, "size": len(body),
                "oid": sha256(body).hexdigest()[:40]}  # fmt: skip

    def transfer(self, name):
        """A file, or the rest of it after the first byte of a Range."""
        body, hub = self.server.files[name], self.server
        start = int(self.headers.get("Range", "bytes=0-")[6:].rstrip("-"))
        headers = {
            "ETag": '"' + sha256(body).hexdigest() + '"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
            "Connection": "close",
            "Content-Length": len(body) - start,
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        part = body[start:]
        if name in hub.claimed:
            headers["X-Linked-Size"] = hub.claimed[name]
        if self.command == "GET":
            if name in hub.lost and name not in hub.cut:
                self.close_connection = True
                return
            hub.log.append((name, start))
            if name == hub.stall:
                part = part[: len(part) // 2]
            part = part[: hub.cut.pop(name, len(part))]
        self.answer(206 if start else 200, part, **headers)
        if self.command == "GET" and name == hub.stall:
            self.wfile.flush()
            hub.stalled.set()
            hub.release.wait(60)
        self.close_connection = True


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """26 MB in shards above the hub client's write size, and files nobody asked for."""
    folder = tmp_path_factory.mktemp("repository")
    model = small_model(moe=False, vocab_size=100_000).to(torch.bfloat16)
    minqwen.save(model, folder, max_shard_bytes=13_000_000)
    for name in ("tokenizer.json", "merges.txt", "chat_template.jinja"):
        (folder / name).write_text(f"{{}} {name}")
    (folder / "original").mkdir()
    for name in ("evil.py", "pytorch_model.bin", "README.md", "original/x.safetensors"):
        (folder / name).write_text("never fetched")
    return folder


@pytest.fixture(scope="module")
def loaded(repository):
    """The line that LOAD prints when it got every weight."""
    model = minqwen.load(repository, dtype=None)
    return f"loaded {sum(p.double().sum().item() for p in model.parameters())}"


@pytest.fixture
def hub(repository):
    with Hub(repository) as server:
        yield server
        server.release.set()
        server.shutdown()


def environment(url, cache, **extra):
    return os.environ | {
        "HF_ENDPOINT": url, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": os.pathsep.join(sys.path),
        "no_proxy": "127.0.0.1"} | extra  # fmt: skip


def load_there(url, cache, *names, **extra):
    """What a fresh process prints when it loads the names, one line each."""
    result = subprocess.run(
        [sys.executable, "-c", LOAD, *names],
        env=environment(url, cache, **extra), capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines(), result.stderr


def test_a_broken_connection_is_taken_up_where_it_stopped(hub, loaded, tmp_path):
    shard = "model-00001-of-00003.safetensors"
    assert len(hub.files[shard]) > 12_000_000
    hub.cut[shard] = 11_000_000
    (line,), progress = load_there(hub.url, tmp_path, "org/model")
    assert line == loaded
    assert "%" not in progress  # a bar is for a terminal
    again = [start for name, start in hub.log if name == shard]
    assert again == [0, STEP]
    fetched = {name for name, _ in hub.log}
    never = {"evil.py", "pytorch_model.bin", "README.md", "original/x.safetensors"}
    assert fetched == hub.files.keys() - never

    hub.log.clear()
    (by_tag, by_commit), _ = load_there(
        hub.url, tmp_path, "org/model@main", f"org/model@{COMMIT}"
    )
    assert by_tag == by_commit == line and hub.log == []
    offline, _ = load_there("http://127.0.0.1:9", tmp_path, "org/model", "org/other",
                            HF_HUB_OFFLINE="1")  # fmt: skip
    assert offline[0] == line
    assert offline[1].startswith("org/other is not, or not wholly, in the local cache")


def test_a_second_run_goes_on_where_the_first_broke_off(hub, loaded, tmp_path):
    shards = sorted(name for name in hub.files if name.startswith("model-"))
    sizes = [len(hub.files[name]) for name in shards]
    last = max(i for i, size in enumerate(sizes) if size > 11_000_000)
    hub.cut[shards[last]], hub.lost = 11_000_000, {shards[last]}
    (line,), _ = load_there(hub.url, tmp_path, "org/model")
    assert line.startswith("org/model was not downloaded completely (")
    kept = f"{human(sum(sizes[:last]) + STEP)} of {human(sum(sizes))} are kept"
    assert line.endswith(f": {kept}; run the same command again to continue.")
    hub.lost = set()
    hub.log.clear()
    (line,), _ = load_there(hub.url, tmp_path, "org/model")
    assert line == loaded
    fetched = [item for item in hub.log if item[0] in shards]
    assert fetched[0] == (shards[last], STEP)
    assert fetched[1:] == [(name, 0) for name in shards[last + 1 :]]


def test_what_was_damaged_meanwhile_is_not_used(hub, loaded, tmp_path):
    shard = "model-00001-of-00003.safetensors"
    blobs = tmp_path / "hub" / "models--org--model" / "blobs"
    blobs.mkdir(parents=True)
    kept = blobs / (sha256(hub.files[shard]).hexdigest() + ".partial")
    kept.write_bytes(b"not what was sent")
    (line,), _ = load_there(hub.url, tmp_path, "org/model")
    assert f"{shard} arrived damaged and was removed" in line and not kept.exists()
    (line,), _ = load_there(hub.url, tmp_path, "org/model")
    assert line == loaded


def test_a_disk_too_small_is_told_before_anything_is_fetched(hub, tmp_path):
    hub.claimed["model-00001-of-00003.safetensors"] = 10**18
    (line,), _ = load_there(hub.url, tmp_path, "org/model")
    assert line.startswith("org/model needs 1e+06 TB more in ")
    assert "set HF_HOME" in line
    assert not [name for name, _ in hub.log if name.endswith(".safetensors")]


@pytest.mark.skipif(sys.platform == "win32", reason="no terminal to pretend to be")
def test_a_terminal_sees_progress(hub, loaded, tmp_path):
    import pty
    import termios

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD, "org/model"], stderr=theirs,
        env=environment(hub.url, tmp_path), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal's output
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    assert process.communicate()[0].strip() == loaded
    assert b"model-00001-of-00003.safetensors: 100%" in shown


def test_a_killed_download_keeps_its_complete_files(hub, loaded, tmp_path):
    hub.stall = "model-00002-of-00003.safetensors"
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD, "org/model"],
        env=environment(hub.url, tmp_path),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert hub.stalled.wait(60)
        blobs = tmp_path / "hub" / "models--org--model" / "blobs"
        first = sha256(hub.files["model-00001-of-00003.safetensors"]).hexdigest()
        for _ in range(600):
            if (blobs / first).exists():
                break
            threading.Event().wait(0.05)
    finally:
        process.kill()
        process.wait()
    hub.stall = None
    hub.release.set()
    hub.log.clear()
    (line,), _ = load_there(hub.url, tmp_path, "org/model")
    assert line == loaded
    names = [name for name, _ in hub.log]
    assert "model-00002-of-00003.safetensors" in names
    assert "model-00001-of-00003.safetensors" not in names


def test_one_sentence_for_each_refusal(hub, tmp_path):
    refusals = {
        "org/gated": "terms", "org/private": "(HTTP 401); log in",
        "org/nothing": "neither a local path nor a hub repository",
        "org/model@v9": "no revision v9", "org/broken": "unreachable",
        "a--b/c..d": "possible hub id",
    }  # fmt: skip
    lines, _ = load_there(hub.url, tmp_path, *refusals)
    for line, (name, words) in zip(lines, refusals.items(), strict=True):
        assert line.startswith(name.split("@")[0]) and words in line


def test_nobody_answers(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (line,), _ = load_there(f"http://127.0.0.1:{port}", tmp_path, "org/model")
    assert line.startswith("org/model is not") and "unreachable" in line


def test_a_path_that_leads_nowhere_is_told_before_the_hub(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="^models/tniy is no folder here, and as a"):
        resolve("models/tniy")


@pytest.mark.parametrize(
    "name",
    ["nowhere", "./no/where", "/no/where", "a/b/c", "no/model.safetensors", "\0"],
)
def test_what_is_neither_path_nor_id(name):
    with pytest.raises(InputError, match="does not exist"):
        resolve(name)
