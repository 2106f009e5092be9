"""The page is whole, true to its files, closed to the outside, and safe to show."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from click.testing import CliRunner

from noetik_rllib.cli.main import cli
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.evaluation_result import METRICS_NAME, EvaluationResult
from noetik_rllib.interpret.explanation import default_users
from noetik_rllib.interpret.facts import Explanation
from noetik_rllib.progress import PROGRESS_NAME, write_rows
from noetik_rllib.report.html import REPORT_NAME
from noetik_rllib.report.page import write_report
from noetik_rllib.runs import Run
from tests.report.conftest import PROGRESS

#: Elements without an end tag.
_VOID = {"meta", "br", "hr", "img", "input", "link", "path", "use"}


class Page(HTMLParser):
    """What a browser would find: text, attributes and whether every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())

    def values(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]


def page_of(run: Run, explanations: list[Explanation]) -> tuple[str, Page]:
    html = write_report(run, explanations).read_text(encoding="utf-8")
    return html, Page(html)


def explorer_of(run: Run) -> dict[str, Any]:
    """The data of the explorer on a run's page."""
    html = (run.directory / REPORT_NAME).read_text(encoding="utf-8")
    found = re.search(r'id="explorer-data">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_every_element_is_closed_and_every_id_is_its_own(
    run: Run, explanations: list[Explanation]
) -> None:
    """Otherwise browsers guess, and one plot is clipped by another's frame."""
    html, page = page_of(run, explanations)
    assert html.startswith("<!doctype html>")
    assert not page.open
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    for name in ("href", "aria-labelledby"):
        for value in page.values(name):
            for target in value.replace("#", "").split():
                assert target in ids, f"{name} points to {target}, which is not on the page"
    for target in re.findall(r"url\(#([^)]*)\)", html):
        assert target in ids


def test_nothing_is_loaded_from_anywhere(run: Run, explanations: list[Explanation]) -> None:
    """Otherwise the page breaks offline, or tells others who reads it."""
    html, page = page_of(run, explanations)
    assert "://" not in html
    assert not re.search(r"<(link|img|iframe|object|embed|base)\b", html)
    assert not page.values("src")
    assert all(value.startswith("#") for value in page.values("href"))
    assert "@import" not in html
    (policy,) = (value for value in page.values("content") if "default-src" in value)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")


def test_only_the_script_of_the_page_may_run(run: Run, explanations: list[Explanation]) -> None:
    """Otherwise the explorer is dead, or a script that a name smuggled in would run."""
    html, page = page_of(run, explanations)
    policy = next(value for value in page.values("content") if "default-src" in value)
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert page.values("type").count("application/json") == 1
    html, page = page_of(run, [])
    assert "<script" not in html
    assert any("script-src 'none'" in value for value in page.values("content"))


def test_the_evaluation_is_that_of_the_file(run: Run, explanations: list[Explanation]) -> None:
    """Otherwise the page shows other results than were measured."""
    _, page = page_of(run, explanations)
    result = EvaluationResult.load(run.directory)
    for values in result.sessions.policies.values():
        for interval in values.values():
            assert f"{interval.mean:.4f}" in page.text
            assert f"{interval.low:.4f} to {interval.high:.4f}" in page.text
    for count in result.sessions.distinct_videos.values():
        assert f" {count} " in page.text
    # +0.0782 (-0.0218 to 0.1782) includes 0; +0.2454 (0.1454 to 0.3454) does not.
    assert "not clearly different from behaviour cloning: +0.0782" in page.text
    assert "more than random: +0.2454" in page.text
    assert "AUC of 0.735" in page.text
    assert "4,321 earlier rows" in page.text
    assert "AUC of 0.642, predicting 1.31 times the clicks" in page.text


def test_explanations_are_shown_whole(run: Run, explanations: list[Explanation]) -> None:
    """Otherwise a reason or its weight is lost between library and page."""
    _, page = page_of(run, explanations)
    for explanation in (one for one in explanations if one.rank == 1):
        assert explanation.sentence in page.text
        for influence in explanation.influences:
            assert influence.text in page.text
    assert "the policy's second choice" not in page.text  # that is the explorer's


def test_the_run_is_described(make_run: Callable[..., Run]) -> None:
    """Otherwise nobody can tell, or repeat, what was trained."""
    reward = {"click": 0, "watch_ratio": 1, "hate": -2}
    run = make_run("settled", beta=1.25, normalise_reward=False, reward=reward)
    _, page = page_of(run, [])
    manifest = run.dataset().manifest
    assert f"{manifest.parts['train'].rows:,}" in page.text
    assert "1 watch ratio - 2 hate" in page.text
    command = (
        f"noetik train --beta 1.25 --no-normalise-reward --data {run.config.data} "
        f"--out {run.config.out} --iterations 5 --reward watch_ratio=1,hate=-2"
    )
    assert command in page.text
    assert "500 gradient steps" in page.text
    assert "No recommendation was explained" in page.text


def test_the_train_command_is_understood(make_run: Callable[..., Run]) -> None:
    """Otherwise "reproduce" shows a command that fails."""
    from noetik_rllib.cli.train import parse_reward, train
    from noetik_rllib.report.run_sections import train_command
    from noetik_rllib.runs import TrainConfig

    run = make_run("again", beta=1.25, subtract_reward_mean=True, grad_clip=3.5, reward={"like": 1})
    words = train_command(run.config).split()
    assert words[:2] == ["noetik", "train"]
    parsed = train.make_context("train", words[2:]).params
    parsed = {name: value for name, value in parsed.items() if name in TrainConfig.model_fields}
    again = TrainConfig.parse({**parsed, "reward": parse_reward(parsed["reward"])})
    assert again == run.config


def test_an_absent_evaluation_is_noted(run: Run, explanations: list[Explanation]) -> None:
    """Otherwise an empty table looks like a result."""
    (run.directory / METRICS_NAME).unlink()
    _, page = page_of(run, explanations)
    assert "has not been evaluated yet" in page.text
    assert f"noetik evaluate {run.directory}" in page.text
    assert "behaviour cloning" not in page.text


def test_a_damaged_evaluation_leaves_the_old_page(
    run: Run, explanations: list[Explanation]
) -> None:
    """Otherwise a failure destroys a good report, or a damaged result is shown as none."""
    before, _ = page_of(run, explanations)
    (run.directory / METRICS_NAME).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        write_report(run, explanations)
    assert (run.directory / REPORT_NAME).read_text(encoding="utf-8") == before


def test_what_cannot_be_written_is_said(run: Run) -> None:
    """Otherwise a full disk or a folder in the way ends in a traceback and a half page."""
    (run.directory / REPORT_NAME).mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_report(run, [])
    assert not list(run.directory.glob(".*.part"))


def test_names_are_shown_not_executed(make_run: Callable[..., Run]) -> None:
    """Otherwise a folder's name, or a stranger's metrics.json, runs in the reader's browser."""
    hostile = "<img src=x onerror=alert(1)>"
    run = make_run(hostile)
    path = run.directory / METRICS_NAME
    content = path.read_text(encoding="utf-8")
    path.write_text(content.replace("behaviour_cloning", "</text></svg><b onclick=x>"))
    html, page = page_of(run, [])
    assert hostile in page.text
    assert "<img" not in html
    assert "<b " not in html
    assert not page.open


def test_a_dozen_users_with_long_histories_fit_into_a_mail(
    run: Run, explanations: list[Explanation]
) -> None:
    """Otherwise the page of a run with 50 past events a state is too large to send or to open."""
    one = explanations[0]
    events = [influence for influence in one.influences if influence.event]
    features = [influence for influence in one.influences if not influence.event]
    many = []
    for slot in range(50):
        like = events[slot % len(events)]
        event = like.event.model_copy(update={"slot": slot}) if like.event else None
        many.append(like.model_copy(update={"name": f"event {slot}", "event": event}))
    long = one.model_copy(update={"history_events": 50, "others": [*many, *features][3:]})
    long = long.model_copy(update={"reasons": many[:3]})
    dozen = [
        long.model_copy(update={"user_id": user, "rank": rank})
        for user in range(12)
        for rank in (1, 2, 3)
    ]
    html, _ = page_of(run, dozen)
    assert len(explorer_of(run)["users"][11]["choices"][2]["events"]) == 50
    assert len(html.encode()) < 1_500_000


def test_the_same_run_gives_the_same_page(run: Run, explanations: list[Explanation]) -> None:
    """Otherwise a page that is kept under version control changes without a reason."""
    assert page_of(run, explanations)[0] == page_of(run, explanations)[0]


def test_a_short_or_diverged_training_is_still_shown(make_run: Callable[..., Run]) -> None:
    """Otherwise the run that most needs a look has no page."""
    run = make_run(iterations=1)
    write_rows(
        run.directory / PROGRESS_NAME, [{**PROGRESS[0], "q_loss": math.inf, "v_loss": math.nan}]
    )
    _, page = page_of(run, [])
    assert "Q goes from inf to inf and V goes from nan to nan" in page.text


@pytest.mark.parametrize("damage", ["", "garbage", "iteration,gradient_steps\n"])
def test_a_damaged_progress_is_not_shown_as_a_figure(run: Run, damage: str) -> None:
    """Otherwise a file cut short passes for a training that recorded nothing, or other figures."""
    path = run.directory / PROGRESS_NAME
    whole = path.read_text(encoding="utf-8")
    for text in (damage, whole[:-20]):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"progress\.csv is damaged"):
            page_of(run, [])


def test_the_command_writes_the_page(run: Run) -> None:
    """Otherwise the shell gives another page than the library, or hides where it is."""
    done = CliRunner().invoke(cli, ["report", str(run.directory), "--json"], catch_exceptions=False)
    printed = json.loads(done.stdout)
    users = list(default_users(run.dataset(), 12))
    assert printed == {"report": str(run.directory / REPORT_NAME), "users": users}
    assert len(users) == 8  # all that this small world has
    assert set(users) <= set(run.dataset().users.user_id[run.dataset().users.held_out].tolist())
    shown = explorer_of(run)["users"]
    assert [user["name"] for user in shown] == [str(user) for user in users]
    assert all(len(user["choices"]) == 3 and user["heldOut"] for user in shown)
    page = Page((run.directory / REPORT_NAME).read_text(encoding="utf-8"))
    assert page.text.count("the policy's first choice") == 3  # cards

    one = ["report", str(run.directory), "--user", str(users[1]), "--user", str(users[1])]
    done = CliRunner().invoke(cli, one, catch_exceptions=False)
    assert done.stdout.strip() == str(run.directory / REPORT_NAME)
    assert [user["name"] for user in explorer_of(run)["users"]] == [str(users[1])]


def test_as_many_users_as_asked_for(run: Run) -> None:
    """Otherwise a reader who asks for more users gets the same ones, or thinks these are all."""
    command = ["report", str(run.directory), "--users"]
    CliRunner().invoke(cli, [*command, "2"], catch_exceptions=False)
    assert len(explorer_of(run)["users"]) == 2
    done = CliRunner().invoke(cli, [*command, "100000"], catch_exceptions=False)
    assert len(explorer_of(run)["users"]) == 8
    assert "Only 8 held-out users" in done.stderr
    both = CliRunner().invoke(cli, [*command, "2", "--user", "1"])
    assert both.exit_code == 2
    assert "give one" in both.stderr
