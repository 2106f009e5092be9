"""``noetik data verify`` says that a whole dataset is whole, and finds what was changed in one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from noetik_rllib.cli.main import cli
from noetik_rllib.errors import UserError
from noetik_rllib.offline.findings import MAX_FINDINGS
from noetik_rllib.offline.prepare_config import PrepareConfig
from noetik_rllib.offline.verify import verify
from noetik_rllib.offline.writer import prepare
from tests.offline.corruptions import (
    JUDGE,
    LINES,
    RANDOM,
    TEST,
    TRAIN,
    cut_in_half,
    drop,
    early,
    edit_bytes,
    edit_lines,
    edit_table,
    end_otherwise,
    flip,
    flip_bit,
    flip_sealed_bit,
    in_manifest,
    in_rows,
    inside,
    late,
    left,
    move_user,
    other_line,
    other_user,
    put,
    repeat_episode_numbers,
    step_1,
    swap,
)

#: Name -> (the corruption, what the finding must say, the file that it must name).
CORRUPTIONS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a bit": (lambda f: edit_bytes(f, TRAIN, flip_bit), "CRC-32", TRAIN),
    "a bit, sealed": (flip_sealed_bit, "cannot be read", TRAIN),
    "half a Parquet": (lambda f: edit_bytes(f, JUDGE, lambda b: b[: len(b) // 2]), "bytes", JUDGE),
    "half a Parquet, sealed": (cut_in_half, "cannot be read", JUDGE),
    "a bit of the catalogue": (
        lambda f: edit_bytes(f, "catalog.parquet", flip_bit),
        "CRC-32",
        "catalog.parquet",
    ),
    "file deleted": (lambda f: (f / TEST).unlink(), "is missing", TEST),
    "users deleted from the manifest": (
        in_manifest(lambda m: m["files"].pop("users.parquet")),
        "files lacks users.parquet",
        "manifest.json",
    ),
    "stray file": (lambda f: (f / "train/part-9.parquet").touch(), "is there", "train/part-9.par"),
    "stray hidden file": (lambda f: (f / ".notes").touch(), "is there", ".notes"),
    "column renamed": (
        lambda f: edit_table(f, TEST, lambda t: t.rename_columns({"like": "liked"})),
        "column 'liked' stands where 'like' is expected",
        TEST,
    ),
    "column missing": (
        lambda f: edit_table(f, TEST, lambda t: t.drop_columns("propensity")),
        "column 'None' stands where 'propensity' is expected",
        TEST,
    ),
    "columns in another order": (
        lambda f: edit_table(f, TEST, lambda t: t.select(t.column_names[::-1])),
        "column 'propensity' stands where 'eps_id'",
        TEST,
    ),
    "column of another type": (
        lambda f: edit_table(
            f, TEST, lambda t: t.set_column(5, "actions", t["actions"].cast(pa.int32()))
        ),
        "column 'actions' is of type int32; expected int64",
        TEST,
    ),
    "null": (
        lambda f: edit_table(
            f,
            TEST,
            lambda t: t.set_column(
                6, "rewards", pa.array([None, *t["rewards"].to_pylist()[1:]], pa.float32())
            ),
        ),
        "row 0: column 'rewards' is null",
        TEST,
    ),
    "another agent": (
        in_rows(TRAIN, put("agent_id", 7, "agent_1")),
        "row 7: column 'agent_id' is agent_1; expected default_agent",
        TRAIN,
    ),
    "row dropped": (in_rows(TRAIN, drop(inside)), "column 't'", TRAIN),
    "last row dropped": (in_rows(TEST, drop(lambda rows: -1)), "", TEST),
    "rows swapped": (in_rows(JUDGE, lambda rows: swap(step_1(rows) - 1)(rows)), "'t'", JUDGE),
    "row twice": (
        in_rows(RANDOM, lambda rows: {n: np.append(v[:1], v, axis=0) for n, v in rows.items()}),
        "",
        RANDOM,
    ),
    "action": (
        in_rows(TRAIN, put("actions", 5, lambda a: a + 1)),
        "row 5: column 'actions'",
        TRAIN,
    ),
    "action out of range": (
        in_rows(TEST, put("actions", 5, 80)),
        "row 5: column 'actions' is 80",
        TEST,
    ),
    "unknown video": (
        in_rows(TEST, put("video_id", 5, 999)),
        "row 5: column 'video_id' is 999; expected a video of catalog.parquet",
        TEST,
    ),
    "new_obs": (in_rows(TRAIN, put("new_obs", inside, flip)), "'new_obs' is another state", TRAIN),
    "obs": (in_rows(TRAIN, put("obs", step_1, flip)), "'new_obs' is another state", TRAIN),
    "state not a number": (
        in_rows(TEST, put("obs", (2, 40), np.nan)),
        "row 2: column 'obs' is nan at position 40; expected ",
        TEST,
    ),
    "state out of bounds": (
        in_rows(TEST, put("new_obs", (2, 33), 1.5)),
        "row 2: column 'new_obs' is ",
        TEST,
    ),
    "features of another user": (in_rows(TRAIN, other_user), "users.parquet", TRAIN),
    "newest event": (
        in_rows(TRAIN, put("new_obs", lambda rows: (left(rows), 32), lambda v: v % 80 + 1)),
        "by the user's rows in all parts",
        TRAIN,
    ),
    "feedback of a test row": (
        in_rows(TEST, put("like", inside, lambda v: 1 - v)),
        "by the user's rows in all parts",
        TEST,
    ),
    "reward": (in_rows(TEST, put("rewards", 9, lambda v: v + 1e-4)), "column 'rewards'", TEST),
    "signal of 2": (
        in_rows(TRAIN, put("click", 3, 2.0)),
        "row 3: column 'click' is 2; expected 0 or 1",
        TRAIN,
    ),
    "watch ratio of 1.5": (
        in_rows(TRAIN, put("watch_ratio", 3, 1.5)),
        "row 3: column 'watch_ratio' is 1.5; expected 0 to 1",
        TRAIN,
    ),
    "t of 10": (in_rows(TEST, put("t", 0, 10)), "row 0: column 't' is 10; expected 0 to 9", TEST),
    "known propensity": (in_rows(TRAIN, put("propensity", 0, 0.5)), "nobody knows", TRAIN),
    "unknown propensity": (in_rows(RANDOM, put("propensity", 0, np.nan)), "random_pool", RANDOM),
    "propensity of 0": (in_rows(RANDOM, put("propensity", 4, 0)), "row 4: column 'prop", RANDOM),
    "two ends": (
        in_rows(TRAIN, put("truncateds", left, True)),
        "column 'truncateds' is True; expected False",
        TRAIN,
    ),
    "no end": (
        in_rows(TRAIN, put("terminateds", left, False)),
        "column 'terminateds' is False; expected True",
        TRAIN,
    ),
    "early end": (in_rows(TEST, put("terminateds", inside, True)), "'terminateds' is True", TEST),
    "cut for left": (in_rows(TRAIN, end_otherwise), "column 'terminateds' is False", TRAIN),
    "last end": (
        in_rows(TEST, put("truncateds", -1, False)),
        "column 'truncateds' is False; expected True",
        TEST,
    ),
    "episode numbers of train in test": (repeat_episode_numbers, "column 'eps_id'", TEST),
    "held-out user in train": (move_user, "no held-out user", TRAIN),
    "test time in train": (late, "column 'time_ms'", TRAIN),
    "training time in test": (early, "column 'time_ms'", TEST),
    "unknown user": (
        in_rows(RANDOM, put("user_id", 0, 987_654)),
        "column 'user_id' is 987654; expected a user of users.parquet",
        RANDOM,
    ),
    "users drawn otherwise": (
        in_rows("users.parquet", put("held_out", 0, lambda v: not v)),
        "row 0: column 'held_out'",
        "users.parquet",
    ),
    "video twice in the catalogue": (
        in_rows("catalog.parquet", put("video_id", 3, 2)),
        "repeats",
        "catalog.parquet",
    ),
    "users unsorted": (in_rows("users.parquet", swap(4)), "does not ascend", "users.parquet"),
    "manifest's rows": (
        in_manifest(lambda m: m["parts"]["test"].update(rows=5)),
        "parts.test.rows is 5; expected ",
        "manifest.json",
    ),
    "manifest's users": (
        in_manifest(lambda m: m["parts"]["judge"].update(users=5)),
        "parts.judge.users is 5",
        "manifest.json",
    ),
    "manifest's episodes": (
        in_manifest(lambda m: m["parts"]["random"].update(episodes=5)),
        "parts.random.episodes is 5",
        "manifest.json",
    ),
    "manifest lacks a part": (
        in_manifest(lambda m: m["parts"].pop("train")),
        "parts.train.rows is None",
        "manifest.json",
    ),
    "manifest's videos": (
        in_manifest(lambda m: m.update(num_videos=81)),
        "num_videos is 81; expected 80",
        "manifest.json",
    ),
    "manifest's moments": (
        in_manifest(lambda m: m["signals"]["mean"].__setitem__(3, 0.5)),
        "signals.mean of like is 0.5",
        "manifest.json",
    ),
    "manifest's covariance": (
        in_manifest(lambda m: m["signals"]["covariance"][0].__setitem__(1, 9.0)),
        "signals.covariance of click and watch_ratio is 9.0",
        "manifest.json",
    ),
    "manifest's logged reward": (
        in_manifest(lambda m: m["logged_reward"].update(test=0.0)),
        "logged_reward.test is 0.0",
        "manifest.json",
    ),
    "manifest's history": (
        in_manifest(lambda m: m.update(history_length=15)),
        "expected float in lists of 124",
        TRAIN,
    ),
    "manifest's episode steps": (
        in_manifest(lambda m: m.update(episode_steps=9)),
        "column 't' is 9; expected 0 to 8",
        TRAIN,
    ),
    "manifest's seed": (
        in_manifest(lambda m: m.update(seed=1)),
        "for seed 1",
        "users.parquet",
    ),
}

#: The same for the JSON lines beside the Parquet files.
LINE_CORRUPTIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "line removed": (
        lambda f: edit_lines(f, lambda lines: lines[:4] + lines[5:]),
        f"{LINES}:5: column 'eps_id'",
    ),
    "last line removed": (lambda f: edit_lines(f, lambda lines: lines[:-1]), "ends early"),
    "line twice": (
        lambda f: edit_lines(f, lambda lines: [*lines, lines[-1]]),
        "is there; expected no rows",
    ),
    "line cut": (
        lambda f: edit_lines(f, lambda lines: [*lines[:-1], lines[-1][:100]]),
        "cannot be read",
    ),
    "number changed": (other_line(lambda c: c["rewards"].__setitem__(0, 0.123)), ":5: column 'rew"),
    "state changed": (
        other_line(lambda c: c["obs"][0].__setitem__(1, 0.123)),
        ":5: column 'obs' is another state",
    ),
    "no dones": (other_line(lambda c: c.pop("dones")), f"{LINES}:5: cannot be read ('dones')"),
    "shorter states": (
        other_line(lambda c: c.update(obs=[state[1:] for state in c["obs"]])),
        ":5: cannot be read ('obs' is of shape (",
    ),
    "uneven line": (other_line(lambda c: c["actions"].pop()), "one whole episode a line"),
    "lines deleted": (lambda f: (f / LINES).unlink(), f"{LINES}: is missing"),
}


@pytest.fixture(scope="module")
def without_lines(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dataset in Parquet alone, so that no comparison with JSON lines finds a fault."""
    folder = tmp_path_factory.mktemp("plain") / "dataset"
    prepare(tiny_world, folder)
    return folder


@pytest.mark.parametrize(
    "config",
    [
        PrepareConfig(format="json"),
        PrepareConfig(split="time", random_in_train=True, history_length=3),
        PrepareConfig(episode_steps=1, held_out_users=0.5, seed=3),
    ],
    ids=["json", "time", "steps of 1"],
)
def test_a_whole_dataset_holds(config: PrepareConfig, tiny_world: Path, tmp_path: Path) -> None:
    """Fails if a dataset that was just prepared is said to be broken, or is hardly looked at."""
    manifest = prepare(tiny_world, tmp_path / "dataset", config)
    findings = verify(tmp_path / "dataset")
    assert findings.lines == []
    rows = sum(part.rows for part in manifest.parts.values())
    assert findings.checked["files"] == len(manifest.files)
    for check in ("rewards", "actions", "new_obs is the next obs", "states rebuilt"):
        assert findings.checked[check] == rows
    if config.format == "json":
        assert findings.checked["rows of the JSON lines"] == rows


@pytest.mark.parametrize("case", CORRUPTIONS)
def test_a_corruption_is_found_and_named(case: str, without_lines: Path, tmp_path: Path) -> None:
    """Fails if a file, row or figure that is not what was written passes."""
    corrupt, message, name = CORRUPTIONS[case]
    folder = Path(shutil.copytree(without_lines, tmp_path / "dataset"))
    corrupt(folder)
    lines = verify(folder).lines
    assert any(line.startswith(f"{name}") and message in line for line in lines), lines
    assert all("\n" not in line and "expected" in line for line in lines)


@pytest.mark.parametrize("case", LINE_CORRUPTIONS)
def test_other_lines_than_rows_are_found(case: str, tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if the JSON lines may differ from the Parquet files."""
    corrupt, message = LINE_CORRUPTIONS[case]
    folder = Path(shutil.copytree(tiny_dataset, tmp_path / "dataset"))
    corrupt(folder)
    [line] = verify(folder).lines
    assert line.startswith("json/train")
    assert message in line


def test_findings_are_limited(without_lines: Path, tmp_path: Path) -> None:
    """Fails if a dataset that is broken all over floods the terminal."""
    folder = Path(shutil.copytree(without_lines, tmp_path / "dataset"))
    for number in range(MAX_FINDINGS + 5):
        (folder / f"stray-{number}").touch()
    assert len(verify(folder).lines) == MAX_FINDINGS


def test_the_command_prints_findings_and_exits_with_2(without_lines: Path, tmp_path: Path) -> None:
    """Fails if a script cannot tell a whole dataset from a broken one, or which file it is."""
    done = CliRunner().invoke(cli, ["data", "verify", str(without_lines)])
    assert done.exit_code == 0
    assert "states rebuilt" in done.output
    folder = Path(shutil.copytree(without_lines, tmp_path / "dataset"))
    (folder / "stray").touch()
    done = CliRunner().invoke(cli, ["data", "verify", str(folder), "--json"])
    assert isinstance(done.exception, UserError)
    assert "1 finding" in str(done.exception)
    result = json.loads(done.stdout)
    assert not result["holds"]
    assert result["findings"][0].startswith("stray: ")
    with pytest.raises(UserError, match="not an offline dataset"):
        verify(tmp_path)
