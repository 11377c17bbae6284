"""The front door: `make help` lists what there is, and what the documents promise is there."""

import re
import subprocess

import pytest

from lake import settings

MAKEFILE = (settings.CHECKOUT / "Makefile").read_text()
DOCUMENTED = dict(re.findall(r"^([a-z][a-z-]*):.*?## (.+)$", MAKEFILE, re.MULTILINE))
PAGES = [*settings.CHECKOUT.glob("*.md"), *(settings.CHECKOUT / "docs").rglob("*.md")]


def make(*arguments: str) -> str:
    return subprocess.run(
        ["make", *arguments], cwd=settings.CHECKOUT, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("arguments", [(), ("help",)], ids=["make", "make help"])
def test_help_lists_every_documented_target_with_its_sentence(arguments: tuple[str, ...]) -> None:
    listed = dict(re.findall(r"^  make (\S+) +(.+)$", make(*arguments), re.MULTILINE))
    assert listed == DOCUMENTED


def test_every_target_is_documented_and_is_no_file() -> None:
    targets = {*re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE)}
    (phony,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert targets == {*DOCUMENTED} == {*phony.split()}


@pytest.mark.parametrize("promised", ["install", "demo", "up", "down", "test", "bench"])
def test_a_target_that_users_rely_on_is_there(promised: str) -> None:
    assert promised in DOCUMENTED


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(settings.CHECKOUT)))
def test_every_make_that_a_page_names_exists(page) -> None:
    named = {*re.findall(r"`make ([a-z][a-z-]*)", page.read_text())} | {
        *re.findall(r"^make ([a-z][a-z-]*)", page.read_text(), re.MULTILINE)
    }
    assert named <= {*DOCUMENTED}
