"""``metrics.json``: the result of an evaluation, as a file and as an object."""

from __future__ import annotations

import json
import resource
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from noetik_rllib.data.reader import sha256_of
from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.candidates import CandidateResult
from noetik_rllib.evaluation.exposure import ExposureResult
from noetik_rllib.evaluation.fitted_q import FittedQResult
from noetik_rllib.evaluation.off_policy import OffPolicyResult
from noetik_rllib.evaluation.q_correlation import QCorrelationResult
from noetik_rllib.evaluation.ranking import RankingResult
from noetik_rllib.evaluation.result import Judge, SessionsResult, Validation
from noetik_rllib.evaluation.session_groups import SessionGroups
from noetik_rllib.interpret.measure import InterpretabilityResult
from noetik_rllib.io import write_json
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.runs import Run

METRICS_NAME = "metrics.json"
FORMAT_VERSION = 4


class Provenance(BaseModel):
    """What the figures were made from, so that they can be made again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Release that made them.
    version: str
    #: SHA-256 of the dataset's manifest, which holds the checksums of its sources, and of the
    #: policy's weights.
    dataset: str
    policy: str
    #: The synthetic world whose true users answered, where one was named.
    world: str | None
    #: Most logged rows that were asked for; None for all.
    max_rows: int | None
    #: Most memory of this process, in bytes.
    peak_memory: int

    @classmethod
    def of(
        cls,
        run: Run,
        iteration: int,
        dataset: OfflineDataset,
        world: Path | None,
        max_rows: int | None,
    ) -> Provenance:
        """Describe an evaluation as it ends."""
        return cls(
            version=version("noetik-rllib"),
            dataset=dataset.fingerprint,
            policy=sha256_of(run.weights_file(iteration)),
            world=None if world is None else str(world),
            max_rows=max_rows,
            # Linux counts in units of 1,024 bytes.
            peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )


class EvaluationResult(BaseModel):
    """Everything that ``noetik evaluate`` found out about a run's policy and the baselines.

    A section is None where the dataset has no evidence for it (``missing`` says why), or where it
    was not asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    #: Name of the run's own policy.
    policy: str
    #: Weights of the metric "reward": the product's, whatever the run was trained on, so that runs
    #: with different rewards can be compared.
    reward: RewardWeights
    #: How the run's policy was chosen; None where the run kept only one.
    validation: Validation | None = None
    #: Sessions with users whom ``judge`` simulates.
    sessions: SessionsResult
    judge: Judge
    groups: SessionGroups | None = None
    #: Policy -> what it shows, and how different that is from user to user.
    exposure: dict[str, ExposureResult] | None = None
    off_policy: OffPolicyResult | None = None
    candidates: CandidateResult | None = None
    fitted_q: FittedQResult | None = None
    ranking_random: RankingResult | None = None
    ranking_test: RankingResult | None = None
    q_correlation: QCorrelationResult | None = None
    #: The same sessions with the true users of a synthetic world.
    true_sessions: SessionsResult | None = None
    #: How far explanations of the run's own policy can be trusted.
    interpretability: InterpretabilityResult | None = None
    #: Section -> what the dataset lacks for it.
    missing: dict[str, str] = {}
    provenance: Provenance | None = None

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
