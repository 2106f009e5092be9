"""What figures are made of, and the figures of simulated sessions."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.envs.response_model import FitRecord
from noetik_rllib.envs.response_quality import ResponseQuality

#: Metrics of a policy: the reward, then every signal; all are means per recommended video.
METRICS = ("reward", *SIGNALS)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(_Strict):
    """A mean and the ends of its 95 % interval, by bootstrap over users."""

    mean: float
    low: float
    high: float


class Judge(_Strict):
    """The user model that answered: fitted on the held-out users' earlier rows only."""

    fitted_on: FitRecord
    #: Its quality on the held-out users' rows of the part ``test``: videos that the log's policy
    #: chose.
    quality: ResponseQuality
    #: Its quality on their random exposures from the split time on: videos chosen blindly, which a
    #: model of the log alone overrates. None where there are none.
    quality_uniform: ResponseQuality | None
    #: Mean of each metric over the rows of ``quality``: what the logging policy got from the real
    #: users. For orientation: their states are not the simulated ones.
    logged: dict[str, float]


class Validation(_Strict):
    """Which of the policies that a run kept is its own, by sessions with the training simulator."""

    #: The iteration chosen: the highest mean.
    iteration: int
    #: Iteration -> mean per recommended video of the reward that the run was trained on.
    rewards: dict[int, Interval]
    reward: RewardWeights
    users: int


class Leaving(_Strict):
    """The same sessions, of users who leave early by one rule."""

    #: Policy -> videos seen of a session.
    length: dict[str, Interval]
    #: Policy -> sum of the reward over a session.
    reward: dict[str, Interval]
    #: Policies by that sum, best first.
    order: list[str]


class SessionsResult(_Strict):
    """Policies in the same sessions with simulated users; the run's own is named first."""

    #: Policy -> metric (``METRICS``) -> mean per recommended video.
    policies: dict[str, dict[str, Interval]]
    #: Baseline -> metric -> the run's policy minus the baseline, paired by user.
    differences: dict[str, dict[str, Interval]]
    #: Policy -> mean reward per recommended video in the sessions of each of ``seeds``.
    by_seed: dict[str, list[float]]
    #: Users leave as those of the logs do, the sooner the less they click.
    patience: Leaving
    #: Window -> users leave after a video that shares a tag with one of the window before it.
    quit_windows: dict[int, Leaving]
    #: Lowest rank correlation (Spearman) between the policies' orders by reward under any two of
    #: these rules: sessions run to the end, and each quit window. 1 where all agree; None for a
    #: single policy.
    order_stability: float | None
    #: Policy -> number of different videos that it showed in all sessions together.
    distinct_videos: dict[str, int]
    #: Users; seeds, of one session of each user apiece; videos per session.
    users: int
    seeds: list[int]
    steps: int
