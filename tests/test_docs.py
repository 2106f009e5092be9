"""Every command in the README and in docs/ works: CI runs it, by these tests or itself."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Order in which pages are run: a later one may use what an earlier one made.
FIRST = ["docs/data.md", "docs/iql.md", "docs/user_model.md"]
_FENCE = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A command line, or a ``python`` block, of a page; ``bash real`` needs the real rows."""

    page: str
    line: str
    real: bool = False
    is_python: bool = False

    def __str__(self) -> str:
        return f"{self.page}: {self.line.splitlines()[0]}"


def commands() -> list[Command]:
    """Every line of every ``bash`` block and every ``python`` block, in the order of pages.

    ``console`` blocks show what cannot be run here (a cloud, a browser).
    """
    names = [str(page.relative_to(ROOT)) for page in PAGES]
    names.sort(key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    found = []
    for name in names:
        for language, mark, block in _FENCE.findall((ROOT / name).read_text(encoding="utf-8")):
            if language == "bash":
                found += [Command(name, line, mark == "real") for line in block.splitlines()]
            elif language == "python":
                found.append(Command(name, block, is_python=True))
    return [command for command in found if command.line and not command.line.startswith("#")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: like a clone, with nothing made yet."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("train.py", "tune_configs", "cluster.yaml"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.docs
@pytest.mark.timeout(420)
@pytest.mark.parametrize("command", commands(), ids=str)
def test_a_documented_command_works(
    command: Command, folder: Path, request: pytest.FixtureRequest
) -> None:
    """Fails if a newcomer who types what a page says would meet an error."""
    if command.is_python:
        _run([sys.executable, "-c", command.line], folder)
        return
    words = shlex.split(command.line, comments=True)
    if words[0] == "make":
        assert any(
            line.split() == words for line in (ROOT / ".ci" / "run").read_text().splitlines()
        ), f"{command.line}: CI does not run it"
        return
    if command.real:
        source = folder / "KuaiRand-Pure"
        if not source.exists():
            source.symlink_to(request.getfixturevalue("kuairand_pure"))
    _run([str(Path(sys.executable).with_name(words[0])), *words[1:]], folder)


def test_the_pages_link_to_what_is_there() -> None:
    """Fails if a page shows a broken picture or leads nowhere."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (page.parent / target).is_file(), target


def _run(words: list[str], folder: Path) -> None:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
