"""The rows of a dataset, built for some users at a time: states, transitions, signals, origin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from noetik_rllib.data.interactions import InteractionLog
from noetik_rllib.data.signals import BINARY_SIGNALS, SIGNALS, RewardWeights
from noetik_rllib.data.spans import beginnings, spans
from noetik_rllib.errors import UserError
from noetik_rllib.offline.catalog import IdIndex
from noetik_rllib.offline.dataset import COLUMNS
from noetik_rllib.offline.episodes import Episodes, cut_episodes
from noetik_rllib.offline.history import HistoryIndex, Requests
from noetik_rllib.offline.parquet_pages import Column, Flags, Lists, Repeated, RowGroup, pack
from noetik_rllib.offline.split import PARTS, RANDOM
from noetik_rllib.state import VIDEO, StateLayout

#: Bits of an episode's number that count the rows of its user before it within the part. The part
#: takes 2 more and the user's id, below 2^39, the rest of 63: so an episode's number is unique over
#: all parts, and depends on nothing but its own user's rows.
EPISODE_ROW_BITS = 22
_WEIGHTS = RewardWeights().as_array().astype(np.float32)


@dataclass(frozen=True)
class RowSettings:
    """What all rows of a dataset have in common.

    Attributes:
        layout: of the states.
        episode_steps: longest episode.
        user_features: (n, 32) float32.
        signal_means: mean of each signal in the training part, (9,).
        video_index: finds a video's dense index.
        random_propensity: probability with which the uniform policy shows each video.
        keep_columns: whether the unpacked columns are wanted too, beside the packed ones.
    """

    layout: StateLayout
    episode_steps: int
    user_features: np.ndarray
    signal_means: np.ndarray
    video_index: IdIndex
    random_propensity: float
    keep_columns: bool


@dataclass(frozen=True)
class Block:
    """Some users' rows: a piece of the log with what the rows of the dataset need beside it.

    Attributes:
        log: all rows of these users, (N,).
        user_row: row of each row's user in ``user_features``, (N,), ascending.
        part: position in ``PARTS``, (N,) int8.
    """

    log: InteractionLog
    user_row: np.ndarray
    part: np.ndarray


@dataclass(frozen=True)
class PartRows:
    """The rows of a block that belong to one part, ready to be written."""

    part: str
    group: RowGroup
    columns: dict[str, Column] | None
    users: int
    episodes: int
    reward_sum: float


def build_rows(block: Block, settings: RowSettings) -> list[PartRows]:
    """Build and pack the rows of a block, part by part; parts without a row are left out."""
    log = block.log
    index = HistoryIndex(
        layout=settings.layout,
        log=log,
        user_row=block.user_row,
        user_features=settings.user_features,
        video_index=settings.video_index.of(log.video_id),
        signal_means=settings.signal_means,
    )
    cuts = [_cut(number, block, index, settings) for number in range(len(PARTS))]
    # All states of the block at once: of its requests, then after each row that nothing follows.
    ends = np.concatenate([cut.rows[cut.last] for cut in cuts])
    states = index.states(Requests.concatenate(index.before(index.state_rows), index.after(ends)))
    result = []
    first_end = len(index.state_rows)
    for cut in cuts:
        if len(cut.rows):
            columns = _columns(cut, index, states, first_end, settings)
            result.append(
                PartRows(
                    part=PARTS[cut.part],
                    group=pack(columns),
                    columns=columns if settings.keep_columns else None,
                    users=len(np.unique(block.user_row[cut.rows])),
                    episodes=int(np.count_nonzero(cut.episodes.step == 0)),
                    reward_sum=float((log.signals[cut.rows] @ _WEIGHTS).sum(dtype=np.float64)),
                )
            )
        first_end += len(cut.last)
    return result


@dataclass(frozen=True)
class _Cut:
    """The rows of one part of a block, their episodes, and which have no row after them."""

    part: int
    rows: np.ndarray
    episodes: Episodes
    last: np.ndarray


def _cut(part: int, block: Block, index: HistoryIndex, settings: RowSettings) -> _Cut:
    rows = np.flatnonzero(block.part == part)
    # Between two random rows of a user lie standard ones: each is an episode of its own.
    session = rows if part == RANDOM else index.session_start[rows]
    episodes = cut_episodes(index.user_row[rows], session, settings.episode_steps)
    return _Cut(part, rows, episodes, np.flatnonzero(~episodes.continues))


def _columns(
    cut: _Cut,
    index: HistoryIndex,
    states: np.ndarray,
    first_end: int,
    settings: RowSettings,
) -> dict[str, Column]:
    """Build the columns of a part's rows.

    Args:
        cut: the part and its rows, n of them.
        index: over the block's log.
        states: (M, size), those of ``index.state_rows`` first.
        first_end: where the states after this part's last rows begin.
        settings: of all rows.
    """
    log, rows, episodes, n = index.log, cut.rows, cut.episodes, len(cut.rows)
    user_id = log.user_id[rows]
    place = np.arange(n) - np.repeat(*spans(beginnings(user_id)))
    if place.max() >> EPISODE_ROW_BITS:
        raise UserError(
            f"user {user_id[place.argmax()]} has over {1 << EPISODE_ROW_BITS:,} rows in part "
            f"'{PARTS[cut.part]}': the numbers of episodes hold no more; is the user column right?"
        )

    # The state after a row is the user's next one in the part, else the moment after watching.
    state = index.state_of[rows]
    next_state = np.append(state[1:], 0)
    next_state[cut.last] = first_end + np.arange(len(cut.last))

    signals = log.signals[rows]
    propensity = np.where(log.is_random[rows], settings.random_propensity, np.nan)
    columns: dict[str, Column] = {
        "eps_id": (user_id * len(PARTS) + cut.part << EPISODE_ROW_BITS) + place - episodes.step,
        "agent_id": Repeated("default_agent", n),
        "module_id": Repeated("default_policy", n),
        "t": episodes.step.astype(np.int32),
        "obs": Lists(states, state),
        "actions": index.events[rows, VIDEO].astype(np.int64) - 1,
        "rewards": signals @ _WEIGHTS,
        "new_obs": Lists(states, next_state),
        "terminateds": episodes.terminated,
        "truncateds": episodes.truncated,
        "user_id": user_id,
        "video_id": log.video_id[rows],
        "time_ms": log.time_ms[rows],
        # Of the standard log nobody knows the propensity: not a number, rather than a guess.
        "propensity": propensity.astype(np.float32),
    }
    for number, name in enumerate(SIGNALS):
        values = np.ascontiguousarray(signals[:, number])
        columns[name] = Flags(values) if name in BINARY_SIGNALS else values
    return {name: columns[name] for name in COLUMNS}
