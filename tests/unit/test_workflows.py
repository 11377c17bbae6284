"""The workflows of GitHub: they call `make` targets that exist, pin what they use, and may do no more than they
need.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lake import settings

WORKFLOWS = sorted((settings.CHECKOUT / ".github" / "workflows").glob("*.yml"))
RULES = re.findall(r"^([a-z-]+):", (settings.CHECKOUT / "Makefile").read_text(), re.MULTILINE)
every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def content(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(), yaml.BaseLoader)  # which leaves the key `on` a word


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in content(path)["jobs"].values() for step in job.get("steps", [])]


def uses(path: Path) -> list[str]:
    return re.findall(r"uses: (.*)$", path.read_text(), re.MULTILINE)


def test_there_is_a_workflow_for_each_purpose() -> None:
    assert [path.stem for path in WORKFLOWS] == ["images", "locks", "release", "test"]


def test_the_targets_they_call_exist() -> None:
    called = {
        (path.stem, target)
        for path in WORKFLOWS
        for step in steps(path)
        for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))
    }
    assert {("test", "check"), ("test", "test"), ("images", "images"), ("images", "sbom"), ("locks", "lock")} <= called
    assert not {(workflow, target) for workflow, target in called if target not in RULES}


@every_workflow
def test_every_action_is_pinned_by_its_commit_and_names_its_version(path: Path) -> None:
    actions = [action for action in uses(path) if not action.startswith("./")]
    assert actions
    assert not [
        action for action in actions if not re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)
    ]


def test_an_action_has_one_version_everywhere() -> None:
    pins = {action for path in WORKFLOWS for action in uses(path)}
    names = [action.split("@")[0] for action in pins]
    assert len(names) == len(set(names))


@every_workflow
def test_permissions_are_least_and_runs_end(path: Path) -> None:
    workflow = content(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    for name, job in workflow["jobs"].items():
        assert "uses" in job or int(job["timeout-minutes"]) <= 90
        more = {scope for scope, level in job.get("permissions", {}).items() if level == "write"}
        assert more == ({"contents", "packages"} if (path.stem, name) == ("release", "release") else set())
    assert {*re.findall(r"secrets\.(\w+)", path.read_text())} <= {"GITHUB_TOKEN"}
    checkouts = [step for step in steps(path) if step.get("uses", "").startswith("actions/checkout@")]
    assert all(step["with"]["persist-credentials"] == "false" for step in checkouts)


def test_the_tests_run_on_every_python_that_millrace_supports() -> None:
    script = (settings.CHECKOUT / "scripts" / "venv.sh").read_text()
    [(first, last)] = re.findall(r"\(3, (\d+)\) <= sys\.version_info\[:2\] <= \(3, (\d+)\)", script)
    matrix = content(settings.CHECKOUT / ".github" / "workflows" / "test.yml")["jobs"]["test"]["strategy"]["matrix"][
        "python"
    ]
    assert matrix == [f"3.{minor}" for minor in range(int(first), int(last) + 1)]
