"""Plain English from numbers: each function turns one number or one fact into words, and no more.

Nothing here decides what is worth saying; ``explanation`` and ``sentence`` do. "They" is the user.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from noetik_rllib.data.mapping import LogFiles, Mapping, kuairand
from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.interpret.groups import RATE_GROUPS
from noetik_rllib.interpret.profile import feature_words
from noetik_rllib.offline.manifest import Normaliser
from noetik_rllib.state import CONTEXT_NAMES, DAY_SECONDS, TABS

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

#: Watched shares that have a word of their own; between them the share itself is said.
SKIPPED_BELOW = 0.1
WHOLE_FROM = 0.995

#: What the user did, for the signals that are acts of their own. Click and long view are left out:
#: on most pages they follow from the watch time.
_ACTS = {
    "like": "liked it",
    "follow": "followed its author",
    "comment": "commented on it",
    "forward": "shared it",
    "hate": "reported disliking it",
    "profile_enter": "opened its author's profile",
}
#: What is said beside them of a log that has no watched share.
_ANSWERS = {"click": "clicked it", "long_view": "stayed with it", **_ACTS}
#: The state holds smoothed rates (state.RATE_PSEUDO_COUNT), hence "about".
_RATES = {
    "click": "clicked about {} of the videos they saw",
    "watch_ratio": "watched about {} of a video on average",
    "long_view": "watched about {} of their videos at length",
    "like": "liked about {} of their videos",
    "follow": "followed the author of about {} of their videos",
    "comment": "commented on about {} of their videos",
    "forward": "shared about {} of their videos",
    "hate": "reported disliking about {} of their videos",
    "profile_enter": "opened the author's profile for about {} of their videos",
}
assert set(_RATES) == set(SIGNALS)
_CONTEXT = {name: place for place, name in enumerate(CONTEXT_NAMES)}


def plural(count: int, noun: str) -> str:
    """Count with its noun.

    >>> plural(1, "event"), plural(1200, "event")
    ('1 event', '1,200 events')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def percent(share: float) -> str:
    """A share as a percentage: whole from 10% up, two digits below.

    >>> percent(0.283), percent(0.0214), percent(0.99996), percent(0.0)
    ('28%', '2.1%', '100%', '0%')
    """
    value = 100 * share
    if value == 0 or abs(value) >= 9.95:
        return f"{value:.0f}%"
    # Two significant digits, without an exponent: a small probability is 0.0021%, not 2.1e-03%.
    digits = min(12, 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}%"


def factor(ratio: float) -> str:
    """A ratio as a number: two digits, and more of a number above 100.

    >>> factor(1.34), factor(12.6), factor(5200.0), factor(0.0312)
    ('1.3', '13', '5,200', '0.031')
    """
    if ratio >= 9.95:
        return f"{ratio:,.0f}"
    if ratio >= 0.95:
        return f"{ratio:.1f}"
    digits = min(12, 1 - math.floor(math.log10(ratio))) if ratio else 0
    return f"{ratio:.{digits}f}".rstrip("0").rstrip(".") if ratio else "0"


def signed(value: float, digits: int = 2) -> str:
    """An effect with its sign; what rounds to zero has none.

    >>> signed(0.844), signed(-1.2), signed(-0.0004)
    ('+0.84', '-1.20', '0.00')
    """
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def error(share: float) -> str:
    """A numerical error as a percentage, where digits of a very small one say nothing.

    >>> error(0.0042), error(3e-7)
    ('0.42%', 'under 0.01%')
    """
    return "under 0.01%" if share < 1e-4 else percent(share)


def times(ratio: float) -> str:
    """A ratio in words.

    >>> times(1.34)
    '1.3 times'
    """
    return f"{factor(ratio)} times"


def duration(seconds: float) -> str:
    """A length of time, rounded to its largest unit that is at least 1.

    >>> duration(12.4), duration(59.7), duration(5400), duration(200_000)
    ('12 seconds', '1 minute', '2 hours', '2 days')
    """
    for size, unit, limit in ((1, "second", 60), (60, "minute", 60), (3600, "hour", 48)):
        count = math.floor(seconds / size + 0.5)
        if count < limit:
            return plural(count, unit)
    return plural(math.floor(seconds / DAY_SECONDS + 0.5), "day")


def clip_length(seconds: float) -> str:
    """Length of a video, short.

    >>> clip_length(63.4), clip_length(240)
    ('63 s', '4 min')
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def elapsed(seconds: float, log: LogFiles) -> str:
    """A length of time as the log measures it: in steps where it has no clock."""
    if log.time.unit != "step":
        return duration(seconds)
    return plural(round(seconds / log.time.seconds_per_step), "step")


def ago(seconds: float, log: LogFiles | None = None) -> str:
    """A moment in the past.

    >>> ago(0.2), ago(130)
    ('just now', '2 minutes ago')
    """
    length = elapsed(seconds, log or kuairand().log)
    return "just now" if seconds < 0.5 or length == "0 steps" else f"{length} ago"


def listing(items: Sequence[str]) -> str:
    """Items as in a sentence.

    >>> listing(["a"]), listing(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def tags(numbers: Sequence[int]) -> str:
    """KuaiRand's tags are anonymous numbers.

    >>> tags([39]), tags([12, 39]), tags([])
    ('tag 39', 'tags 12 and 39', 'no tag')
    """
    if not numbers:
        return "no tag"
    return f"tag{'s' if len(numbers) > 1 else ''} {listing([str(tag) for tag in numbers])}"


def has_watched_share(log: LogFiles) -> bool:
    """Whether a log's items are watched to a share, rather than answered in another way."""
    return "watch_ratio" in log.signals and "watch_ratio" not in log.meanings


def is_skip(ratio: float, clicked: bool) -> bool:
    """Whether a watched share is that of a skip.

    A tenth of a long video is more than a skip: where the log counts a click (on most pages, more
    than 7 s of watching), it is none.
    """
    return ratio < SKIPPED_BELOW and not clicked


def watched(ratio: float, clicked: bool) -> str:
    """What a watch ratio says the user did with a video.

    >>> watched(0.04, False), watched(0.04, True), watched(0.62, True), watched(1.0, True)
    ('skipped', 'watched 4.0% of', 'watched 62% of', 'watched all of')
    """
    if ratio >= WHOLE_FROM:
        return "watched all of"
    return "skipped" if is_skip(ratio, clicked) else f"watched {percent(ratio)} of"


def acts(feedback: Sequence[str], log: LogFiles | None = None) -> list[str]:
    """What the user did with a video, signal by signal.

    Args:
        feedback: names of the binary signals that are 1.
        log: what the log holds; KuaiRand's where not given.

    >>> acts(["like", "click"])
    ['clicked it', 'liked it']
    """
    meanings = (log or kuairand().log).meanings
    return [meanings.get(one, act) for one, act in _ANSWERS.items() if one in feedback]


def event(
    *,
    name: str,
    video_tags: Sequence[int] | None,
    watch_ratio: float,
    feedback: Sequence[str],
    age_seconds: float,
    shared_tags: Sequence[int],
    same_author: bool,
    is_random: bool = False,
    log: LogFiles | None = None,
) -> str:
    """A past event, and what its video has in common with the recommended one.

    Args:
        name: of the video.
        video_tags: its tags; None where the log's items carry none at all.
        watch_ratio: watched share, 0 to 1.
        feedback: names of the binary signals that are 1.
        age_seconds: since the event.
        shared_tags: tags that the recommended video carries too.
        same_author: whether it is of the recommended video's author.
        is_random: whether the video was drawn uniformly, not chosen for the user.
        log: what the log holds; KuaiRand's where not given.

    >>> event(name="video 12", video_tags=[39], watch_ratio=1.0, feedback=["click", "like"],
    ...       age_seconds=180, shared_tags=[39], same_author=False)
    'they watched all of video 12 (tag 39) 3 minutes ago and liked it; both carry tag 39'
    """
    log = log or kuairand().log
    label = name if video_tags is None else f"{name} ({tags(video_tags)})"
    if is_random:
        label += ", drawn at random,"
    when = ago(age_seconds, log)
    meanings = log.meanings
    if has_watched_share(log):
        did = watched(watch_ratio, "click" in feedback)
        said = f"they {did} {label} {when}"
        if did == "skipped" and watch_ratio >= 0.005:
            said += f", {percent(watch_ratio)} into it,"
        did_so = [meanings.get(signal, act) for signal, act in _ACTS.items() if signal in feedback]
        did_so += [
            meanings[one] for one in ("click", "long_view") if one in {*meanings} & {*feedback}
        ]
        said = f"{said} and {listing(did_so)}" if did_so else said.rstrip(",")
    else:
        said = f"they were shown {label} {when}"
        did_so = acts(feedback, log)
        if "watch_ratio" in meanings:
            did_so.append(f"{meanings['watch_ratio']} at {percent(watch_ratio)}")
        said += f" and {listing(did_so)}" if did_so else "; no signal of the log followed"
    common = []
    if shared_tags:
        common.append(f"both carry {tags(shared_tags)}")
    if same_author:
        common.append("both are by the same author")
    return f"{said}; {listing(common)}" if common else said


def past_video(
    *,
    name: str,
    video_tags: Sequence[int] | None,
    watch_ratio: float,
    feedback: Sequence[str],
    age_seconds: float,
    log: LogFiles,
) -> str:
    """A past event as a noun; arguments as ``event``'s.

    >>> past_video(name="video 12", video_tags=[39], watch_ratio=1.0, feedback=[], age_seconds=180,
    ...            log=kuairand().log)
    'video 12 (tag 39, watched 3 minutes ago)'
    """
    did = "shown"
    if has_watched_share(log):
        did = "skipped" if is_skip(watch_ratio, "click" in feedback) else "watched"
    facts = [] if video_tags is None else [tags(video_tags)]
    return f"{name} ({', '.join([*facts, f'{did} {ago(age_seconds, log)}'])})"


def had_skipped(video: str, log: LogFiles) -> str:
    """The condition that a user had not answered a video, which is a noun of ``past_video``.

    >>> had_skipped("video 12 (tag 39, watched 3 minutes ago)", kuairand().log)
    'had they skipped video 12 (tag 39, watched 3 minutes ago)'
    """
    return f"had {'they skipped' if has_watched_share(log) else 'no signal followed'} {video}"


def user_group(
    name: str,
    user: np.ndarray,
    average: np.ndarray,
    counts: Normaliser,
    mapping: Mapping | None = None,
) -> str:
    """What a group of profile features says of the user.

    Args:
        name: a group of ``groups.user_groups(mapping)``.
        user: the user's features, (32,).
        average: the baseline's, (32,).
        counts: normaliser of the features that are standardised.
        mapping: what the features are; KuaiRand's where not given.
    """
    return feature_words(name, user, average, counts, mapping or kuairand())


def context_group(
    name: str, context: np.ndarray, average: np.ndarray, log: LogFiles | None = None
) -> str:
    """What a group of context features says of the situation.

    Args:
        name: a group of ``CONTEXT_GROUPS``.
        context: the situation's features, (32,).
        average: the baseline's, (32,).
        log: what the log holds; KuaiRand's where not given.
    """
    log = log or kuairand().log
    if name in ("hour", "weekday") and log.time.unit == "step":
        return "how far they are on the clock that the log's steps are laid on"
    if name in RATE_GROUPS:
        signal = RATE_GROUPS[name]
        share, typical = (percent(float(x[_CONTEXT[name]])) for x in (context, average))
        said = f"they have {_RATES[signal].format(share)}"
        if signal in log.meanings:
            said = f"they {log.meanings[signal]} in about {share} of what they saw"
        return f"{said} (typically {typical})"
    if name == "hour":
        turn = _turn(context[_CONTEXT["hour_sin"]], context[_CONTEXT["hour_cos"]])
        return f"it is about {round(24 * turn) % 24}:00"
    if name == "weekday":
        turn = _turn(context[_CONTEXT["week_sin"]], context[_CONTEXT["week_cos"]])
        # float32 may put Monday's first instant a hair before midnight.
        return f"it is {WEEKDAYS[math.floor(7 * turn + 1e-5) % 7]}"
    if name == "tab":
        first = _CONTEXT["tab_0"]
        return f"they are on tab {int(context[first : first + TABS].argmax())} of the app"
    value, usual = (math.expm1(features[_CONTEXT[name]]) for features in (context, average))
    return {
        "log_events": f"they have seen {plural(round(value), 'video')} on record",
        "log_gap_seconds": f"their last video was {ago(value, log)}",
        "log_session_events": f"they have seen {plural(round(value), 'video')} in this session",
        "log_session_seconds": f"this session has lasted {elapsed(value, log)}",
    }[name] + (
        f" (typically {elapsed(usual, log)})" if "seconds" in name else f" (typically {usual:,.0f})"
    )


def _turn(sin: float, cos: float) -> float:
    """The share of a turn, 0 to 1, that a point on the circle stands for."""
    return (math.atan2(sin, cos) / (2 * math.pi)) % 1.0
