"""Plain English from numbers: each function turns one number or one fact into words, and no more.

Nothing here decides what is worth saying; ``explanation`` and ``sentence`` do. "They" is the user.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.interpret.groups import CONTEXT_GROUPS, RATE_GROUPS, USER_GROUPS
from noetik_rllib.offline.manifest import Normaliser
from noetik_rllib.state import ACTIVE_DEGREES, CONTEXT_NAMES, DAY_SECONDS, TABS, USER_NAMES

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
_USER = {name: place for place, name in enumerate(USER_NAMES)}
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
    """A ratio as a number.

    >>> factor(1.34), factor(12.6), factor(5200.0)
    ('1.3', '13', '5,200')
    """
    return f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:,.0f}"


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


def ago(seconds: float) -> str:
    """A moment in the past.

    >>> ago(0.2), ago(130)
    ('just now', '2 minutes ago')
    """
    return "just now" if seconds < 0.5 else f"{duration(seconds)} ago"


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


def watched(ratio: float, clicked: bool) -> str:
    """What a watch ratio says the user did with a video.

    A tenth of a long video is more than a skip: where the log counts a click (on most pages, more
    than 7 s of watching), the share is said.

    >>> watched(0.04, False), watched(0.04, True), watched(0.62, True), watched(1.0, True)
    ('skipped', 'watched 4.0% of', 'watched 62% of', 'watched all of')
    """
    if ratio >= WHOLE_FROM:
        return "watched all of"
    skipped = ratio < SKIPPED_BELOW and not clicked
    return "skipped" if skipped else f"watched {percent(ratio)} of"


def event(
    *,
    name: str,
    video_tags: Sequence[int],
    watch_ratio: float,
    feedback: Sequence[str],
    age_seconds: float,
    shared_tags: Sequence[int],
    same_author: bool,
) -> str:
    """A past event, and what its video has in common with the recommended one.

    >>> event(name="video 12", video_tags=[39], watch_ratio=1.0, feedback=["click", "like"],
    ...       age_seconds=180, shared_tags=[39], same_author=False)
    'they watched all of video 12 (tag 39) 3 minutes ago and liked it; both carry tag 39'
    """
    did = watched(watch_ratio, "click" in feedback)
    said = f"they {did} {name} ({tags(video_tags)}) {ago(age_seconds)}"
    if did == "skipped" and watch_ratio >= 0.005:
        said += f", {percent(watch_ratio)} into it,"
    acts = [act for signal, act in _ACTS.items() if signal in feedback]
    said = f"{said} and {listing(acts)}" if acts else said.rstrip(",")
    common = []
    if shared_tags:
        common.append(f"both carry {tags(shared_tags)}")
    if same_author:
        common.append("both are by the same author")
    return f"{said}; {listing(common)}" if common else said


def user_group(name: str, user: np.ndarray, average: np.ndarray, counts: Normaliser) -> str:
    """What a group of profile features says of the user.

    Args:
        name: a group of ``USER_GROUPS``.
        user: the user's features, (32,).
        average: the baseline's, (32,).
        counts: normaliser of the four logarithmic counts.
    """
    if name in _USER and _USER[name] < len(counts.mean):
        place = _USER[name]

        def count(features: np.ndarray) -> int:
            return round(math.expm1(features[place] * counts.std[place] + counts.mean[place]))

        value, typical = count(user), f"{count(average):,}"
        return {
            "log_follows": f"they follow {plural(value, 'account')} (typically {typical})",
            "log_fans": f"they have {plural(value, 'follower')} (typically {typical})",
            "log_friends": f"they have {plural(value, 'friend')} (typically {typical})",
            "log_register_days": f"they joined {plural(value, 'day')} ago (typically {typical})",
        }[name]
    if name == "active_degree":
        first = _USER[f"active_degree_{ACTIVE_DEGREES[0]}"]
        degrees = user[first : first + len(ACTIVE_DEGREES)]
        known = ACTIVE_DEGREES[int(degrees.argmax())] if degrees.max() > 0.5 else "UNKNOWN"
        return f"their level of activity is {known.replace('_', ' ').lower()}"
    if name == "anonymous_features":
        return "profile features that KuaiRand publishes without a meaning"
    yes = user[_USER[name]] > 0.5
    return {
        "live_streamer": f"they {'stream' if yes else 'do not stream'} live",
        "video_author": f"they {'upload' if yes else 'do not upload'} videos of their own",
        "low_active_period": f"they are {'' if yes else 'not '}in a period of low activity",
        "features_known": f"their profile is {'' if yes else 'not '}known",
    }[name]


def context_group(name: str, context: np.ndarray, average: np.ndarray) -> str:
    """What a group of context features says of the situation.

    Args:
        name: a group of ``CONTEXT_GROUPS``.
        context: the situation's features, (32,).
        average: the baseline's, (32,).
    """
    if name in RATE_GROUPS:
        rate = _RATES[RATE_GROUPS[name]].format(percent(float(context[_CONTEXT[name]])))
        return f"they have {rate} (typically {percent(float(average[_CONTEXT[name]]))})"
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
    value, typical = (math.expm1(features[_CONTEXT[name]]) for features in (context, average))
    return {
        "log_events": f"they have seen {plural(round(value), 'video')} on record",
        "log_gap_seconds": f"their last video was {ago(value)}",
        "log_session_events": f"they have seen {plural(round(value), 'video')} in this session",
        "log_session_seconds": f"this session has lasted {duration(value)}",
    }[name] + (
        f" (typically {duration(typical)})" if "seconds" in name else f" (typically {typical:,.0f})"
    )


def _turn(sin: float, cos: float) -> float:
    """The share of a turn, 0 to 1, that a point on the circle stands for."""
    return (math.atan2(sin, cos) / (2 * math.pi)) % 1.0


#: Short headings for tables and plots.
GROUP_LABELS: dict[str, str] = {
    "log_follows": "accounts followed",
    "log_fans": "followers",
    "log_friends": "friends",
    "log_register_days": "days since joining",
    "active_degree": "level of activity",
    "live_streamer": "live streamer",
    "video_author": "uploads videos",
    "low_active_period": "low-activity period",
    "anonymous_features": "anonymous features",
    "features_known": "profile known",
    "hour": "hour of the day",
    "weekday": "day of the week",
    "tab": "tab of the app",
    **{group: f"{signal.replace('_', ' ')} so far" for group, signal in RATE_GROUPS.items()},
    "log_events": "videos seen",
    "log_gap_seconds": "time since the last video",
    "log_session_events": "videos this session",
    "log_session_seconds": "length of the session",
}
assert set(GROUP_LABELS) == {group.name for group in (*USER_GROUPS, *CONTEXT_GROUPS)}
