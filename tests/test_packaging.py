"""What those who install, fork or change the project get, beside the code."""

import re
import shutil

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
    assert len(pictures) == 3 and not RELATIVE.search(shown)
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
        for job in flow["jobs"].values():
            assert job["timeout-minutes"] <= 90 and "permissions" not in job
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
