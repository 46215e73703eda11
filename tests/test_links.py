"""Links lead somewhere, and those that lead outside are listed."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import nbformat
import pytest

from tools import links


def test_no_link_is_dead_and_none_outside_is_unlisted():
    complaints = links.check()
    assert not complaints, "\n".join(complaints)


def test_the_list_says_what_each_is_and_when_it_was_seen():
    rows = links.known()
    assert len(rows) > 50
    for url, (what, seen) in rows.items():
        assert what.strip(), url
        day, _, how = seen.partition(", ")
        assert seen == "not seen" or how in ("stored copy", "answered"), url
        assert seen == "not seen" or day[:2] == "20" and len(day) == 10, url


@pytest.fixture
def small(tmp_path):
    """A project of three pages and a notebook, all in order."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "minqwen").mkdir()
    place = '[tool.minqwen]\naddress = "https://github.com/o/minqwen"\n'
    (tmp_path / "pyproject.toml").write_text(place)
    (tmp_path / "README.md").write_text(
        "# One\n\n[a](docs/two.md#the-second-of-2) [b](#one) <https://example.org/x>, "
        "[own](https://github.com/o/minqwen/issues) `[c](nowhere)` http://127.0.0.1:9/\n"
    )
    (tmp_path / "docs" / "two.md").write_text(
        "## The *second*, of 2\n[up](../README.md)"
    )
    (tmp_path / "minqwen" / "x.py").write_text('"""arXiv 2412.06464; 2413.99999."""')
    text = "[glossary](two.md) and https://example.org/x."
    (tmp_path / "notebooks" / "two.md").touch()
    cell = nbformat.v4.new_markdown_cell(text)
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbformat.write(notebook, tmp_path / "notebooks" / "04_x.ipynb")
    (tmp_path / links.LIST).write_text("# List\n\n" + links.RULE)
    rows = {"https://arxiv.org/abs/2412.06464": ("a paper", "not seen")}
    links.write(rows | {"https://example.org/x": ("a page", "not seen")}, tmp_path)
    return tmp_path


def test_a_new_address_and_a_dead_link_are_found_and_named(small):
    assert links.check(small) == []
    page = small / "docs" / "two.md"
    page.write_text("[x](gone.md) [y](../README.md#two) https://example.org/new")
    complaints = "\n".join(links.check(small))
    assert "README.md: docs/two.md#the-second-of-2 names no heading" in complaints
    assert "docs/two.md: gone.md is not there" in complaints
    assert "docs/two.md: ../README.md#two names no heading" in complaints
    assert "docs/two.md: https://example.org/new is not listed" in complaints
    links.write({**links.known(small), "https://example.org/new": ("", "")}, small)
    assert "say in docs/links.md what it is" in "\n".join(
        links.check(small)
    )  # a row is not all


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/there" else 404)
        self.end_headers()

    def log_message(self, *_):
        """A test has nothing to log."""


def test_an_address_is_asked():
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}"
        assert links.ask(f"{place}/there") == ""
        assert "404" in links.ask(f"{place}/gone")
        server.shutdown()
    assert "refused" in links.ask(f"{place}/there")
    assert links.ask("no address") != ""
