"""Words about a log that is not KuaiRand's: in its own units, and nothing that it lacks."""

from __future__ import annotations

import html
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from noetik_rllib.cli.main import cli
from noetik_rllib.data.mapping import Mapping
from noetik_rllib.errors import UserError
from noetik_rllib.interpret import words
from noetik_rllib.interpret.explanation import explain
from noetik_rllib.interpret.groups import user_groups
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.manifest import Normaliser
from noetik_rllib.offline.writer import prepare
from noetik_rllib.progress import PROGRESS_NAME, write_rows
from noetik_rllib.runs import Run, TrainConfig, save_policy
from noetik_rllib.state import CONTEXT_NAMES

FEATURES = [
    {"log_number": "sessions", "name": "log_sessions"},
    {"category": "sex", "name": "sex", "values": ["F", "M"]},
    {"number": "anger", "name": "trait_anger"},
    # Names that are KuaiRand's too, with another meaning.
    {"flag": "streamer", "name": "live_streamer"},
    {"blank": "income", "name": "onehot_feat_income"},
]
#: Of sessions and anger, in this order.
COUNTS = Normaliser(mean=[2.0, 20.0], std=[1.0, 5.0])


def mapping(**log: Any) -> Mapping:
    content = {
        "standard": ["log.csv"],
        "user": "person",
        "item": "gamble",
        "time": {"column": "trial", "unit": "step", "seconds_per_step": 4},
        "signals": {"click": "accepted", "like": "won"},
        **log,
    }
    users = {"files": ["people.csv"], "key": "person", "features": FEATURES}
    return Mapping.model_validate({"name": "gambles", "log": content, "users": users})


def said_of(user: np.ndarray) -> dict[str, str]:
    task = mapping()
    zeros = np.zeros(32, dtype=np.float32)
    return {
        group.name: words.user_group(group.name, user, zeros, COUNTS, task)
        for group in user_groups(task)
    }


def test_groups_follow_the_mapping() -> None:
    """Fails if a feature's influence is told under the name of another."""
    columns = {group.name: group.columns for group in user_groups(mapping())}
    assert columns == {
        "log_sessions": (0,),
        "sex": (1, 2),
        "trait_anger": (3,),
        "live_streamer": (4,),
        "onehot_feat_income": (5,),
        "unused": tuple(range(6, 31)),
        "features_known": (31,),
    }


def test_features_are_told_by_name_and_in_their_units() -> None:
    """Fails if a standardised number is told as it is, or a feature as one of KuaiRand's."""
    user = np.zeros(32, dtype=np.float32)
    user[[0, 2, 3, 4, 5, 31]] = (np.log1p(12) - 2, 1, -0.5, 1, 1, 1)
    assert said_of(user) == {
        "log_sessions": "their sessions is 12 (typically 6)",
        "sex": "their sex is M",
        "trait_anger": "their trait anger is 17.5 (typically 20)",
        "live_streamer": "their live streamer is yes",
        "onehot_feat_income": "their income is blank",
        "unused": "a part of the profile that this log leaves empty",
        "features_known": "their profile is known",
    }


def test_what_is_not_known_is_not_made_up() -> None:
    """Fails if the average that stands for a blank is told as the user's own number."""
    said = said_of(np.zeros(32, dtype=np.float32))
    assert said["trait_anger"] == "their trait anger is not known, and taken as 20 (typically 20)"
    assert said["sex"] == "their sex is none of those that the mapping lists"
    assert said["live_streamer"] == "their live streamer is no, or not known"


@pytest.mark.parametrize(
    ("log", "feedback", "expected"),
    [
        ({}, ["click", "like"], "they were shown video 7 3 steps ago and clicked it and liked it"),
        (
            {"meanings": {"click": "took the gamble", "like": "won"}},
            ["click", "like"],
            "they were shown video 7 3 steps ago and took the gamble and won",
        ),
        ({}, [], "they were shown video 7 3 steps ago; no signal of the log followed"),
        (
            {
                "signals": {"watch_ratio": {"column": "score", "low": 0, "high": 10}},
                "meanings": {"watch_ratio": "scored"},
            },
            [],
            "they were shown video 7 3 steps ago and scored at 62%",
        ),
        (
            {
                "signals": {"watch_ratio": {"column": "s", "low": 0, "high": 1}, "click": "c"},
                "meanings": {"click": "bought it"},
            },
            ["click"],
            "they watched 62% of video 7 3 steps ago and bought it",
        ),
    ],
)
def test_an_event_is_told_by_the_signals_of_the_log(
    log: dict[str, Any], feedback: list[str], expected: str
) -> None:
    """Fails if a watched share that no log holds is told, or an answer by another's words."""
    said = words.event(
        name="video 7",
        video_tags=None,
        watch_ratio=0.62,
        feedback=feedback,
        age_seconds=12.0,
        shared_tags=[],
        same_author=False,
        log=mapping(**log).log,
    )
    assert said == expected


def test_the_situation_is_told_in_steps() -> None:
    """Fails if trials without a clock are told in minutes, or at an hour of a day."""
    now = np.zeros(32, dtype=np.float32)
    now[CONTEXT_NAMES.index("log_gap_seconds")] = np.log1p(8)
    now[CONTEXT_NAMES.index("log_session_seconds")] = np.log1p(40)
    now[CONTEXT_NAMES.index("click_rate")] = 0.4
    average = np.zeros(32, dtype=np.float32)
    log = mapping(meanings={"click": "took it"}).log
    said = {
        name: words.context_group(name, now, average, log)
        for name in ("log_gap_seconds", "log_session_seconds", "click_rate", "hour", "weekday")
    }
    clock = "how far they are on the clock that the log's steps are laid on"
    assert said == {
        "log_gap_seconds": "their last video was 2 steps ago (typically 0 steps)",
        "log_session_seconds": "this session has lasted 10 steps (typically 0 steps)",
        "click_rate": "they took it in about 40% of what they saw (typically 0%)",
        "hour": clock,
        "weekday": clock,
    }


# --- ids that are texts -------------------------------------------------------------------------


def named_run(folder: Path, *, repeats: bool) -> Run:
    """An untrained run on a log whose people and gambles have names."""
    people = ("Ann", "Bob", "Cy the 3rd", "Dee", "Eve", "Fay", "Gus", "Hal", "Ida", "Jo")
    rows = [
        f"{person},g{trial * 7 % 5},{trial},{trial % 2}" for person in people for trial in range(20)
    ]
    folder.mkdir()
    (folder / "log.csv").write_text("\n".join(["person,gamble,trial,accepted", *rows]) + "\n")
    log = {
        **mapping(signals={"click": "accepted"}).log.model_dump(exclude_unset=True),
        "text_ids": ["users", "items"],
        "repeats": repeats,
    }
    named = Mapping.model_validate({"name": "named", "log": log})
    prepare(folder, folder / "set", mapping=named)
    dataset = OfflineDataset(folder / "set")
    torch.manual_seed(0)
    networks = IQLNetworks(NetworkConfig.for_dataset(dataset.manifest), dataset.catalog)
    run = folder / "run"
    run.mkdir()
    TrainConfig(data=dataset.directory, out=run, iterations=1).save(run)
    save_policy(run / "policy", networks, dataset.directory)
    write_rows(run / PROGRESS_NAME, [{"iteration": 1.0, "gradient_steps": 1.0, "seconds": 1.0}])
    return Run.open(run)


def test_a_user_is_called_what_the_log_calls_them(tmp_path: Path) -> None:
    """Fails if the text that was asked for is told in the sentence alone, or as its number."""
    run = named_run(tmp_path / "repeats", repeats=True)
    arguments = ["explain", str(run.directory), "--user", "Bob", "--json"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    found = json.loads(done.stdout)[0]
    assert list(found)[:2] == ["user_id", "user_name"]  # beside each other, not after everything
    assert found["user_name"] == "Bob"
    assert run.dataset().keys["users"][found["user_id"]] == "Bob"
    assert found["sentence"].startswith("For user Bob ")
    done = CliRunner().invoke(
        cli,
        ["report", str(run.directory), "--user", "Bob", "--user", "Cy the 3rd", "--json"],
        catch_exceptions=False,
    )
    printed = json.loads(done.stdout)
    assert printed["users"] == ["Bob", "Cy the 3rd"]
    page = html.unescape(Path(printed["report"]).read_text(encoding="utf-8"))
    assert shlex.join(["--user", "Bob", "--user", "Cy the 3rd"]) in page
    assert f"noetik explain {shlex.quote(str(run.directory))} --user Bob --top-k 3" in page
    # The explorer takes the same names, and has no column for what this log does not hold.
    found = re.search(r'id="explorer-data">(.*?)</script>', page)
    assert found
    explorer = json.loads(found[1])
    assert [user["name"] for user in explorer["users"]] == ["Bob", "Cy the 3rd"]
    assert explorer["watched"] is None
    assert {event["watched"] for event in explorer["users"][0]["history"]} == {None}


def test_a_refusal_calls_a_user_what_the_log_calls_them(tmp_path: Path) -> None:
    """Fails if a message names a number that the user has never seen."""
    run = named_run(tmp_path / "once", repeats=False)
    with pytest.raises(UserError, match="user Bob has just seen all 5 videos"):
        explain(run, run.dataset().user_of("Bob"))
