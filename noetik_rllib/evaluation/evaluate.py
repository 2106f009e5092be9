"""``noetik evaluate``: a run's policy and its baselines, by every means there is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from noetik_rllib.errors import NoEvidenceError
from noetik_rllib.evaluation.additive import AdditiveBaseline
from noetik_rllib.evaluation.baselines import user_model
from noetik_rllib.evaluation.candidates import candidate_values
from noetik_rllib.evaluation.comparison import (
    DEFAULT_SEEDS,
    DEFAULT_USERS,
    JudgedCourse,
    compare,
    held_out_starts,
    prepare_course,
    true_course,
)
from noetik_rllib.evaluation.critic_ranked import CriticRankedPolicy
from noetik_rllib.evaluation.evaluation_result import EvaluationResult, Provenance
from noetik_rllib.evaluation.exposure import ExposureResult, exposure
from noetik_rllib.evaluation.fitted_q import (
    MAX_ROWS,
    check_max_rows,
    fitted_q,
    load_session_rows,
)
from noetik_rllib.evaluation.lineup import more_baselines, standard_baselines, world_baselines
from noetik_rllib.evaluation.off_policy import off_policy_estimates
from noetik_rllib.evaluation.policies import ActorPolicy, Policy
from noetik_rllib.evaluation.q_correlation import Critic, q_correlation
from noetik_rllib.evaluation.random_log import RandomLog
from noetik_rllib.evaluation.ranking import Scorer, ranking
from noetik_rllib.evaluation.result import Validation
from noetik_rllib.evaluation.session_groups import session_groups
from noetik_rllib.evaluation.sessions import SessionLog, SessionStarts
from noetik_rllib.evaluation.stages import Stages
from noetik_rllib.evaluation.validation import choose_snapshot
from noetik_rllib.interpret.measure import (
    DEFAULT_DECISIONS,
    InterpretabilityResult,
    interpretability,
)
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.runs import Run

#: How long each stage takes, in seconds on two cores for a run on KuaiRand-Pure's size.
_MODEL = {"user model of training": 60.0}
_CHOOSING = {"choosing a policy on validation": 10.0}
_STANDARD = {"training behaviour cloning": 120.0}
_BASELINES = {
    "greedy on the user model": 40.0,
    "best cycle of six videos": 60.0,
    "RLlib's BC": 60.0,
    "RLlib's MARWIL": 60.0,
    "RLlib's CQL": 90.0,
}
_JUDGING = {
    "fitting the judge's user model": 60.0,
    "simulated sessions": 60.0,
    "off-policy estimates": 200.0,
    "choices among logged candidates": 30.0,
    "fitted Q evaluation": 200.0,
    "ranking of random exposures": 30.0,
    "ranking of what the platform showed": 10.0,
    "Q against answers": 20.0,
    "exposure": 10.0,
    "explanations": 30.0,
}
_TRUTH = {"sessions with true users": 60.0}


def evaluate(
    run: Run,
    *,
    users: int = DEFAULT_USERS,
    seeds: int = DEFAULT_SEEDS,
    seed: int = 0,
    baselines: bool = False,
    world: Path | None = None,
    max_rows: int | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> EvaluationResult:
    """Evaluate a run's policy and its baselines, and write the run's ``metrics.json``.

    What is trained for it, ``baselines/`` of the run keeps. Figures that the dataset has no
    evidence for are left out; ``missing`` says why.

    Args:
        run: a finished run.
        users: the most held-out users in simulated sessions.
        seeds: sessions of each, with the seeds ``seed``, ``seed`` + 1 ...
        seed: of everything that is drawn or trained here.
        baselines: train and evaluate all baselines, not only cloning, popularity and chance.
        world: folder of the synthetic world that the dataset was made from. Its log's policy and
            one that knows its truth are evaluated too, and its true users answer in sessions.
        max_rows: the most rows of whole users for off-policy estimates, candidates and fitted Q
            evaluation; where not given all of the random log, and ``fitted_q.MAX_ROWS``.
        progress: called with what is being done and the share that is done.

    Raises:
        UserError: the run's dataset is gone or not the one it was trained on, the world is
            another, or a number is out of range.
    """
    several = len(run.snapshots()) > 1
    durations = {} if not (several or baselines) else dict(_MODEL)
    durations |= (_CHOOSING if several else {}) | _STANDARD | (_BASELINES if baselines else {})
    durations |= _JUDGING | ({} if world is None else _TRUTH)
    task = _Task(run, run.dataset(), seed, Stages(durations, progress))
    # Mistakes come out before minutes are spent.
    held_out_starts(task.dataset, users, seeds, seed)
    _check_max_rows(task.dataset, max_rows, seed)
    truth = None if world is None else true_course(world, task.dataset, users, seeds, seed)
    validation, policies = task.line_up(choose=several, baselines=baselines, world=world)
    with task.stages("fitting the judge's user model") as update:
        course = prepare_course(task.dataset, users=users, seeds=seeds, seed=seed, progress=update)
    with task.stages("simulated sessions") as update:
        sessions, logs = compare(policies, course, lambda doing, share: update(share))
    sections = task.by_log(policies, course, max_rows)
    true_sessions = None
    if truth is not None:
        with task.stages("sessions with true users") as update:
            true_sessions = compare(policies, truth, lambda doing, share: update(share))[0]
    explained = task.explained(course.starts, world)
    result = EvaluationResult(
        policy=policies[0].name,
        reward=task.dataset.manifest.reward,
        validation=validation,
        sessions=sessions,
        judge=course.judge,
        groups=session_groups(logs, course, task.dataset, seed),
        exposure=task.exposure(policies, course, logs),
        true_sessions=true_sessions,
        interpretability=explained,
        missing=task.missing,
        provenance=Provenance.of(run, task.iteration, task.dataset, world, max_rows),
        **sections,
    )
    # Together, and last: what is explained and reported is what was evaluated.
    run.choose(task.iteration)
    result.save(run.directory)
    return result


def _check_max_rows(dataset: OfflineDataset, max_rows: int | None, seed: int) -> None:
    """Refuse a number of rows that not even one user's fit in."""
    if max_rows is not None:
        with suppress(NoEvidenceError):
            RandomLog(dataset, max_rows=max_rows, seed=seed)
        check_max_rows(dataset, max_rows, seed)


class _Task:
    """One evaluation: what all of its stages share, and what the dataset lacks for them."""

    def __init__(self, run: Run, dataset: OfflineDataset, seed: int, stages: Stages) -> None:
        self.run, self.dataset, self.seed, self.stages = run, dataset, seed, stages
        self.missing: dict[str, str] = {}
        #: Of the run's policy: the last, until validation chooses.
        self.iteration = run.config.last_iteration

    def line_up(
        self, *, choose: bool, baselines: bool, world: Path | None
    ) -> tuple[Validation | None, list[Policy]]:
        """Choose the run's policy, and train what it is compared with; ours is the first."""
        run, dataset, seed, stages = self.run, self.dataset, self.seed, self.stages
        validation, more = None, []
        if choose or baselines:
            with stages("user model of training") as update:
                # The run's own seed, as in training, which may have fitted it already.
                model = user_model(dataset, run.directory, run.config.seed, update)
            if choose:
                with stages("choosing a policy on validation") as update:
                    validation = choose_snapshot(run, dataset, model, progress=update)
                    self.iteration = validation.iteration
            if baselines:
                more = more_baselines(run, dataset, model, seed, stages)
        networks = run.networks(self.iteration)
        standard = standard_baselines(run, dataset, networks, seed, stages)
        known = [] if world is None else world_baselines(world, dataset, seed)
        actor = ActorPolicy.of(networks)
        ranked = CriticRankedPolicy(networks, run.config.beta, actor)
        return validation, [actor, ranked, *standard, *more, *known]

    def exposure(
        self, policies: list[Policy], course: JudgedCourse, logs: dict[str, SessionLog]
    ) -> dict[str, ExposureResult]:
        """What each policy shows."""
        shown = {}
        with self.stages("exposure") as update:
            for number, policy in enumerate(policies, start=1):
                log = logs[policy.name]
                shown[policy.name] = exposure(policy, course.starts, log, self.dataset, self.seed)
                update(number / len(policies))
        return shown

    def explained(self, starts: SessionStarts, world: Path | None) -> InterpretabilityResult | None:
        """How far explanations of the run's own policy can be trusted."""
        first = slice(None, None, len(starts.seeds))
        with self.stages("explanations") as update:
            try:
                return interpretability(
                    self.run.networks(self.iteration),
                    self.dataset,
                    starts.states[first][:DEFAULT_DECISIONS],
                    starts.user_id[first][:DEFAULT_DECISIONS],
                    seed=self.seed,
                    world=world,
                    progress=update,
                )
            except NoEvidenceError as error:
                self.missing["interpretability"] = str(error)
        return None

    def by_log(
        self, policies: list[Policy], course: JudgedCourse, max_rows: int | None
    ) -> dict[str, Any]:
        """Every section that real answers decide; their names are the result's."""
        dataset, seed, reward = self.dataset, self.seed, self.dataset.manifest.reward
        networks = self.run.networks(self.iteration)
        scorers: list[Scorer] = [*policies, Critic(networks), AdditiveBaseline(dataset, reward)]
        sections: dict[str, tuple[str, Callable[[Callable[[float], None]], Any]]] = {
            "off_policy": (
                "off-policy estimates",
                lambda update: off_policy_estimates(
                    policies, dataset, course.model, max_rows=max_rows, seed=seed, progress=update
                ),
            ),
            "candidates": (
                "choices among logged candidates",
                lambda update: candidate_values(
                    policies, dataset, max_rows=max_rows, seed=seed, progress=update
                ),
            ),
            "fitted_q": (
                "fitted Q evaluation",
                lambda update: fitted_q(
                    policies,
                    dataset,
                    course.model,
                    load_session_rows(dataset, max_rows=max_rows or MAX_ROWS, seed=seed),
                    reward,
                    steps=course.steps,
                    seed=seed,
                    progress=update,
                ),
            ),
            "ranking_random": (
                "ranking of random exposures",
                lambda update: ranking(scorers, dataset, "random", seed, update),
            ),
            "ranking_test": (
                "ranking of what the platform showed",
                lambda update: ranking(scorers, dataset, "test", seed, update),
            ),
            "q_correlation": (
                "Q against answers",
                lambda update: q_correlation(networks, dataset, reward, seed, update),
            ),
        }
        found = {}
        for section, (stage, compute) in sections.items():
            with self.stages(stage) as update:
                try:
                    found[section] = compute(update)
                except NoEvidenceError as error:
                    self.missing[section] = str(error)
        return found
