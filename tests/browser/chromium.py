"""A browser for the tests: found, or installed, or its absence said in one sentence.

Playwright drives it, and brings the Node that runs the plain modules by themselves.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import playwright
from playwright.sync_api import Error

NAMES = "chromium chromium-browser google-chrome google-chrome-stable chrome".split()
ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


class NoBrowser(Exception):
    """There is no browser here, and none could be had."""


def launch(driver):
    """A headless browser of Playwright's `driver`; NoBrowser when none can be had."""
    for path in candidates():
        try:
            return driver.chromium.launch(executable_path=path, args=ARGS)
        except Error:  # such as a stub that only says where to get the real one
            continue
    raise NoBrowser(
        "the browser tests need Chromium or Chrome: none that starts is on PATH or in "
        "MINQWEN_BROWSER, and neither apt-get nor `playwright install chromium` could "
        "fetch one"
    )


def candidates():
    """Browsers, one at a time: what is there, else the system's package, else a
    download of Playwright's own, which is None."""
    found = installed()
    yield from found
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root and shutil.which("apt-get"):
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        quietly(["apt-get", "update", "-qq"], env)
        quietly(["apt-get", "install", "-y", "-qq", "chromium"], env)
        yield from (path for path in installed() if path not in found)
    with_libraries = ["--with-deps"] if root and shutil.which("apt-get") else []
    if quietly(
        [sys.executable, "-m", "playwright", "install", *with_libraries, "chromium"]
    ):
        yield None


def installed():
    """MINQWEN_BROWSER, known names on PATH and usual places: those that exist."""
    places = [os.environ.get("MINQWEN_BROWSER"), *map(shutil.which, NAMES)]
    places += [
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    ]
    return [place for place in places if place and Path(place).exists()]


def quietly(command, env=None):
    """Run it without a word; whether it went well."""
    try:
        done = subprocess.run(command, capture_output=True, env=env, timeout=900)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def node(script, *args, timeout=120):
    """Run an ES module's source under Playwright's own Node; returns its stdout.

    Raises CalledProcessError with stderr when it ends badly.
    """
    name = "node.exe" if os.name == "nt" else "node"
    program = Path(playwright.__file__).parent / "driver" / name
    command = [str(program), "--input-type=module", "-", *map(str, args)]
    done = subprocess.run(
        command, input=script, capture_output=True, text=True, timeout=timeout
    )
    if done.returncode:
        raise AssertionError(f"node ended with {done.returncode}:\n{done.stderr}")
    return done.stdout
