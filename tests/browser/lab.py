"""A real JupyterLab with one notebook in it, for the time of a test."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300  # seconds; a loaded machine starts Lab slowly


@contextmanager
def lab(page, folder, *cells):
    """Lab serves `folder`, and `page` has run a notebook of these cells in it."""
    notebook = nbformat.v4.new_notebook()
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["kernelspec"] = kernel  # else Lab asks which
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(notebook, folder / "a.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{kind}_DIR": str(folder / kind) for kind in ("CONFIG", "RUNTIME")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    # Lab would look for news and newer versions of itself on the network.
    command += ["--LabApp.news_url=", "--LabApp.check_for_updates_class="
                "jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    server = subprocess.Popen(
        command,
        env=os.environ | own | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        stop = time.monotonic() + PATIENCE
        while not _answers(f"{address}/api"):
            assert server.poll() is None, "JupyterLab ended before it answered"
            assert time.monotonic() < stop, "JupyterLab does not answer"
            time.sleep(0.2)
        run_all(page, f"{address}/lab/tree/a.ipynb?reset")
        yield
        page.close()  # before the server goes, which Lab would complain of
    finally:
        server.terminate()
        server.wait()


def _answers(address):
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def run_all(page, address):
    """Open the notebook and run its cells, as a reader does from the menu."""
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(address)
    page.get_by_text("| Idle").wait_for()  # a kernel that connects still runs nothing
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text("Run All Cells", exact=True).click()
