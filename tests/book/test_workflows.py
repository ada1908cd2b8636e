"""The workflows call make targets alone, ask for little, and hand nothing to a stranger."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
CALL = re.compile(r"make ([a-z-]+)(?: [A-Z]+=\S+)*")
PINNED = re.compile(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
WRITES = {  # workflow → job → what it may write
    "publish": {"push": "contents"},
    "regression": {"comment": "pull-requests"},
    "gpu": {"publish": "actions"},
}

each = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path: Path) -> dict:
    """A workflow; YAML reads its key `on` as true."""
    text = yaml.safe_load(path.read_text())
    return text | {"on": text[True]}


def commands(job: dict) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


@each
def test_steps_call_make_targets_alone(path):
    for job in read(path)["jobs"].values():
        for command in commands(job):
            call = CALL.fullmatch(command)
            assert call and call[1] in TARGETS, command


@each
def test_actions_are_pinned_by_commit(path):
    for line in path.read_text().splitlines():
        if "uses:" in line:
            assert PINNED.search(line), line


@each
def test_each_job_asks_for_what_it_needs(path):
    workflow = read(path)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        written = [what for what, how in job["permissions"].items() if how != "read"]
        assert written == [x for x in [WRITES.get(path.stem, {}).get(name)] if x]
        assert job["timeout-minutes"] <= 180
    assert "secrets." not in path.read_text()


@each
def test_a_job_that_may_write_runs_nothing_of_the_book(path):
    for job in read(path)["jobs"].values():
        if set(job["permissions"].values()) - {"read"}:
            assert set(commands(job)) <= {"make publish", "make republish", "make comment"}


@each
def test_no_stranger_reaches_the_gpu(path):
    workflow = read(path)
    events = workflow["on"]
    assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(events)
    for job in workflow["jobs"].values():
        if "self-hosted" in job["runs-on"]:
            assert job["environment"] == "gpu"
            own = "github.event.pull_request.head.repo.full_name == github.repository"
            assert "pull_request" not in events or own in job["if"]


@each
def test_a_page_that_fails_leaves_its_traceback(path):
    for job in read(path)["jobs"].values():
        builds = {"make book", "make execute"} & set(commands(job))
        kept = [
            step["with"]["path"]
            for step in job["steps"]
            if step.get("if") in ("failure()", "always()") and "upload-artifact" in step["uses"]
        ]
        assert not builds or any("_build/html/reports" in what for what in kept)
        if builds and job["runs-on"] != ["self-hosted", "gpu"]:
            assert "PIP_EXTRA_INDEX_URL" in job["env"], "else the CUDA build is installed"


def test_what_is_tagged_is_measured_and_then_published():
    workflow = read(ROOT / ".github/workflows/gpu.yml")
    assert workflow["on"]["push"] == {"tags": ["v*"]}, "a branch would be measured at each push"
    assert "startsWith(github.ref, 'refs/tags/v')" in workflow["jobs"]["publish"]["if"]


def test_the_readme_says_what_no_file_can_set():
    """A fork's pull request brings workflows of its own, which the tests above do not read."""
    said = (ROOT / "README.md").read_text().partition("\n## On GitHub\n")[2].partition("\n## ")[0]
    assert "Require approval for all external contributors" in said
    assert "reviewers for the environment `gpu`" in said


def test_what_ci_calls_is_what_the_script_calls():
    script = re.findall(r"^make .*", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    (job,) = read(ROOT / ".github/workflows/ci.yml")["jobs"].values()
    assert commands(job) == script
    kept = [step["with"]["path"] for step in job["steps"] if step.get("if") == "failure()"]
    assert "_build/html/reports" in kept[0]


def test_a_browser_is_there_before_the_tests_that_skip_without_one():
    script = (ROOT / ".ci/run").read_text()
    assert script.index("--no-install-recommends $browser") < script.index("\nmake test\n")
