"""The commands `trace` and `explore`, and their server as a process of its own."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from browser.chromium import node
from test_trace import changed

import minqwen
from minqwen.trace import Trace
from minqwen.trace.engines import open_trace
from minqwen.widgets.bundle import bundle
from tools.sample_trace import sample

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "assets" / "picture.safetensors"


@contextmanager
def serving(*args):
    """`minqwen explore ARGS` as a process; yields it and the address it printed."""
    command = [sys.executable, "-m", "minqwen", "explore", "--no-browser", *args]
    process = subprocess.Popen(
        [str(word) for word in command], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def ask(url, method="GET", path=None, host=None):
    """Status, headers and body of one request."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    headers = {"Host": host} if host else {}
    connection.request(method, path or parts.path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


# ---- the sample


@pytest.mark.parametrize("name", ["note", "picture", "film"])
def test_the_samples_are_what_the_checkpoint_does_now(name):
    """If this fails, the checkpoint has changed: run tools/sample_trace.py again."""
    file = ROOT / "assets" / f"{name}.safetensors"
    stored = Trace.load(file)
    folder = ROOT / "assets" / "tiny"
    now = sample(name, minqwen.load(folder), minqwen.Processor.load(folder))
    assert (stored["token_ids"] == now["token_ids"]).all()
    assert stored.meta == now.meta and stored.tensors.keys() == now.tensors.keys()
    assert stored.compare(now).share.min() > 0.98
    for part in ("router_margin", "shared_gate", "state_norm"):
        assert np.abs(stored[part].astype(float) - now[part]).mean() < 1e-2
    assert file.stat().st_size < 1_000_000
    assert [p["kind"] for p in stored.meta["pictures"]][:1] == {
        "note": [], "picture": ["image"], "film": ["video"]
    }[name]  # fmt: skip
    assert ("head" in stored.meta["opens"]) == (name == "note")


# ---- minqwen trace


def test_trace_keeps_what_generate_writes(run, tmp_path):
    args = [ROOT / "assets" / "tiny", "--prompt", "What is é?", "--max-new-tokens", 7]
    _, out, _ = run("generate", *args)
    file = tmp_path / "x.safetensors"
    kept = ["--state", "0.1", "--state", "3.0", "--norms", "-o", file]
    code, traced, err = run("trace", *args, *kept)
    assert code == 0 and traced == out and "minqwen explore" in err
    trace = Trace.load(file)
    prompt = trace.meta["prompt_length"]
    assert trace.heads == [(0, 1), (3, 0)] and trace.meta["model"] == "tiny"
    text = "".join(trace.tokens)
    assert "What is é?" in text and text[len("".join(trace.tokens[:prompt])) :]
    assert (
        out.startswith("".join(trace.tokens[prompt:])) and "state_norm" in trace.tensors
    )


def test_trace_with_a_picture_and_a_draft(run, tmp_path):
    base = [ROOT / "assets" / "tiny", "--prompt", "Which digit is this?"]
    base += ["--image", ROOT / "assets" / "seven.png", "--max-new-tokens", 12]
    traces = []
    for draft in (0, 3):
        file = tmp_path / f"{draft}.safetensors"
        assert run("trace", *base, "--draft", draft, "-o", file)[0] == 0
        traces.append(Trace.load(file))
    assert traces[0].tokens == traces[1].tokens and traces[0].meta["pictures"]
    assert traces[0].compare(traces[1]).share.min() > 0.99


@pytest.mark.parametrize("state, code, words", [
    ("3", 2, "not LAYER.HEAD"), ("a.b", 2, "not LAYER.HEAD"),
    ("99.0", 1, "no layer 99"), ("0.99", 1, "no head 99"),
])  # fmt: skip
def test_states_that_do_not_exist(run, tmp_path, state, code, words):
    file = tmp_path / "x.safetensors"
    args = ["trace", ROOT / "assets" / "tiny", "--prompt", "a", "-o", file]
    found, _, err = run(*args, "--state", state)
    assert found == code and words in err and err.count("\n") == 1
    assert not file.exists()


# ---- minqwen explore


def test_the_page_is_served_to_this_machine_alone():
    with serving(SAMPLE, "--other", SAMPLE) as (process, url):
        status, headers, body = ask(url)
        assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert b"connect-src 'self'" in body and b'id="minqwen-other"' in body
        trace = ask(url + "trace")
        assert trace[2] == Trace.load(SAMPLE).compact() and trace[0] == 200
        assert ask(url + "other")[2] == trace[2]
        port = urlsplit(url).port
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example"):
            status, _, body = ask(url, host=host)
            assert status == 403 and b"trace" not in body
        assert ask(url, host=f"localhost:{port}")[0] == 200
        for path in (
            "/",
            "/trace",
            url + "nothing",
            "/../pyproject.toml",
            "//etc/passwd",
        ):
            assert ask(url, path=path)[0] == 404
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert ask(url, method)[0] == 501
        if sys.platform == "linux":  # where all of 127.0.0.0/8 is this machine
            with pytest.raises(OSError):
                socket.create_connection(("127.0.0.2", port), timeout=5).close()
        assert process.poll() is None


def test_a_model_is_served_inside_its_page():
    with serving("--live") as (_, url):
        status, _, body = ask(url)
        assert status == 200 and b"worker-src blob:" in body and len(body) < 12e6
        for part in (b"config", b"tokenizer", b"weights", b"worker"):
            assert b'id="minqwen-%s"' % part in body
        assert b"connect-src" not in body


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_cleanly(number):
    with serving() as (process, url):
        assert ask(url)[0] == 200
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0 and out == "" and "Traceback" not in err
    with pytest.raises(ConnectionRefusedError):
        ask(url)


@pytest.mark.slow
def test_no_command_line_shows_the_secret(tmp_path):
    """Others on the machine may read those: the browser is shown a file of ours."""
    told, browser = tmp_path / "told", tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\nstat -c %a ${{1#file://}} >{told}\n"
                       f"cat ${{1#file://}} >>{told}; echo $1 >>{told}\n")  # fmt: skip
    browser.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-m", "minqwen", "explore", str(SAMPLE)], cwd=ROOT, text=True,
        env=os.environ | {"BROWSER": str(browser)}, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = process.stdout.readline().strip()
    end = time.monotonic() + 60
    while not told.exists() or told.read_text().count("\n") < 3:
        assert time.monotonic() < end
        time.sleep(0.1)
    mode, page, address = told.read_text().splitlines()
    assert mode == "600" and url in page
    secret, file = url.rstrip("/").rpartition("/")[2], address.removeprefix("file://")
    assert secret not in address and os.path.exists(file)
    process.terminate()
    process.communicate(timeout=60)
    assert not os.path.exists(file)


def test_bad_traces_get_one_line(run, tmp_path):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(changed(Trace.load(SAMPLE), lambda m, t: m.update(length=3)))
    for args in ([bad], [SAMPLE, "--other", bad], [tmp_path / "none.safetensors"],
                 ["--other", SAMPLE], [ROOT / "README.md"]):  # fmt: skip
        code, out, err = run("explore", "--no-browser", *args)
        assert code == 1 and out == "" and err.startswith("minqwen: ")
        assert err.count("\n") == 1


def test_html_says_how_two_traces_differ(run, tmp_path):
    first = Trace.load(SAMPLE)
    first.tensors["expert_ids"] = ids = first["expert_ids"].copy()
    ids[5, 2, 0] = first["runner_up"][5, 2]
    first.save(tmp_path / "a.safetensors")
    page = tmp_path / "page.html"
    args = [tmp_path / "a.safetensors", "--other", SAMPLE, "--html", page]
    code, out, err = run("explore", *args)
    assert code == 0 and out == "" and f"1 of {first.length} tokens differ" in err
    assert page.read_text().count("minqwen-other") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.safetensors", "page.html",
    ]  # fmt: skip


def test_other_engines_files_with_a_tokenizer_and_top_k(run, tmp_path):
    trace = Trace.load(SAMPLE)
    ids, page = trace["expert_ids"][:12], tmp_path / "page.html"
    np.save(tmp_path / "routed.npy", ids)
    np.save(tmp_path / "ids.npy", trace["token_ids"])
    lines = [f"{la},{e}" for la in range(8) for row in ids for e in row[la]]
    (tmp_path / "routed.csv").write_text("\n".join(lines))
    tiny, known = ROOT / "assets" / "tiny", ["--token-ids", tmp_path / "ids.npy"]
    for name, more in {"routed.npy": [], "routed.csv": ["--top-k", 2]}.items():
        args = ["explore", tmp_path / name, "--html", page, *more]
        assert run(*args, "--tokenizer", tiny, *known)[0] == 0
        assert f'data-name="{name}"' in page.read_text()
        code, _, err = run(*args, "--tokenizer", tiny)
        assert code == 1 and "the trace holds no token_ids" in err
    opened = open_trace(
        tmp_path / "routed.csv", 2, tmp_path / "ids.npy", minqwen.Processor.load(tiny)
    )
    assert opened.tokens == trace.tokens[:12]
    assert (opened["expert_ids"] == ids).all()
    code, _, err = run("explore", SAMPLE, "--top-k", 2, "--html", page)
    assert code == 1 and "--top-k is for the .csv" in err


# ---- modules as one


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.mjs").write_text(text)


def test_modules_keep_their_names_to_themselves(tmp_path):
    low = "const x = 1;\nexport const y = x + 1;\nexport function f() { return x; }\n"
    middle = 'import { y as z } from "./low.mjs";\nexport class x { a = z; }\n'
    top = 'import { y, f } from "./low.mjs";\nimport {\n  x,\n} from "./middle.mjs";\n'
    top += "export const all = [y, f(), new x().a];\n"
    write(tmp_path, low=low, middle=middle, top=top)
    source = bundle("top.mjs", tmp_path)
    assert source.count("const module_low") == 1 and "import" not in source
    assert json.loads(node(source + "console.log(JSON.stringify(all));")) == [2, 1, 2]


@pytest.mark.parametrize("text, words", [
    ('import { a } from "./a.mjs";\nexport const b = a;\n', "circle"),
    ('import a from "./b.mjs";\n', "not a form"), ('import "./b.mjs";\n', "not a form"),
    ("export default 1;\n", "not a form"), ("export { a };\n", "not a form"),
])  # fmt: skip
def test_other_forms_are_refused(tmp_path, text, words):
    write(tmp_path, a=text)
    with pytest.raises(ValueError, match=words):
        bundle("a.mjs", tmp_path)
