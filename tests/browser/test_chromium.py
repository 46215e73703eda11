"""Where the tests' browser comes from, and what is said where there is none."""

import chromium
import pytest
from playwright.sync_api import Error

pytestmark = pytest.mark.slow


def test_no_browser_is_said_in_one_sentence(monkeypatch, tmp_path):
    """With nothing on PATH, no package manager, and no server to download from."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_DOWNLOAD_HOST", "http://127.0.0.1:9")
    stub = tmp_path / "chromium"
    stub.write_text("#!/bin/sh\necho install me >&2\nexit 1\n")
    stub.chmod(0o755)
    if any("Google" in str(path) for path in chromium.installed()):
        pytest.skip("a browser in its usual place is found whatever PATH says")

    class Driver:
        class chromium:
            @staticmethod
            def launch(executable_path, args):
                raise Error(executable_path)

    with pytest.raises(chromium.NoBrowser, match="need Chromium or Chrome") as caught:
        chromium.launch(Driver)
    assert "\n" not in str(caught.value)


def test_a_stub_is_passed_over(browser):
    """The browser in use is one that starts, whatever else was found."""
    assert browser.is_connected() and browser.version
