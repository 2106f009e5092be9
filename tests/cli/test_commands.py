"""Every command explains itself, and every mistake is one line on stderr and exit code 2."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from noetik_rllib.cli.main import cli

NOETIK = Path(sys.executable).with_name("noetik")
COMMANDS = [
    ("data", "synth"),
    ("data", "check"),
    ("data", "prepare"),
    ("data", "describe"),
    ("data", "download"),
    ("data", "verify"),
    ("user-model", "fit"),
    ("train",),
    ("evaluate",),
    ("explain",),
    ("tune",),
    ("report",),
    ("demo",),
]


def noetik(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(NOETIK), *map(str, words)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_has_an_example_and_json(words: tuple[str, ...]) -> None:
    """Fails if a command cannot be learnt from its own help, or its result not be piped."""
    done = CliRunner().invoke(cli, [*words, "--help"])
    assert done.exit_code == 0
    assert f"Example: noetik {' '.join(words)}" in done.output
    assert "--json" in done.output


def test_the_help_lists_every_command() -> None:
    """Fails if a command exists but cannot be found."""
    output = CliRunner().invoke(cli, ["--help"]).output
    for words in COMMANDS:
        assert re.search(rf"^  {words[0]} +\w", output, re.MULTILINE), words[0]


MISTAKES = {
    "command": (["trian"], "Did you mean 'train'?"),
    "option": (["data", "prepare", "--sauce", "x"], "No such option"),
    "missing option": (["data", "prepare"], "Missing option '--source'"),
    "source": (["data", "prepare", "--source", "nowhere", "--out", "o"], "nowhere is not a folder"),
    "preset": (["data", "synth", "--preset", "tinny", "--out", "o"], "Did you mean 'tiny'?"),
    "folder to check": (["data", "check", "nowhere"], "nowhere is not a folder"),
    "targets": (["data", "check", "x", "--at-least", "31"], "not in the range"),
    "dataset": (["data", "describe", "nowhere"], "nowhere is not an offline dataset"),
    "dataset to verify": (["data", "verify", "nowhere"], "nowhere is not an offline dataset"),
    "train data": (["train", "--data", "nowhere", "--out", "o"], "not an offline dataset"),
    "reward": (["train", "--data", "d", "--out", "o", "--reward", "clik=1"], "mean 'click'?"),
    "iterations": (["train", "--data", "d", "--out", "o", "--iterations", "0"], "iterations is 0"),
    "run": (["evaluate", "nowhere"], "nowhere does not exist"),
    "run to explain": (["explain", "nowhere", "--user", "1"], "nowhere does not exist"),
    "run to report": (["report", "nowhere"], "nowhere does not exist"),
    "sweep": (["tune", "nowhere.yaml"], "nowhere.yaml cannot be read"),
    "empty path": (["evaluate", ""], "the path is empty"),
    "huge seed": (["train", "--data", "d", "--out", "o", "--seed", "9" * 30], "seed is 9999"),
    "impossible place": (["data", "synth", "--preset", "tiny", "--out", "/proc/x/y"], "written"),
    "demo preset": (["demo", "--preset", "tinny"], "Did you mean 'tiny'?"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a mistake of the user ends in a traceback, another exit code or left-over files."""
    words, message = MISTAKES[case]
    monkeypatch.chdir(tmp_path)
    done = noetik(*words)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    # Progress lines may come before it; the mistake itself is the last line, and one line.
    assert done.stderr.strip().splitlines()[-1].startswith("Error: ")
    assert not done.stdout
    assert not list(tmp_path.iterdir())


def test_a_missing_column_is_named(tiny_world: Path, tmp_path: Path) -> None:
    """Fails if a file of another layout is prepared, or its fault is not named."""
    source = tmp_path / "source"
    source.mkdir()
    for path in (tiny_world / "data").iterdir():
        text = path.read_text()
        (source / path.name).write_text(text.replace("is_click", "clicked", 1))
    out = tmp_path / "dataset"
    done = noetik("data", "prepare", "--source", source, "--out", out)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert "column 'is_click' is missing" in last
    assert "log_standard" in last
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_json_is_all_that_is_on_stdout(tiny_dataset: Path) -> None:
    """Fails if a program that reads --json meets anything else on stdout."""
    done = noetik("data", "describe", tiny_dataset, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["num_videos"] == 80


def test_every_option_is_described() -> None:
    """Fails if an option is in the help without a word of what it does."""
    context = click.Context(cli)
    for words in COMMANDS:
        command: click.Command | None = cli
        for word in words:
            assert isinstance(command, click.Group)
            command = command.get_command(context, word)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{' '.join(words)} {parameter.name}"
