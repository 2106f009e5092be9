"""A user's features in words: KuaiRand's by their meaning, others by their name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from noetik_rllib.data.forms import Blank, Category, LogNumber, Number, UserFeature
from noetik_rllib.data.mapping import Mapping
from noetik_rllib.interpret.groups import is_kuairand, user_groups
from noetik_rllib.offline.manifest import Normaliser


def feature_words(
    name: str, user: np.ndarray, average: np.ndarray, counts: Normaliser, mapping: Mapping
) -> str:
    """Say what a group of features says of a user; see ``words.user_group``."""
    if name == "features_known":
        return f"their profile is {'' if user[-1] > 0.5 else 'not '}known"
    if name == "anonymous_features":
        return "profile features that KuaiRand publishes without a meaning"
    if name == "unused":
        return "a part of the profile that this log leaves empty"
    assert mapping.users is not None  # it has a feature of that name
    features = mapping.users.features
    feature = next(one for one in features if one.name == name)
    columns = next(group.columns for group in user_groups(mapping) if group.name == name)
    own, typical = user[list(columns)], average[list(columns)]
    if isinstance(feature, LogNumber | Number):
        place = [f.name for f in features if isinstance(f, LogNumber | Number)].index(name)
        mean, std = counts.mean[place], counts.std[place]
        return _number(feature, (own[0], typical[0]), (mean, std), is_kuairand(mapping))
    if isinstance(feature, Category):
        return _category(feature, own, is_kuairand(mapping))
    return _flag(feature, own[0] > 0.5, is_kuairand(mapping))


def _label(name: str) -> str:
    return name.replace("_", " ")


def _number(
    feature: LogNumber | Number,
    standardised: tuple[float, float],
    scale: tuple[float, float],
    known: bool,
) -> str:
    """A number of the user and of the average one, in its own units."""
    mean, std = scale
    values = [value * std + mean for value in standardised]
    if isinstance(feature, LogNumber):
        values = [round(math.expm1(value)) for value in values]
        value, typical = (f"{value:,}" for value in values)
        one = "" if values[0] == 1 else "s"
        phrases = {
            "log_follows": f"they follow {value} account{one}",
            "log_fans": f"they have {value} follower{one}",
            "log_friends": f"they have {value} friend{one}",
            "log_register_days": f"they joined {value} day{one} ago",
        }
        if known and feature.name in phrases:
            return f"{phrases[feature.name]} (typically {typical})"
        label = _label(feature.name.removeprefix("log_"))
    else:
        value, typical = (
            f"{value:,.3g}" if abs(value) < 1e3 else f"{value:,.0f}" for value in values
        )
        label = _label(feature.name)
    if standardised[0] == 0:
        # Blanks are put there; a number that is the average to the last bit is as good as none.
        return f"their {label} is not known, and taken as {value} (typically {typical})"
    return f"their {label} is {value} (typically {typical})"


def _category(feature: Category, own: Sequence[float] | np.ndarray, known: bool) -> str:
    place = int(np.argmax(own))
    found = own[place] > 0.5
    if known and feature.name == "active_degree":
        degree = str(feature.values[place]) if found else "UNKNOWN"
        return f"their level of activity is {degree.replace('_', ' ').lower()}"
    value = f"{feature.values[place]}" if found else "none of those that the mapping lists"
    return f"their {_label(feature.name)} is {value}"


def _flag(feature: UserFeature, yes: bool, known: bool) -> str:
    phrases = {
        "live_streamer": f"they {'stream' if yes else 'do not stream'} live",
        "video_author": f"they {'upload' if yes else 'do not upload'} videos of their own",
        "low_active_period": f"they are {'' if yes else 'not '}in a period of low activity",
    }
    if known and feature.name in phrases:
        return phrases[feature.name]
    if isinstance(feature, Blank):
        return f"their {_label(feature.column)} is {'blank' if yes else 'given'}"
    return f"their {_label(feature.name)} is {'yes' if yes else 'no, or not known'}"
