"""The explorer as a page: served on this machine alone, or as one file to send.

The page is one HTML text with the views' modules inside. What it may do is said by a
content-security policy that allows the page's own script and style by their hashes, and
nothing else: no other script, no request to anywhere, but for the trace where it is
served. Texts of a trace reach it as data only.
"""

import base64
import hashlib
import secrets
import signal
import sys
import threading
import webbrowser
import zlib
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import InputError
from ..files import ASSETS, destination, write_whole
from ..terminal import say
from ..trace.engines import open_trace
from ..trace.labels import labelled
from ..trace.trace import Trace
from .address import checked
from .bundle import HERE, script
from .live import model_files

STYLE = "html { color-scheme: light dark; } body { margin: 0; }"
HOSTS = ("127.0.0.1", "localhost")
TRAITS = ("trace", "other")


def explore(path=None, other=None, html=None, browser=True, live=False, select="",
            labels=None, **reading):  # fmt: skip
    """The command: show the trace at `path` beside `other`, or write them to `html`;
    `live`: a page with the model at `path`, or the small one, inside; `select`: the
    address at which it opens; `labels`: a file with one for each token; `reading`: what
    trace/engines.py: open_trace is to know of other engines' files."""
    for option, given in {"--other": other, "--labels": labels}.items():
        if given and (live or not path):
            raise InputError(f"{option} needs a TRACE to stand by, and no --live")
    if html:
        destination(html)
    if live:
        select = checked(select) if select else ""
        whole = live_page(path or ASSETS / "tiny", select).encode()
        return write_whole(html, whole) if html else serve((), browser, whole)
    paths = [each for each in (path, other) if each]
    if reading.get("top_k") and not any(str(each).endswith(".csv") for each in paths):
        raise InputError("--top-k is for the .csv of llama.cpp; there is none here")
    traces = [open_trace(each, **reading) for each in paths]
    if labels:
        traces[0] = labelled(traces[0], labels)
    names = [Path(each).name for each in paths]
    if select:
        select = checked(select, traces[0] if traces else None)
    if len(traces) == 2:
        compared = traces[0].compare(traces[1])
        T, sizes = len(compared.equal), [trace.length for trace in traces]
        left = (
            f" These are the {T} tokens with which both texts begin, of {sizes}; the "
            "page aligns the rest word by word where it can."
        )
        say(f"[{compared}{left * (max(sizes) > T)}]")
    if html:
        write_html(html, traces, names, select)
    else:
        serve(traces, browser, names=names, select=select)


def page(traces=(), paths=(), names=(), select=""):
    """The page's HTML. traces: up to two Traces, to be inside it; paths: or where, on
    the page's own server, their bytes are. With neither it offers the sample traces and
    waits for a file. names: what it calls them; select: the address that it opens at,
    if its own has none."""
    held = [f">{packed(trace.compact())}" for trace in traces]
    held += [f' data-path="{path}">' for path in paths]
    for i, name in enumerate(names):
        safe = escape(name).replace("{", "&#123;")  # no place of the page's own text
        held[i] = f' data-name="{safe}"{held[i]}'
    rules = ["connect-src 'self'"] if paths else []
    held = dict(zip(TRAITS, held, strict=False)) or {
        f"sample-{path.stem}": f">{packed(Trace.load(path).compact())}"
        for path in sorted(ASSETS.glob("*.safetensors"))
    }
    return assembled("explorer.mjs", held, rules, select)


def live_page(path, select=""):
    """The page's HTML with the model at `path` inside, which runs in the browser."""
    held = {name: f">{packed(data)}" for name, data in model_files(path).items()}
    held["worker"] = f">\n{within_script(script('live/worker.mjs', 'serve(self)'))}"
    return assembled("live/page.mjs", held, ["worker-src blob:"], select)


def assembled(entry, held, rules, select=""):
    """HTML that starts `entry`, may do what `rules` add, and holds {name: content}."""
    if select:
        held["select"] = f">{select}"
    code = within_script("\n" + script(entry, "start()"))
    policy = [
        "default-src 'none'", f"script-src {hashed(code)}",
        f"style-src {hashed(STYLE)}", "img-src data:", "base-uri 'none'",
        "form-action 'none'", *rules,
    ]  # fmt: skip
    data = [
        f'<script type="text/plain" id="minqwen-{name}"{content}</script>'
        for name, content in held.items()
    ]
    text = (HERE / "explorer.html").read_text(encoding="utf-8")
    for name, value in {
        "policy": "; ".join(policy), "style": STYLE, "data": "\n".join(data),
        "script": code,
    }.items():  # fmt: skip
        text = text.replace(f"{{{name}}}", value, 1)
    return text


def within_script(text):
    """The text; ValueError if it would end the element that holds it."""
    if "</script" in text.lower() or "<!--" in text:
        raise ValueError("a module's text would end the script that holds it")
    return text


def hashed(text):
    """A source expression of a policy that allows just this inline text."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def packed(data):
    """Bytes, deflated and in base64: no character of it is markup."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return base64.b64encode(deflate.compress(data) + deflate.flush()).decode()


def write_html(path, traces, names=(), select=""):
    """One file that holds the page and the traces, and asks nobody for anything."""
    write_whole(path, page(traces, names=names, select=select).encode())


class Handler(BaseHTTPRequestHandler):
    """Answers GET of the server's few paths, to whoever asks it by a local name."""

    server_version, sys_version, timeout = "minqwen", "", 60

    def do_GET(self):
        # A page elsewhere may have its own name resolve to this machine; the browser
        # then sends that name, and must not be told anything.
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if host not in HOSTS:
            return self.send_error(403, "asked by another host's name")
        found = self.server.content.get(self.path.partition("?")[0])
        if found is None:
            return self.send_error(404)
        kind, body = found
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self):
        for name, value in {
            "Cache-Control": "no-store",
            "Content-Security-Policy": "frame-ancestors 'none'",
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
        }.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *args):
        """Nothing: a page and its trace are no news."""


class Server(ThreadingHTTPServer):
    """Listens on the loopback address, on a port that is free."""

    daemon_threads = True

    def __init__(self, traces, html=None, called=(), select=""):
        super().__init__((HOSTS[0], 0), Handler)
        # Others may be logged in on this machine, so all paths begin with a secret.
        secret = secrets.token_urlsafe(9)
        names = [trait for trait, _ in zip(TRAITS, traces, strict=False)]
        paths = [f"/{secret}/{name}" for name in names]
        html = html or page(paths=paths, names=called, select=select).encode()
        self.content = {f"/{secret}/": ("text/html; charset=utf-8", html)}
        for name, trace in zip(names, traces, strict=True):
            kind = "application/octet-stream"
            self.content[f"/{secret}/{name}"] = kind, trace.compact()
        self.url = f"http://{HOSTS[0]}:{self.server_port}/{secret}/"

    def handle_error(self, request, client_address):
        """A browser that hangs up is no error; anything else is."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def show_page(folder, url):
    """Open the browser, by way of a file that its owner alone may read."""
    # All users of a machine see what stands on its command lines, the secret too.
    file = Path(folder, "page.html")
    file.touch(0o600)
    file.write_text(f'<meta http-equiv="refresh" content="0; url={url}">\n')
    address = file.as_uri()
    # A thread, since some browsers run in the terminal.
    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def serve(traces, browser=True, html=None, names=(), select=""):
    """Serve the page until Ctrl-C or SIGTERM. traces: none, one, or two to compare, and
    their names; html: a whole page in place of theirs; select: as of `page`."""

    def stop(*_):
        raise KeyboardInterrupt

    with Server(traces, html, names, select) as server:
        before = signal.signal(signal.SIGTERM, stop)
        try:
            print(f"{server.url}", flush=True)
            say("[serving on this machine only; Ctrl-C ends]")
            with TemporaryDirectory() as folder:
                if browser:
                    show_page(folder, server.url)
                server.serve_forever()
        except KeyboardInterrupt:
            say()
        finally:
            signal.signal(signal.SIGTERM, before)
