"""Fitted Q evaluation: the value of a policy's sessions, from logged answers instead of simulated.

The sessions are those of ``run_sessions``: a number of videos, none twice, one request after the
other on one page of the app. What follows an answer is therefore not read from the log, whose users
went elsewhere or left, but is the state that the simulator would make of the logged answer
(``state.advance``): known exactly, so nothing about it has to be learnt.

Shapes: R rows, S start states, H steps of a session, p features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.envs.response_model import WATCH_COLUMN, ResponseModel
from noetik_rllib.envs.simulator import seconds_until_next
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.errors import NoEvidenceError, UserError
from noetik_rllib.evaluation.figures import named
from noetik_rllib.evaluation.intervals import bootstrap_by_user
from noetik_rllib.evaluation.linear_fqe import Estimate, Support, Transitions, fit
from noetik_rllib.evaluation.logged_rows import logged_rows
from noetik_rllib.evaluation.policies import Policy
from noetik_rllib.evaluation.result import METRICS, Interval
from noetik_rllib.evaluation.session_features import SessionFeatures
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.state import advance

#: The most rows; whole users are left out above. 300,000 put the interval of the reward within
#: some 0.005, and hold 0.6 GB of states and features.
MAX_ROWS = 300_000
#: Rows' worth by which Q is drawn towards what is expected of users who stay as they are. Of 3, 10
#: and 30, on 20 groups of 160 users of one world: 3 is less biased, 10 has half the variance for
#: policies that show few videos. Coverage is measured on another world.
RIDGE = 5.0
#: Below it the answers that an estimate rests on are too few, as for the other estimates.
LEAST_EFFECTIVE_ROWS = 100.0
#: With fewer uniformly exposed rows, what being chosen by the platform means cannot be told.
LEAST_UNIFORM_ROWS = 500


class FittedQFigures(BaseModel):
    """The estimate for one policy, and what it rests on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Metric -> mean per video of a session. Empty where the log does not support an estimate.
    metrics: dict[str, Interval]
    #: Metric -> the first policy's minus this one's, paired by user; empty for the first.
    differences: dict[str, Interval]
    #: Share of the rows whose video the policy would have shown first.
    matched_share: float
    #: (sum of weights)^2 / sum of squared weights, of the rows' answers in the estimate.
    effective_rows: float
    #: Mean leverage in the fit of what the policy would show, over that of what was logged: 1 is as
    #: well known as the log itself.
    leverage: float
    #: Share of what the policy would show whose leverage is beyond that of 99 % of the rows.
    beyond: float
    warnings: list[str]


class FittedQResult(BaseModel):
    """Sessions of several policies, evaluated on the same logged rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policies: dict[str, FittedQFigures]
    #: Rows that were fitted on, how many of them uniformly exposed, and their users.
    rows: int
    uniform_rows: int
    users: int
    #: Videos of a session.
    steps: int
    seed: int


@dataclass(frozen=True)
class SessionRows:
    """Logged rows with the states that follow in a session, and where sessions start.

    Attributes:
        users: distinct, ascending, (U,).
        user: of each row, (R,) in 0..U-1.
        states, next_states: (R, state size) float32.
        videos: shown, (R,) int64.
        signals: answers, (R, 9) float32.
        chosen: whether the logging policy chose the video, (R,) bool; False: drawn uniformly.
        start_user, start_states: (S,) in 0..U-1, (S, state size); each user has one or more.
    """

    users: np.ndarray
    user: np.ndarray
    states: np.ndarray
    next_states: np.ndarray
    videos: np.ndarray
    signals: np.ndarray
    chosen: np.ndarray
    start_user: np.ndarray
    start_states: np.ndarray

    @property
    def uniform_rows(self) -> int:
        """Number of uniformly exposed rows."""
        return int((~self.chosen).sum())

    def of_users(self, places: np.ndarray) -> SessionRows:
        """Return the rows and starts of the users at places (u,) among ``users``, ascending."""
        places = np.sort(places)
        rows = np.isin(self.user, places)
        starts = np.isin(self.start_user, places)
        return SessionRows(
            users=self.users[places],
            user=np.searchsorted(places, self.user[rows]),
            states=self.states[rows],
            next_states=self.next_states[rows],
            videos=self.videos[rows],
            signals=self.signals[rows],
            chosen=self.chosen[rows],
            start_user=np.searchsorted(places, self.start_user[starts]),
            start_states=self.start_states[starts],
        )


def load_session_rows(
    dataset: OfflineDataset,
    *,
    users: np.ndarray | None = None,
    max_rows: int = MAX_ROWS,
    seed: int = 0,
) -> SessionRows:
    """Read the rows from the split on: of the part ``test``, and uniformly exposed ones.

    No policy was trained on these, and neither was the user model whose features they are described
    in, which is fitted on the part ``judge``: a fit on its own rows would take what it learnt by
    heart for knowledge.

    Args:
        dataset: that is read.
        users: only these; all if not given.
        max_rows: whole users, chosen by ``seed``, are left out above.
        seed: of the choice.

    Raises:
        UserError: there are no such rows, or one cannot be meant.
    """
    starts = load_starts(dataset, "test", users)
    users = _chosen_users(dataset, starts.users, max_rows, seed)
    columns = ("user_id", "obs", "actions", *SIGNALS)
    loaded: list[dict[str, np.ndarray]] = []
    parts = ["test"] + (["random"] if dataset.manifest.parts["random"].rows else [])
    for part in parts:
        for rows in logged_rows(dataset, part, columns, from_split=True, users=users):
            rows["chosen"] = np.full(len(rows["actions"]), part == "test")
            loaded.append(rows)
    merged = {name: np.concatenate([rows[name] for rows in loaded]) for name in loaded[0]}
    uniform = int((~merged["chosen"]).sum())
    if uniform < LEAST_UNIFORM_ROWS:
        merged = {name: values[merged["chosen"]] for name, values in merged.items()}
    signals = np.stack([merged[name] for name in SIGNALS], axis=1).astype(np.float32)
    states = merged["obs"].astype(np.float32, copy=False)
    videos = merged["actions"].astype(np.int64)
    seconds = seconds_until_next(signals[:, WATCH_COLUMN], dataset.catalog.duration_ms[videos])
    kept = np.isin(starts.user_id, users)
    return SessionRows(
        users=users,
        user=np.searchsorted(users, merged["user_id"]),
        states=states,
        # What a session under the evaluated policy would be in: the platform has not chosen the
        # video there, whoever did in the log.
        next_states=advance(dataset.layout, states, videos, signals, seconds),
        videos=videos,
        signals=signals,
        chosen=merged["chosen"],
        start_user=np.searchsorted(users, starts.user_id[kept]),
        start_states=starts.states[kept],
    )


def fitted_q(
    policies: Sequence[Policy],
    dataset: OfflineDataset,
    model: ResponseModel,
    rows: SessionRows,
    reward: RewardWeights,
    *,
    steps: int,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> FittedQResult:
    """Estimate what sessions under each policy bring, from logged answers.

    Args:
        policies: with different names; those that rank, since a session's next video is taken from
            their list.
        dataset: of the rows.
        model: user model, fitted on other rows.
        rows: to fit on.
        reward: weights of the metric "reward".
        steps: videos of a session, 2 or more.
        seed: of the intervals.
        progress: called with the share that is done, 0 to 1.

    Raises:
        UserError: the catalogue or the history of a state is too short for a session.
    """
    _check(dataset, steps)
    progress = progress or (lambda share: None)
    features = SessionFeatures(model, dataset, steps, selection=rows.uniform_rows > 0)
    logged = describe_logged(features, rows)
    pseudo_values: dict[str, np.ndarray] = {}
    figures: dict[str, FittedQFigures] = {}
    for number, policy in enumerate(policies):
        described, matched = transitions(policy, features, dataset, rows, logged)
        estimate = fit(described, RIDGE)
        warnings = _warnings(policy.name, estimate.support, rows)
        metrics: dict[str, Interval] = {}
        differences: dict[str, Interval] = {}
        if estimate.support.effective_rows >= LEAST_EFFECTIVE_ROWS:
            values = with_reward(estimate, reward)
            metrics = named(METRICS, bootstrap_by_user(values, seed))
            pseudo_values[policy.name] = values
            first = pseudo_values.get(policies[0].name)
            if number and first is not None:
                differences = named(METRICS, bootstrap_by_user(first - values, seed))
        figures[policy.name] = FittedQFigures(
            metrics=metrics,
            differences=differences,
            matched_share=matched,
            effective_rows=estimate.support.effective_rows,
            leverage=estimate.support.leverage,
            beyond=estimate.support.beyond,
            warnings=warnings,
        )
        progress((number + 1) / len(policies))
    return FittedQResult(
        policies=figures,
        rows=len(rows.videos),
        uniform_rows=rows.uniform_rows,
        users=len(rows.users),
        steps=steps,
        seed=seed,
    )


def with_reward(estimate: Estimate, reward: RewardWeights) -> np.ndarray:
    """Return the pseudo-values of ``METRICS``, (U, 10), from those of the signals."""
    signals = estimate.pseudo_values
    return np.column_stack([signals @ reward.as_array(), signals])


def describe_logged(features: SessionFeatures, rows: SessionRows) -> np.ndarray:
    """Return the features of what was logged, (R, p)."""
    return features.pairs(rows.states, rows.users[rows.user], rows.videos, rows.chosen)


def transitions(
    policy: Policy,
    features: SessionFeatures,
    dataset: OfflineDataset,
    rows: SessionRows,
    logged: np.ndarray,
) -> tuple[Transitions, float]:
    """Describe rows, and what a policy would show after them and first; also its matched share.

    ``logged`` (R, p) holds the features of the rows' own pairs (``describe_logged``), which are the
    same for every policy.
    """
    steps, user_id = features.steps, rows.users[rows.user]
    click = features.click_column

    listed = policy.top_k(rows.states, user_id, steps)
    matched = float((listed[:, 0] == rows.videos).mean())
    newest = dataset.layout.unpack(rows.states).video_index
    prospect = features.prospect(rows.states, user_id, listed)
    ahead = [
        features.ahead(prospect, logged[:, click], rows.videos, newest[:, :step], rows.chosen)
        for step in range(steps)
    ]

    listed = policy.top_k(rows.next_states, user_id, steps)
    newest = dataset.layout.unpack(rows.next_states).video_index
    prospect = features.prospect(rows.next_states, user_id, listed)
    shows = choices(listed, newest[:, : steps - 1])  # (R, H - 1)
    after = features.pairs(rows.next_states, user_id, shows[:, 0])
    clicks = after[:, click].copy()
    changes: list[tuple[np.ndarray, np.ndarray]] = []
    ahead_after = [features.ahead(prospect, clicks, shows[:, 0], newest[:, :1])]
    for step in range(2, steps):
        video = shows[:, step - 1]
        index = np.flatnonzero(video != shows[:, step - 2])
        # None changes where no history holds anything of the list.
        changed = after[:0]
        if len(index):
            changed = features.pairs(rows.next_states[index], user_id[index], video[index])
        clicks[index] = changed[:, click]
        changes.append((index, changed))
        ahead_after.append(features.ahead(prospect, clicks, video, newest[:, :step]))

    start_id = rows.users[rows.start_user]
    listed = policy.top_k(rows.start_states, start_id, steps)
    prospect = features.prospect(rows.start_states, start_id, listed)
    start = features.pairs(rows.start_states, start_id, listed[:, 0])
    start_ahead = features.ahead(
        prospect, start[:, click], listed[:, 0], np.empty((len(start), 0), dtype=np.int64)
    )
    described = Transitions(
        user=rows.user,
        signals=rows.signals,
        features=logged,
        ahead=np.stack(ahead, axis=1),
        after=after,
        changes=changes,
        ahead_after=np.stack(ahead_after, axis=1),
        start_user=rows.start_user,
        start=start,
        start_ahead=start_ahead,
        prior=features.prior(start_ahead.shape[1]),
    )
    return described, matched


def choices(listed: np.ndarray, newest: np.ndarray) -> np.ndarray:
    """Return what is shown at steps 1 to T of a session, (R, T): at step t, the best not shown yet.

    Args:
        listed: the policy's list, best first, (R, T + 1).
        newest: videos of the history, newest first, (R, T): the first t are those of the session.
    """
    best = np.empty(newest.shape, dtype=np.int64)
    blocked = np.zeros(listed.shape, dtype=bool)
    for step in range(newest.shape[1]):
        blocked |= listed == newest[:, step, None]
        best[:, step] = listed[np.arange(len(listed)), blocked.argmin(axis=1)]
    return best


def check_max_rows(dataset: OfflineDataset, max_rows: int, seed: int) -> None:
    """Refuse what ``load_session_rows`` would refuse as too few, without reading their states.

    Raises:
        UserError: as it.
    """
    _chosen_users(dataset, load_starts(dataset, "test").users, max_rows, seed)


def _chosen_users(
    dataset: OfflineDataset, users: np.ndarray, max_rows: int, seed: int
) -> np.ndarray:
    """Choose users at random, with at most ``max_rows`` rows from the split on together."""
    counts = np.zeros(len(users), dtype=np.int64)
    for part in ("test", "random"):
        if not dataset.manifest.parts[part].rows:
            continue
        for rows in logged_rows(dataset, part, ("user_id",), from_split=True, users=users):
            counts += np.bincount(np.searchsorted(users, rows["user_id"]), minlength=len(users))
    order = np.random.default_rng(seed).permutation(len(users))
    kept = order[np.cumsum(counts[order]) <= max_rows]
    if not len(kept):
        raise UserError(
            f"max rows is {max_rows}: expected at least {counts[order[0]]}, the rows of the first "
            "user drawn"
        )
    return np.sort(users[kept])


def _check(dataset: OfflineDataset, steps: int) -> None:
    if dataset.layout.history_length < steps - 1:
        raise NoEvidenceError(
            f"sessions of {steps} videos need states of {steps - 1} past events or more, which "
            f"tell what a session has shown; {dataset.directory} has "
            f"{dataset.layout.history_length}: prepare it with --history-length {steps - 1}"
        )
    if dataset.manifest.num_videos < steps:
        raise NoEvidenceError(
            f"the catalogue has {dataset.manifest.num_videos} videos: a session of {steps} steps "
            f"that shows none twice needs at least {steps}"
        )


def _warnings(name: str, support: Support, rows: SessionRows) -> list[str]:
    """Say in words what an estimate should not be trusted for."""
    found = []
    if support.effective_rows < LEAST_EFFECTIVE_ROWS:
        found.append(
            f"no estimate for {name}: it rests on the answers of {support.effective_rows:.0f} rows "
            f"in effect, fewer than {LEAST_EFFECTIVE_ROWS:.0f}"
        )
    if support.beyond > 0.5:
        found.append(
            f"{100 * support.beyond:.0f} % of what {name} would show is unlike 99 % of the log: "
            "its value is extrapolated"
        )
    if not rows.uniform_rows:
        found.append(
            f"there are fewer than {LEAST_UNIFORM_ROWS} uniformly exposed rows from the split on: "
            "the estimate takes users to like any video as well as those that the platform chose "
            "for them, and is too high"
        )
    return found
