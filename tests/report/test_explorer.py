"""In headless Chromium: the explorer shows the data of the user and choice that was chosen."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from playwright.sync_api import Page, expect

from noetik_rllib.interpret import words
from noetik_rllib.interpret.facts import Explanation
from noetik_rllib.interpret.sentence import counterfactual_sentence, video_label
from tests.report.explored import Explored, clean, event_of, shown


def choose(page: Page, rank: int) -> None:
    page.get_by_role("radio").nth(rank - 1).check()


def expect_shown(page: Page, explanation: Explanation) -> None:
    """Every part of the explorer shows this explanation and no other."""
    expect(page.locator("#explorer-title")).to_have_text(
        f"User {explanation.user_label} → {video_label(explanation.video)}"
    )
    said = counterfactual_sentence(explanation)
    sentence = clean(explanation.sentence.replace(said, "")) if said else explanation.sentence
    assert shown(page, "sentence") == sentence
    assert page.locator("#explorer-counterfactual").is_visible() == bool(said)
    if said:
        assert shown(page, "changes") == said
    figures = shown(page, "facts")
    for figure in (
        words.percent(explanation.probability),
        f"{explanation.effective_videos:,.0f} of {explanation.candidates:,}",
        words.signed(explanation.margin - explanation.baseline_margin),
    ):
        assert figure in figures
    reasons = page.locator("#explorer-reasons li")
    assert reasons.count() == len(explanation.reasons)
    for place, reason in enumerate(explanation.reasons):
        text = clean(reasons.nth(place).inner_text())
        assert reason.text in text
        assert words.signed(reason.attribution) in text
        assert words.percent(reason.share) in text
    assert words.percent(explanation.unnamed_share) in shown(page, "unnamed")
    assert words.signed(explanation.gap, 4) in shown(page, "error")
    for source, share in explanation.source_shares.items():
        assert f"{source} {words.percent(share)}" in shown(page, "legend")
    expect_history(page, explanation)
    items = page.locator("#explorer-features li, #explorer-minor li").all_text_contents()
    for feature in (one for one in explanation.influences if one.event is None):
        (item,) = (item for item in items if feature.text in item)
        assert f"{words.signed(feature.attribution)}" in item


#: Of every row of the history: its text, and where its bar begins, its middle and its end are.
_ROWS = """rows => rows.map(row => {
  const edges = (one) => { const box = one.getBoundingClientRect(); return [box.left, box.right]; };
  return [row.innerText, edges(row.querySelector(".bar")), edges(row.querySelector(".bar i"))];
})"""


def expect_history(page: Page, explanation: Explanation) -> None:
    """One row for every event, newest first, each with its facts, its effect and its bar."""
    effects = {one.event.slot: one.attribution for one in explanation.influences if one.event}
    effects |= {event.slot: 0.0 for event in explanation.inert}
    rows = page.locator("#explorer-events tr").evaluate_all(_ROWS)
    assert len(rows) == explanation.history_events == len(effects)
    largest = max(abs(one.attribution) for one in explanation.influences)
    for slot, (laid_out, bar, fill) in zip(sorted(effects), rows, strict=True):
        event, text = event_of(explanation, slot), clean(laid_out)
        assert text.startswith(words.ago(event.age_seconds))
        assert f"video {event.video.label}" in text
        assert words.percent(event.watch_ratio) in text
        assert words.signed(effects[slot]) in text
        assert all(act in text for act in words.acts(event.feedback))
        assert ("drawn at random" in text) == event.is_random
        assert (f"shares {words.tags(event.shared_tags)}" in text) == bool(event.shared_tags)
        expect_bar(bar, fill, effects[slot] / largest)
        found = explanation.counterfactual
        decisive = found.removal.slots if found and found.removal else []
        assert ("decisive" in text) == (slot in decisive)
        skipped = found.skipped if found else None
        assert ("if skipped: " in text) == bool(skipped and slot == skipped.event.slot)
        if skipped and slot == skipped.event.slot:
            assert f"if skipped: {words.signed(skipped.margin_change)}" in text


def expect_bar(bar: Sequence[float], fill: Sequence[float], size: float) -> None:
    """``fill`` reaches from the middle of ``bar`` to the right for ``size`` > 0, else to the left.

    Both are given by their left and right edge, in pixels.
    """
    middle, half = sum(bar) / 2, (bar[1] - bar[0]) / 2
    if not size:
        assert fill[1] == fill[0]
        return
    near, far = fill if size > 0 else reversed(fill)
    assert near == pytest.approx(middle, abs=1.0)
    assert far - middle == pytest.approx(size * half, abs=1.0)


def test_every_choice_of_every_user_is_that_of_the_data(page: Page, explored: Explored) -> None:
    """Otherwise the page explains one recommendation with the reasons of another."""
    page.goto(explored.url)
    expect(page.locator("#cards")).to_be_hidden()
    select = page.get_by_label("User", exact=True)
    assert select.locator("option").all_text_contents() == explored.users
    for user in explored.users:
        select.select_option(label=user)
        for rank in (1, 2, 3):
            choose(page, rank)
            expect_shown(page, explored.of(user, rank))
            assert (
                page.get_by_role("status")
                .inner_text()
                .startswith(
                    f"User {user}, choice {rank}: {video_label(explored.of(user, rank).video)}"
                )
            )
            assert page.evaluate("location.hash") == f"#user={user}&choice={rank}"
        offered = [clean(text) for text in page.locator(".choice").all_inner_texts()]
        for rank, text in enumerate(offered, start=1):
            assert video_label(explored.of(user, rank).video) in text
            assert words.percent(explored.of(user, rank).probability) in text


def test_a_user_without_history_is_said_to_have_none(page: Page, explored: Explored) -> None:
    """Otherwise an empty table looks as if it had not loaded."""
    page.goto(f"{explored.url}#user={explored.users[3]}")
    expect(page.locator("#explorer-history-title")).to_have_text("No watched video is on record")
    expect(page.get_by_role("table", name="No watched video")).to_be_hidden()
    expect_shown(page, explored.of(explored.users[3]))


def test_the_buttons_go_through_all_users_and_around(page: Page, explored: Explored) -> None:
    """Otherwise the last user is a dead end, or one is never reached."""
    page.goto(explored.url)
    choose(page, 2)
    for user in [*explored.users[1:], explored.users[0]]:
        page.get_by_role("button", name="Next user").click()
        expect_shown(page, explored.of(user))  # from the first choice on
    page.get_by_role("button", name="Previous user").click()
    expect_shown(page, explored.of(explored.users[-1]))


def test_an_address_leads_to_a_user_and_a_choice(page: Page, explored: Explored) -> None:
    """Otherwise nobody can send a colleague what they are looking at."""
    users = explored.users
    page.goto(f"{explored.url}#user={users[1]}&choice=3")
    expect_shown(page, explored.of(users[1], 3))
    expect(page.locator("#explorer")).to_be_in_viewport()
    page.evaluate(f"location.hash = '#user={users[2]}&choice=2'")
    expect_shown(page, explored.of(users[2], 2))
    # The anchor of a section is no choice, and a user who is not here changes nothing.
    page.get_by_role("link", name="Training").click()
    expect_shown(page, explored.of(users[2], 2))
    page.evaluate("location.hash = '#user=nobody'")
    expect(page.get_by_role("status")).to_have_text("User nobody is not on this page.")
    expect_shown(page, explored.of(users[2], 2))
    page.evaluate(f"location.hash = '#user={users[0]}&choice=99'")
    expect_shown(page, explored.of(users[0], 1))


def test_the_keyboard_alone_is_enough(page: Page, explored: Explored) -> None:
    """Otherwise who cannot use a mouse cannot choose, or cannot see what they are about to."""
    page.goto(explored.url)

    def tab_to(focused: str) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            element = page.locator(":focus")
            if element.count() and element.evaluate(
                "(one, sought) => one.matches(sought)", focused
            ):
                width = element.evaluate("one => getComputedStyle(one).outlineWidth")
                assert width == "3px"
                return
        pytest.fail(f"the Tab key does not reach {focused}")

    tab_to("#explorer-previous")
    tab_to("#explorer-user")
    page.keyboard.press("ArrowDown")
    expect_shown(page, explored.of(explored.users[1]))
    tab_to("#explorer-next")
    page.keyboard.press("Enter")
    page.keyboard.press("Space")
    expect_shown(page, explored.of(explored.users[3]))
    tab_to("[name=explorer-choice]")
    page.keyboard.press("ArrowDown")
    expect_shown(page, explored.of(explored.users[3], 2))
    page.keyboard.press("ArrowDown")
    expect_shown(page, explored.of(explored.users[3], 3))
    tab_to("summary")
