"""What the tests of broken input share: the files of a world, and how a command must complain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from noetik_rllib.cli.errors import run
from noetik_rllib.cli.main import cli

LOG = "log_standard_4_08_to_4_21_pure.csv"
RANDOM = "log_random_4_22_to_5_08_pure.csv"
VIDEOS = "video_features_basic_pure.csv"
USERS = "user_features_pure.csv"
Change = Callable[[bytes], bytes]


def complaint(words: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail, and return the one line that it says."""
    with pytest.raises(SystemExit) as ended:
        run(cli, list(map(str, words)))
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert not said.out
    # Progress is on stderr too, a line for each step; the mistake is the last and one line.
    *before, last = said.err.splitlines()
    assert last.startswith("Error: ")
    assert all(line.startswith("prepare: ") for line in before)
    return last


def prepare_words(world: Path, **options: object) -> list[object]:
    words: list[object] = ["data", "prepare", "--source", world, "--out", world / "set"]
    for name, value in options.items():
        words += [f"--{name}", value]
    return words
