"""What a run explains, and what it refuses in one clear line."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from noetik_rllib.cli.console import out as console
from noetik_rllib.cli.errors import run as run_command
from noetik_rllib.cli.explain import view
from noetik_rllib.cli.main import cli
from noetik_rllib.errors import UserError
from noetik_rllib.interpret import words
from noetik_rllib.interpret.explanation import Explainer, default_users, explain
from noetik_rllib.interpret.sentence import (
    certainty,
    counterfactual_sentence,
    standing,
    video_label,
)
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
    assert found.counterfactual is None, "there is nothing to remove"
    with console.capture() as capture:
        console.print(view([found]))
    text = " ".join(capture.get().split())
    assert text.startswith("What the policy recommends to user 5000. No watched video of this user")


def test_counterfactuals_are_of_the_events_that_are_told(
    explainer: Explainer, user_id: int
) -> None:
    """Fails if what would change a choice is told of other events, videos or ranks."""
    explanations = explainer.explain(user_id, top_k=5)
    first = [one.video.index for one in explanations]
    changed = 0
    for one in explanations:
        told = {influence.event.slot: influence for influence in one.influences if influence.event}
        assert one.counterfactual is not None
        removal, skipped = one.counterfactual.removal, one.counterfactual.skipped
        if removal is not None:
            changed += 1
            assert removal.events == [told[slot].event for slot in removal.slots]
            assert removal.becomes.index not in first[: one.rank]
            assert all(event.text in one.sentence for event in removal.events[:3])
        assert skipped is not None
        assert skipped.event == told[skipped.event.slot].event
        assert skipped.event.watch_ratio >= words.SKIPPED_BELOW or "click" in skipped.event.feedback
        reasons = [reason.event for reason in one.reasons if reason.direction == "for"]
        strongest = [
            event
            for event in reasons
            if event and not words.is_skip(event.watch_ratio, "click" in event.feedback)
        ]
        assert not strongest or skipped.event == strongest[0]
    assert changed


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


def printed(run: Run, *arguments: str) -> str:
    """What the command prints, boxes and line breaks apart."""
    shown = CliRunner().invoke(
        cli, ["explain", str(run.directory), *arguments], catch_exceptions=False
    )
    assert shown.exit_code == 0
    return " ".join(re.sub("[│╭╮╰╯─]", " ", shown.stdout).split())


def test_the_command_prints_the_explanations(untrained_run: Run, user_id: int) -> None:
    """Fails if the terminal shows other numbers than the library computes, or leaves one out."""
    explanations = explain(untrained_run, user_id, 5)
    text = printed(untrained_run, "--user", str(user_id))
    assert text == printed(untrained_run, "--user", str(user_id)), "same input, other text"
    assert certainty(explanations[0]) in text
    assert f"{explanations[0].entropy:.2f} nats" in text
    for found, panel in zip(
        explanations, text.split(" nats. ")[1].split("nfluence. "), strict=False
    ):
        # What it is, the reasons with numbers and direction, what would change it, the margin,
        # what is left out, and the error.
        assert video_label(found.video) in panel
        assert standing(found)[2:] in panel
        for reason in found.reasons:
            # The words are broken over the lines of a column.
            assert f"{words.signed(reason.attribution)} {words.percent(reason.share)}" in panel
        assert counterfactual_sentence(found) in panel
        assert f"Margin {words.signed(found.margin)}" in panel
        assert f"{words.percent(found.unnamed_share)} {len(found.others)} smaller" in panel
        assert words.error(found.relative_gap) in panel
    done = CliRunner().invoke(
        cli,
        ["explain", str(untrained_run.directory), "--user", str(user_id), "--json"],
        catch_exceptions=False,
    )
    assert json.loads(done.output) == [found.model_dump(mode="json") for found in explanations]


def test_the_command_says_how_few_videos_are_left(untrained_run: Run, user_id: int) -> None:
    """Fails if fewer videos than asked for are printed as if that were all right."""
    count = explain(untrained_run, user_id)[0].candidates
    arguments = ["--user", str(user_id), "--top-k", str(count + 1), "--json"]
    done = CliRunner().invoke(
        cli, ["explain", str(untrained_run.directory), *arguments], catch_exceptions=False
    )
    assert f"There are only {count} videos left to recommend." in done.stderr
    last = json.loads(done.stdout)[-1]
    assert last["rank"] == count
    assert "No other video is left to take its place" in last["sentence"]


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
