"""Candidate-restricted value: the policy chooses among videos that were logged, and nothing else.

A policy over thousands of videos agrees with a random log on a row in thousands. Let choose among
K randomly exposed videos of one user, it agrees with one of K every time: the answer to its choice
was logged. That is no estimate of what the policy is worth on the whole catalogue, but of how well
it tells good videos from bad ones for a user, in real answers, without weights and without a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.errors import NoEvidenceError, UserError
from noetik_rllib.evaluation.estimators import occurrences
from noetik_rllib.evaluation.figures import sums_by_user
from noetik_rllib.evaluation.intervals import resampled_means
from noetik_rllib.evaluation.off_policy import (
    MIN_OCCURRENCES,
    named_intervals,
    ratios,
    scaled_metrics,
)
from noetik_rllib.evaluation.policies import Policy
from noetik_rllib.evaluation.random_log import RandomLog, RandomRows
from noetik_rllib.evaluation.result import Interval
from noetik_rllib.offline.dataset import OfflineDataset

#: More candidates leave a policy more to gain, and fewer sets and users to see it in. In units of
#: the interval, 5 and 10 tell a policy from chance the best (docs/off_policy.md), and 10 shows more
#: of what it can.
CANDIDATES = 10


class CandidateResult(BaseModel):
    """Several policies that choose from the same sets of candidates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Name of our policy, the first.
    policy: str
    #: Policy -> metric (``METRICS``) -> mean over the sets of the logged answer to its choice.
    policies: dict[str, dict[str, Interval]]
    #: Baseline -> metric -> ours less the baseline's, paired.
    differences: dict[str, dict[str, Interval]]
    #: Metric -> mean over all candidates: what a choice by lot is worth.
    chance: dict[str, Interval]
    #: Policy -> metric -> the policy's less chance, paired.
    over_chance: dict[str, dict[str, Interval]]
    reward: RewardWeights
    #: Videos in a set, sets, and users who have one.
    candidates: int
    sets: int
    users: int
    #: Of the resampling, of ties, and of the choice of users where there are too many rows.
    seed: int


def candidate_values(
    policies: Sequence[Policy],
    dataset: OfflineDataset,
    *,
    candidates: int = CANDIDATES,
    reward: RewardWeights | None = None,
    max_rows: int | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> CandidateResult:
    """Let policies choose among the random log's videos, and average the answers to their choices.

    A set is ``candidates`` consecutive random rows of one user, from the split on; what is left of
    a user's rows is not used. The policy scores all of them in the state before the first. In the
    later rows' own states it would see how the earlier candidates were answered, and a policy that
    favours what resembles them would choose by answers that are part of its own value.

    Args:
        policies: at least one, with different names; the first is ours. Ties are broken by lot.
        dataset: has rows of the random log from its users' split on.
        candidates: videos in a set, 2 or more.
        reward: weights of the signals; the dataset's where not given.
        max_rows: the most rows, of whole users.
        seed: of the resampling, ties and the choice of users.
        progress: called with the share that is done, 0 to 1.

    Raises:
        UserError: there are no such rows, or no user has enough of them for a set.
    """
    log = RandomLog(dataset, max_rows=max_rows, seed=seed)
    choices = choose(policies, log, candidates, seed, progress or (lambda share: None))
    names = [policy.name for policy in policies]
    return choice_values(names, choices, reward or dataset.manifest.reward, seed)


@dataclass(frozen=True)
class Choices:
    """What P policies got for their choices in S sets of candidates.

    Attributes:
        user: of each set, (S,), numbered as in ``RandomLog.users``.
        answers: to each policy's choice, (S, P, 9).
        chance: mean of the answers to all candidates, (S, 9).
        candidates: videos in a set.
    """

    user: np.ndarray
    answers: np.ndarray
    chance: np.ndarray
    candidates: int


def choose(
    policies: Sequence[Policy],
    log: RandomLog,
    candidates: int,
    seed: int,
    progress: Callable[[float], None],
) -> Choices:
    """Form the sets and let policies choose; see ``candidate_values``."""
    if candidates < 2:
        raise UserError(f"candidates is {candidates}: expected at least 2 to choose from")
    most = int(log.rows_of_user.max())
    if most < candidates:
        raise NoEvidenceError(
            f"no user of {log.dataset.directory} has {candidates} uniformly exposed rows from the "
            f"split on, the most is {most}: choose among fewer candidates"
        )
    lot = np.random.default_rng(seed)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    done = 0
    for rows in log.batches():
        sets = _sets(rows, candidates)
        if sets is not None:
            ties = lot.random(sets.videos.shape)
            every = np.arange(len(ties))
            chosen = [sets.signals[every, _choice(policy, sets, ties)] for policy in policies]
            found.append((sets.place, np.stack(chosen, axis=1), sets.signals.mean(axis=1)))
        done += len(rows)
        progress(done / len(log))
    user, answers, chance = (np.concatenate(part) for part in zip(*found, strict=True))
    return Choices(user, answers, chance, candidates)


def choice_values(
    names: list[str], choices: Choices, reward: RewardWeights, seed: int
) -> CandidateResult:
    """Turn the choices of policies of these names into figures, with a bootstrap by user."""
    # (S, P, 9) and (S, 9) -> (S, P + 1, 9): chance comes last
    answers = np.concatenate([choices.answers, choices.chance[:, None]], axis=1)
    sets, choosers, signals = answers.shape
    users, place = np.unique(choices.user, return_inverse=True)
    count = np.bincount(place)  # (U,)
    # (S, P + 1, 9) -> (U, P + 1, 9)
    tops = sums_by_user(answers.reshape(sets, -1), place, len(users)).reshape(-1, choosers, signals)
    bottoms = np.broadcast_to(count[:, None, None], (*tops.shape[:2], 1))
    sums = np.concatenate([tops, bottoms], axis=-1)  # (U, P + 1, 10)
    means = ratios(sums.sum(axis=0), reward)
    resampled = ratios(resampled_means(sums, seed), reward)
    shown = [
        occurrences(np.ones(sets), scaled_metrics(answers[:, number], reward)) >= MIN_OCCURRENCES
        for number in range(choosers)
    ]

    def less(number: int, other: int) -> dict[str, Interval]:
        return named_intervals(
            means[number] - means[other],
            resampled[:, number] - resampled[:, other],
            shown[number] & shown[other],
        )

    def own(number: int) -> dict[str, Interval]:
        return named_intervals(means[number], resampled[:, number], shown[number])

    return CandidateResult(
        policy=names[0],
        policies={name: own(number) for number, name in enumerate(names)},
        differences={name: less(0, number) for number, name in enumerate(names) if number},
        chance=own(-1),
        over_chance={name: less(number, -1) for number, name in enumerate(names)},
        reward=reward,
        candidates=choices.candidates,
        sets=sets,
        users=len(users),
        seed=seed,
    )


@dataclass(frozen=True)
class _Sets:
    """Sets of K candidates: ``place`` (S,) of their user, ``user_id`` (S,), ``states`` (S, state
    size) before the first row, ``videos`` (S, K) and the answers to them, ``signals`` (S, K, 9).
    """

    place: np.ndarray
    user_id: np.ndarray
    states: np.ndarray
    videos: np.ndarray
    signals: np.ndarray


def _sets(rows: RandomRows, size: int) -> _Sets | None:
    """Return the sets of the users in ``rows``; None where nobody has enough rows."""
    first_row = np.flatnonzero(np.append(True, np.diff(rows.place) != 0))
    counts = np.diff(np.append(first_row, len(rows)))
    number = counts // size  # of sets of each user
    if not number.any():
        return None
    within = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    first = np.repeat(first_row, number) + size * within
    members = first[:, None] + np.arange(size)
    return _Sets(
        rows.place[first],
        rows.user_id[first],
        rows.states[first],
        rows.videos[members],
        rows.signals[members],
    )


def _choice(policy: Policy, sets: _Sets, ties: np.ndarray) -> np.ndarray:
    """Return the candidate that a policy scores highest in each set, (S,) in 0..K-1."""
    count, size = sets.videos.shape
    # (S, ...) -> (S * K, ...)
    states, users = np.repeat(sets.states, size, axis=0), np.repeat(sets.user_id, size)
    scores = policy.score(states, users, sets.videos.reshape(-1)).reshape(count, size)
    best = scores == scores.max(axis=1, keepdims=True)
    return np.where(best, ties, -1.0).argmax(axis=1)
