"""``metrics.json``: the result of an evaluation, as a file and as an object."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.envs.response_model import FitRecord
from noetik_rllib.envs.response_quality import ResponseQuality
from noetik_rllib.errors import UserError
from noetik_rllib.io import write_json

METRICS_NAME = "metrics.json"
FORMAT_VERSION = 3
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
    #: Lowest rank correlation (Spearman) between the policies' orders under two quit windows: 1
    #: where all agree. None for a single policy.
    order_stability: float | None
    #: Policy -> number of different videos that it showed in all sessions together.
    distinct_videos: dict[str, int]
    #: Mean of each metric over the logged test rows of the held-out users: what the logging policy
    #: got from the real users. For orientation: its users' states are not the simulated ones.
    logged: dict[str, float]
    judge: Judge
    #: Users; seeds, of one session of each user apiece; videos per session.
    users: int
    seeds: list[int]
    steps: int


class EvaluationResult(_Strict):
    """Everything that ``noetik evaluate`` found out about a run's policy and the baselines."""

    format_version: int = FORMAT_VERSION
    #: Name of the run's own policy.
    policy: str
    #: Weights of the metric "reward": the product's, whatever the run was trained on, so that runs
    #: with different rewards can be compared.
    reward: RewardWeights
    #: How the run's policy was chosen; None where the run kept only one.
    validation: Validation | None
    sessions: SessionsResult

    def save(self, run_directory: str | Path) -> None:
        """Write ``metrics.json`` of a run, whole or not at all."""
        write_json(Path(run_directory) / METRICS_NAME, self.model_dump(mode="json"))

    @classmethod
    def load(cls, run_directory: str | Path) -> EvaluationResult:
        """Read ``metrics.json`` of a run.

        Raises:
            UserError: it is missing, damaged or of another version.
        """
        path = Path(run_directory) / METRICS_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{run_directory} has no {METRICS_NAME}: run 'noetik evaluate {run_directory}'"
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is damaged: not JSON ({error}); evaluate again") from None
        found = content.get("format_version") if isinstance(content, dict) else None
        if found != FORMAT_VERSION:
            raise UserError(
                f"{path} has format version {found}; this release reads {FORMAT_VERSION}: "
                "evaluate again"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(f"{path} is damaged: {where}: {first['msg']}; evaluate again") from None
