"""In headless Chromium: the page is for everyone, on any screen and on paper, and harms nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from noetik_rllib.interpret.sentence import counterfactual_sentence, video_label
from tests.report.explored import HOSTILE, Explored, clean, shown


def test_names_are_shown_not_executed(page: Page, hostile: Explored) -> None:
    """Otherwise who names a user, a video or a folder runs scripts in the reader's browser."""
    page.goto(hostile.url)
    expect(page.get_by_role("heading", level=1)).to_have_text("<img src=x onerror=alert(1)>")
    assert shown(page, "title").startswith(clean(f"User {HOSTILE} → video {HOSTILE}"))
    assert clean(HOSTILE) in shown(page, "sentence")
    assert clean(HOSTILE) in clean(page.locator("#explorer-events tr").first.inner_text())
    page.get_by_role("button", name="Next user").click()
    assert page.evaluate("window.harm") is None
    assert page.locator("img").count() == 0
    # Its address leads back to it, whatever signs it is made of.
    page.get_by_role("button", name="Next user").click()
    address = page.evaluate("location.href")
    page.goto("about:blank")
    page.goto(address)
    expect(page.get_by_role("status")).to_be_empty()
    assert shown(page, "title").startswith(clean(f"User {HOSTILE}"))


@pytest.mark.parametrize("which", ["explored", "hostile"])
def test_a_phone_needs_no_sideways_scrolling(
    page: Page, which: str, request: pytest.FixtureRequest
) -> None:
    """Otherwise the reader moves the page to and fro for every line."""
    pages: Explored = request.getfixturevalue(which)
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(pages.url)
    for user in pages.users:
        page.get_by_label("User", exact=True).select_option(label=user)
        page.locator("summary:visible").click()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        outside = page.locator("#explorer *:visible").evaluate_all(
            "all => all.filter(one => !one.closest('.hidden, thead')"
            " && one.getBoundingClientRect().right > 360).map(one => one.outerHTML)"
        )
        assert not outside


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_nobody_is_kept_out(
    context_of: Callable[..., BrowserContext],
    explored: Explored,
    scheme: Literal["light", "dark"],
    width: int,
) -> None:
    """Otherwise some cannot read a text for its contrast, or meet a control without a name."""
    size = {"width": width, "height": 900}
    page = context_of(color_scheme=scheme, viewport=size).new_page()
    page.goto(f"{explored.url}#user={explored.users[1]}&choice=2")
    page.locator("summary:visible").click()
    found = Axe().run(page).response["violations"]
    assert not [
        (one["id"], one["impact"], [node["html"] for node in one["nodes"]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def test_without_scripts_there_are_cards(
    context_of: Callable[..., BrowserContext], explored: Explored
) -> None:
    """Otherwise a mail program's preview shows an empty section, or a dead control."""
    page = context_of(java_script_enabled=False).new_page()
    page.goto(explored.url)
    expect(page.locator("#explorer")).to_be_hidden()
    cards = page.locator("article.card")
    assert cards.count() == 3
    for place, user in enumerate(explored.users[:3]):
        text = clean(cards.nth(place).inner_text())
        assert explored.of(user).sentence in text
        assert explored.of(user).reasons[0].text in text
    expect(page.get_by_text("choose among 4 users")).to_be_visible()


def test_print_holds_the_chosen_explanation(page: Page, explored: Explored) -> None:
    """Otherwise paper shows another user than the screen, or buttons that nobody can press."""
    page.goto(f"{explored.url}#user={explored.users[1]}&choice=2")
    page.emulate_media(media="print")
    explanation = explored.of(explored.users[1], 2)
    for part in (video_label(explanation.video), counterfactual_sentence(explanation)):
        expect(page.get_by_text(part).first).to_be_visible()
    assert page.locator("#explorer-events tr:visible").count() == explanation.history_events
    expect(page.get_by_role("button", name="Next user", include_hidden=True)).to_be_hidden()
    assert page.locator(".choice:visible").count() == 1
    assert page.pdf().startswith(b"%PDF")
