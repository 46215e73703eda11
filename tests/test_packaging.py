"""What those who install, fork or change the project get, beside the code."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_string

import pytest
import yaml
from test_project import PROJECT, ROOT, constraints, tracked_files

from tools import address

PLACE = "https://example.org/someone/minqwen"
HAND_OVER = "README.md CONTRIBUTING.md SECURITY.md CHANGELOG.md CITATION.cff".split()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# Relative targets of links and pictures, which only a checkout can follow.
RELATIVE = re.compile(r"\]\((?!https?:|#)([^)]+)\)")


def copied(target, names=None):
    """A copy of the repository's files, or of some, away from what git ignores."""
    files = [ROOT / name for name in names] if names else tracked_files()
    for file in files:
        copy = target / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return target


def with_address(folder, place):
    file = folder / "pyproject.toml"
    text = re.sub(
        r'^address = ".*"$', f'address = "{place}"', file.read_text(), flags=re.M
    )
    file.write_text(text)
    address.write(folder)


# ---- the project's address


def test_files_are_in_step_with_the_address(tmp_path):
    copied(tmp_path, ["pyproject.toml", *HAND_OVER])
    address.write(tmp_path)
    for name in HAND_OVER:
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), (
            f"{name} differs; run python -m tools.address"
        )


def test_without_an_address_nothing_leads_nowhere(tmp_path):
    with_address(copied(tmp_path, ["pyproject.toml", *HAND_OVER]), "")
    readme = (tmp_path / "README.md").read_text()
    assert (
        "badge.svg" not in readme and f"git clone {address.UNKNOWN} minqwen" in readme
    )
    assert not re.search(
        "^repository-code", (tmp_path / "CITATION.cff").read_text(), re.M
    )
    shown = address.description(readme, "")
    assert not RELATIVE.search(shown)
    assert "Picture: The routing explorer" in shown and "\n| `delta.py` |" in shown
    assert address.urls("") == {}


def test_with_an_address_all_of_it_appears_and_can_go_again(tmp_path):
    copied(tmp_path, ["pyproject.toml", *HAND_OVER])
    before = {name: (tmp_path / name).read_text() for name in HAND_OVER}
    for place in (PLACE + "/", PLACE):  # a second time changes nothing
        with_address(tmp_path, place)
        readme = (tmp_path / "README.md").read_text()
        assert readme.count(f"]({PLACE}/actions/workflows/tests.yml)") == 1
        assert readme.startswith("# minqwen\n\n[![tests]")
        assert f"git clone {PLACE} minqwen" in readme
        citation = yaml.safe_load((tmp_path / "CITATION.cff").read_text())
        assert citation["repository-code"] == PLACE
    shown = address.description(readme, PLACE)
    pictures = re.findall(r"!\[[^]]+\]\((\S+?)\)", readme)[1:]
    assert len(pictures) == 2 and not RELATIVE.search(shown)
    for picture in pictures:
        assert f"]({PLACE}/raw/HEAD/{picture})" in shown
    assert f"[`delta.py`]({PLACE}/blob/HEAD/minqwen/" in shown
    assert set(address.urls(PLACE)) == {"Source", "Issues", "Changelog"}
    with_address(tmp_path, "")
    assert before == {name: (tmp_path / name).read_text() for name in HAND_OVER}


# ---- what an outside CI and a contributor's machine run


def test_workflows_run_on_a_fork_and_may_only_read():
    assert WORKFLOWS
    for path in WORKFLOWS:
        flow = yaml.safe_load(path.read_text())
        events = flow[True]  # YAML 1.1 takes the bare word `on` for a boolean
        assert {"push", "pull_request"} <= events.keys()
        assert flow["permissions"] == {"contents": "read"}
        assert flow["concurrency"]["cancel-in-progress"] is True
        assert "secrets." not in path.read_text()
        for name, job in flow["jobs"].items():
            assert job["timeout-minutes"] <= 90
            pages = {"pages": "write", "id-token": "write"} if name == "publish" else 0
            assert job.get("permissions", 0) == pages
            assert not pages or "repository.has_pages" in job["if"]
            for step in job["steps"]:
                action = step.get("uses", "actions/x@v1")
                assert re.fullmatch(r"actions/[\w-]+@v\d+", action)


def test_workflows_test_the_pythons_that_are_promised():
    flow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    rows = flow["jobs"]["tests"]["strategy"]["matrix"]["include"]
    tested = {(row["os"], row["python"]) for row in rows}
    assert {("ubuntu", "3.11"), ("ubuntu", "3.13")} <= tested
    assert any(system == "macos" for system, _ in tested)
    classified = [c.split(" :: ")[-1] for c in PROJECT["classifiers"] if "Python" in c]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert oldest in classified and {python for _, python in tested} <= set(classified)


def test_pre_commit_runs_the_pinned_tools():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}
    assert {"ruff-check", "ruff-format", "tie", "check-added-large-files"} == set(hooks)
    assert "ruff" in constraints()
    for name in ("ruff-check", "ruff-format", "tie"):
        program, *_ = hooks[name]["entry"].split()
        assert hooks[name]["language"] == "system" and program.startswith(".venv/bin/")


def test_the_changelog_has_this_version_or_what_is_unreleased():
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(.+?)\]", text, re.M)
    assert versions[0] == "Unreleased"
    assert len(versions) == 1 or versions[1] == PROJECT["version"]
    kinds = set(re.findall(r"^### (.+)", text, re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_quick_tier_leaves_out_what_is_marked_and_nothing_else():
    text = (ROOT / "Makefile").read_text()
    assert '$(if $(filter quick,$@),-m "not slow") $(ARGS)' in text
    marks = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    assert any("pytestmark = pytest.mark.slow" in mark for mark in marks)
    names = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]
    assert [m.split(":")[0] for m in names["ini_options"]["markers"]] == ["slow"]


# ---- what is installed


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(source distribution, wheel made out of it), of a copy that has an address."""
    pytest.importorskip("setuptools", "77", reason="the build backend is not here")
    source = copied(tmp_path_factory.mktemp("source"))
    with_address(source, PLACE)
    code = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    quietly([sys.executable, "-c", code], source)
    (archive,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(source / "again", filter="data")
    (folder,) = (source / "again").iterdir()
    command = "pip wheel --no-build-isolation --no-deps --no-index -w dist ."
    quietly([sys.executable, "-m", *command.split()], folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    return archive, wheel


def quietly(command, folder, **env):
    done = subprocess.run(
        command, cwd=folder, env=os.environ | env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_source_distribution_is_the_repository(built):
    with tarfile.open(built[0]) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {str(path.relative_to(ROOT)) for path in tracked_files()} <= names


@pytest.mark.slow
def test_the_wheel_tours_from_an_empty_folder(built, tmp_path):
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(built[1]) as wheel:
        wheel.extractall(installed)
    out = quietly([sys.executable, "-m", "minqwen", "tour"], empty,
                  PYTHONPATH=str(installed))  # fmt: skip
    assert "> Which digit is this?\n" in out and "7" in out and "s in all" in out
    place = installed / "minqwen" / "assets"
    assert f"explore {place / 'note.safetensors'} shows" in out
    page = empty / "page.html"
    command = [sys.executable, "-m", "minqwen", "explore"]
    command += [place / "note.safetensors", "--html", page]
    quietly(command, empty, PYTHONPATH=str(installed))
    assert page.stat().st_size > 250_000  # the page's script, and the trace


@pytest.mark.slow
def test_the_wheel_holds_the_package_its_assets_and_no_more(built):
    with zipfile.ZipFile(built[1]) as wheel:
        names = [n for n in wheel.namelist() if ".dist-info/" not in n]
        (metadata,) = (n for n in wheel.namelist() if n.endswith("/METADATA"))
        shown = message_from_string(wheel.read(metadata).decode())
    package = {str(p.relative_to(ROOT)) for p in tracked_files()}
    package = {name for name in package if name.startswith("minqwen/")}
    extra = {name.removeprefix("minqwen/") for name in set(names) - package}
    assert package <= set(names)
    assert {name.split("/")[0] for name in extra} == {"assets"}
    assert {name.split("/")[1] for name in extra} == {
        "tiny", "seven.png", *(f"{n}.safetensors" for n in ("note", "picture", "film"))
    }  # fmt: skip
    urls = dict(line.split(", ") for line in shown.get_all("Project-URL"))
    assert urls == address.urls(PLACE)
    assert f"]({PLACE}/raw/HEAD/assets/routing_token.png)" in shown.get_payload()
    assert not RELATIVE.search(shown.get_payload())


def test_git_and_an_editable_install_have_the_assets_once():
    from minqwen.files import ASSETS

    assert ASSETS == ROOT / "assets"
    weights = [path for path in tracked_files() if path.name == "model.safetensors"]
    assert weights == [ASSETS / "tiny" / "model.safetensors"]
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    assert build["requires"] == ["setuptools>=77"]
