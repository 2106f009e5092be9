"""Features that make sense only together: one group per thing that a person would name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.state import CONTEXT_NAMES, USER_NAMES


@dataclass(frozen=True)
class Group:
    """A named set of positions among the 32 user or the 32 context features."""

    name: str
    columns: tuple[int, ...]


def _groups(names: tuple[str, ...], shared: Mapping[str, str]) -> tuple[Group, ...]:
    """Group names by the prefixes in ``shared`` (prefix -> group); any other stands alone."""
    columns: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        group = next((group for prefix, group in shared.items() if name.startswith(prefix)), name)
        columns.setdefault(group, []).append(column)
    return tuple(Group(name, tuple(places)) for name, places in columns.items())


#: One-hot codes are one group; so are the features that KuaiRand publishes without a meaning.
USER_GROUPS = _groups(
    USER_NAMES, {"active_degree_": "active_degree", "onehot_feat": "anonymous_features"}
)
#: A sine and its cosine are one time; the 15 pages of the app are one choice.
CONTEXT_GROUPS = _groups(CONTEXT_NAMES, {"hour_": "hour", "week_": "weekday", "tab_": "tab"})

#: Groups that are a signal's rate over the user's past, and the signal.
RATE_GROUPS = {f"{signal}_rate": signal for signal in SIGNALS}
