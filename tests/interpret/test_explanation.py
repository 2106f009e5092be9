"""What a run explains, and what it refuses in one clear line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from noetik_rllib.cli.errors import run as run_command
from noetik_rllib.cli.main import cli
from noetik_rllib.errors import UserError
from noetik_rllib.interpret import words
from noetik_rllib.interpret.explanation import Explainer, default_users, explain
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import PARTS, OfflineDataset, Users
from noetik_rllib.runs import Run
from noetik_rllib.state import VIDEO


@pytest.fixture(scope="module")
def explainer(untrained_run: Run) -> Explainer:
    return Explainer(untrained_run.dataset(), untrained_run.networks())


@pytest.fixture(scope="module")
def user_id(untrained_run: Run) -> int:
    return default_users(untrained_run.dataset())[0]


def test_the_numbers_are_the_policys(explainer: Explainer, user_id: int) -> None:
    """Otherwise the explanation is about another decision than the policy's."""
    found = explainer.explain(user_id, top_k=3)
    state = explainer.dataset.latest_state(user_id)
    with torch.no_grad():
        networks = explainer.networks
        logits = networks.actor(networks.features, torch.tensor(state)[None])[0].double().numpy()
    seen = explainer.dataset.layout.unpack(state[None]).video_index[0]
    logits[seen[seen >= 0]] = -np.inf
    probability = np.exp(logits - logits.max())
    probability /= probability.sum()
    best = np.argsort(-probability)[:4]
    assert [one.video.index for one in found] == best[:3].tolist()
    assert [one.rank for one in found] == [1, 2, 3]
    for one, following in zip(found, best[1:], strict=True):
        assert one.probability == pytest.approx(probability[one.video.index], rel=1e-4)
        assert one.runner_up is not None
        assert one.runner_up.index == following
        assert one.relative_gap < 0.01
        total = sum(influence.attribution for influence in one.influences)
        assert total == pytest.approx(one.margin - one.baseline_margin + one.gap, abs=1e-4)


def test_events_are_those_of_the_log(explainer: Explainer, user_id: int) -> None:
    """Otherwise reasons tell of videos that the user never saw."""
    found = explainer.explain(user_id)[0]
    rows = [
        explainer.dataset.load(part, ("time_ms", "video_id", "watch_ratio"), users=[user_id])
        for part in PARTS
    ]
    time_ms, video_id, ratio = (
        np.concatenate([part[name] for part in rows])
        for name in ("time_ms", "video_id", "watch_ratio")
    )
    newest = np.argsort(-time_ms, kind="stable")[: found.history_events]
    events = sorted(
        (one.event for one in found.influences if one.event), key=lambda event: event.slot
    )
    assert len(events) == found.history_events
    assert sorted(event.video.video_id for event in events) == sorted(video_id[newest].tolist())
    assert sorted(event.watch_ratio for event in events) == pytest.approx(
        sorted(ratio[newest].tolist()), abs=1e-5
    )


def test_the_same_run_gives_the_same_text(untrained_run: Run, user_id: int) -> None:
    """Otherwise two readers of the same run read different explanations."""
    one, two = (explain(untrained_run, user_id, 2) for _ in range(2))
    assert one == two


def test_an_unknown_user_is_named(untrained_run: Run) -> None:
    """Otherwise a mistyped user is explained as somebody else."""
    with pytest.raises(UserError, match="user 999999 has no event"):
        explain(untrained_run, 999_999)


def test_a_user_with_a_profile_and_no_event_is_explained_from_the_profile(
    untrained_run: Run,
) -> None:
    """Otherwise a new user, the one case that profiles are for, gets an error."""
    dataset = OfflineDataset(untrained_run.config.data)
    users = dataset.users
    # A user like the first one, whom no log knows.
    dataset.__dict__["users"] = Users(
        np.append(users.user_id, 5_000),
        np.concatenate([users.features, users.features[:1]]),
        np.append(users.held_out, True),
        np.append(users.split_ms, users.split_ms[0]),
    )
    found = Explainer(dataset, untrained_run.networks()).explain(5_000)[0]
    assert "No watched video of this user is on record" in found.sentence
    assert "the profile alone decides, in a situation taken as average" in found.sentence
    assert found.history_events == 0
    assert found.source_shares["history"] == 0
    assert found.source_shares["situation"] == 0, "the average situation differs from itself"
    assert found.source_shares["profile"] == pytest.approx(1)
    assert found.candidates == len(dataset.catalog)


def test_fewer_videos_than_asked_for(explainer: Explainer, user_id: int) -> None:
    """Otherwise a large --top-k fails, or repeats videos."""
    found = explainer.explain(user_id, top_k=10_000)
    assert len(found) == found[0].candidates
    assert len({one.video.index for one in found}) == len(found)
    assert found[-1].runner_up is None
    assert sum(one.probability for one in found) == pytest.approx(1)
    with pytest.raises(UserError, match="top-k is 0"):
        explainer.explain(user_id, top_k=0)


def test_a_state_of_another_catalogue_is_refused(explainer: Explainer, user_id: int) -> None:
    """Otherwise a damaged dataset ends in an IndexError, or in another video's name."""
    state = explainer.dataset.latest_state(user_id).copy()
    state[explainer.dataset.layout.history.start + VIDEO] = 5_001
    with pytest.raises(UserError, match=r"video index 5000.*damaged"):
        explainer.explain_state(user_id, state)


def test_a_policy_of_another_dataset_is_refused(untrained_run: Run) -> None:
    """Otherwise videos are named by another catalogue's ids."""
    dataset = untrained_run.dataset()
    config = NetworkConfig.for_dataset(dataset.manifest)
    for change in ({"num_videos": 7}, {"history_length": 3}):
        other = IQLNetworks(config.model_copy(update=change))
        with pytest.raises(UserError, match="do not belong together"):
            Explainer(dataset, other)


def test_everything_seen_leaves_nothing(untrained_run: Run, explainer: Explainer) -> None:
    """Otherwise the last video is recommended again, or an empty list is printed as success."""
    dataset = explainer.dataset
    catalog = dataset.catalog
    few = {field.name: getattr(catalog, field.name)[:3] for field in dataclasses.fields(catalog)}
    small = OfflineDataset(untrained_run.config.data)
    small.__dict__["catalog"] = type(catalog)(**few)
    config = NetworkConfig.for_dataset(dataset.manifest).model_copy(update={"num_videos": 3})
    state = np.zeros(dataset.layout.size, dtype=np.float32)
    first = dataset.layout.history.start + VIDEO
    state[[first, first + 4, first + 8]] = (1, 2, 3)
    with pytest.raises(UserError, match="has just seen all 3 videos"):
        Explainer(small, IQLNetworks(config, small.catalog)).explain_state(1, state)


def test_the_command_prints_the_explanation(untrained_run: Run, user_id: int) -> None:
    """Otherwise the terminal shows other numbers than the library computes."""
    found = explain(untrained_run, user_id)[0]
    arguments = ["explain", str(untrained_run.directory), "--user", str(user_id)]
    shown = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert shown.exit_code == 0
    text = " ".join(shown.output.replace("│", " ").split())
    assert found.sentence in text
    for reason in found.reasons:
        assert words.signed(reason.attribution) in text
    printed = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(printed.output) == [found.model_dump(mode="json")]


def test_the_commands_mistakes_are_one_line(
    untrained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise a typo ends in a traceback."""
    for arguments, named in (
        ([str(untrained_run.directory), "--user", "999999"], "999999"),
        ([str(tmp_path / "nothing"), "--user", "0"], "nothing"),
        ([str(untrained_run.directory), "--user", "0", "--top-k", "0"], "top-k is 0"),
        ([str(untrained_run.directory), "--user", "9" * 30], "whole number from 0 to"),
        ([str(untrained_run.directory), "--user", "Ann"], "user 'Ann': expected a whole number"),
        ([str(untrained_run.directory)], "--user"),
    ):
        with pytest.raises(SystemExit) as stop:
            run_command(cli, ["explain", *arguments])
        assert stop.value.code == 2
        printed = capsys.readouterr()
        assert not printed.out
        assert named in printed.err
        assert len(printed.err.strip().splitlines()) == 1
