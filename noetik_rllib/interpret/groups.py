"""Features that make sense only together: one group per thing that a person would name."""

from __future__ import annotations

from dataclasses import dataclass

from noetik_rllib.data.forms import feature_names
from noetik_rllib.data.mapping import Mapping, kuairand
from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.state import CONTEXT_NAMES, USER_SIZE

#: Features that KuaiRand publishes without a meaning are one group.
_ANONYMOUS = "onehot_feat"
#: A sine and its cosine are one time; the 15 pages of the app are one choice.
_SITUATION = {"hour_": "hour", "week_": "weekday", "tab_": "tab"}


@dataclass(frozen=True)
class Group:
    """A named set of positions among the 32 user or the 32 context features."""

    name: str
    columns: tuple[int, ...]


def _grouped(names: list[str]) -> tuple[Group, ...]:
    """One group per distinct name, of the positions that carry it."""
    columns: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        columns.setdefault(name, []).append(column)
    return tuple(Group(name, tuple(places)) for name, places in columns.items())


def is_kuairand(mapping: Mapping) -> bool:
    """Whether features are KuaiRand's own, so that its names for them hold."""
    return mapping.name == kuairand().name


def user_groups(mapping: Mapping) -> tuple[Group, ...]:
    """Group the 32 user positions of a dataset: one group per feature of its mapping.

    The values of a category are one group, and so are positions without a feature ("unused").
    """
    names: list[str] = []
    for feature in mapping.users.features if mapping.users else ():
        hidden = is_kuairand(mapping) and feature.name.startswith(_ANONYMOUS)
        group = "anonymous_features" if hidden else feature.name
        names += [group for _ in feature_names((feature,))]
    names += ["unused"] * (USER_SIZE - 1 - len(names))
    return _grouped([*names, "features_known"])


#: Those of KuaiRand.
USER_GROUPS = user_groups(kuairand())
CONTEXT_GROUPS = _grouped(
    [
        next((group for prefix, group in _SITUATION.items() if name.startswith(prefix)), name)
        for name in CONTEXT_NAMES
    ]
)

#: Groups that are a signal's rate over the user's past, and the signal.
RATE_GROUPS = {f"{signal}_rate": signal for signal in SIGNALS}
