"""A local server for the tests' pages: the widgets' modules as they are, and traces."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from minqwen.widgets.bundle import HERE

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>A view</title>
<body><main><h1>A view</h1><div id="view"></div></main>
<script type="module">
import { mount } from "/VIEW";
import { localModel } from "/shared/page.mjs";
const values = await (await fetch("/values")).json();
for (const name of ["trace", "other"]) {
  const bytes = await (await fetch(`/${name}`)).arrayBuffer();
  values[name] = bytes.byteLength ? bytes : null;
}
window.model = localModel(values);
const start = performance.now();
window.unmount = mount(document.getElementById("view"), model, {});
window.mounting = performance.now() - start;
document.body.dataset.ready = "true";
</script></body></html>"""


class Served(ThreadingHTTPServer):
    """`show(view, trace, other, **traits)` says what the page at `url` will hold."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def show(self, view, trace, other=b"", **traits):
        page = PAGE.replace("VIEW", view).encode()
        self.content = {
            "/": ("text/html", page),
            "/favicon.ico": ("image/png", b""),
            "/trace": ("application/octet-stream", trace),
            "/other": ("application/octet-stream", other),
            "/values": ("application/json", json.dumps(traits).encode()),
        }


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        module = (HERE / self.path[1:]).resolve()
        if module.suffix == ".mjs" and HERE in module.parents:
            kind, body = "text/javascript", module.read_bytes()
        else:
            kind, body = self.server.content[self.path]
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Nothing: only what a page shows is of interest."""
