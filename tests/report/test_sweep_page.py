"""A sweep's page says what its trials came to, in words and plots that follow from the numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noetik_rllib.cli.sweep_tables import remarks
from noetik_rllib.evaluation.result import Interval
from noetik_rllib.report.sweep_page import render, write_sweep_report
from noetik_rllib.sweeps.config import SweepConfig
from noetik_rllib.sweeps.outcomes import OUTCOMES
from noetik_rllib.sweeps.population import Copy
from noetik_rllib.sweeps.results import SweepResult, Trial, together
from noetik_rllib.sweeps.search import draw_parameters
from noetik_rllib.sweeps.tradeoff import tradeoff

HOSTILE = "<script>alert(1)</script>"


def result(costs: float = 0.0, gains: float = 0.0, **changes: Any) -> SweepResult:
    """A sweep over the coefficient and seeds, whose outcomes follow from both.

    Args:
        costs: reward that the largest coefficient, 1, costs.
        gains: faithfulness of attention that it gains.
        **changes: of the config.
    """
    content = {
        "name": "sweep",
        "data": "data/x",
        "search": {"interpretability_coeff": {"grid": [0, 0.5, 1]}, "seed": {"grid": [0, 1]}},
        "objectives": ["reward", "hate"],
    }
    config = SweepConfig.model_validate(content | changes)
    trials = []
    for number, drawn in enumerate(draw_parameters(config)):
        coefficient, seed = drawn["interpretability_coeff"], drawn["seed"]
        means = dict.fromkeys(OUTCOMES, 0.3 + 0.001 * seed) | {
            "reward": 0.5 - costs * coefficient + 0.0001 * seed,
            "attention_faithfulness": gains * coefficient,
            "hate": 0.01 * (1 + number),
        }
        trials.append(
            Trial(
                name=f"{number:04d}",
                parameters=drawn,
                status="finished",
                iterations=4,
                outcomes={
                    name: Interval(mean=mean, low=mean - 0.01, high=mean + 0.01)
                    for name, mean in means.items()
                },
            )
        )
    return together(config, trials)


def test_the_page_shows_every_trial_and_loads_nothing(tmp_path: Path) -> None:
    """Fails if a trial or an interval is missing, or a text runs as a script."""
    made = result(name="sweep")
    failed = made.trials[5].model_copy(
        update={"status": "failed", "outcomes": {}, "error": HOSTILE, "pareto": False}
    )
    stopped = made.trials[4].model_copy(
        update={"status": "stopped", "outcomes": {}, "score": 0.4321, "iterations": 2}
    )
    judged = made.trials[3].model_copy(update={"status": "stopped", "iterations": 3})
    made = together(made.config, [*made.trials[:3], judged, stopped, failed])
    page = write_sweep_report(made, tmp_path).read_text(encoding="utf-8")
    for trial in made.judged:
        for interval in trial.outcomes.values():
            assert f"{interval.mean:.4f}" in page
            assert f"{interval.low:.4f} to {interval.high:.4f}" in page
    assert "stopped at iteration 2, score 0.4321" in page
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert "seed 1; stopped at iteration 3<" in page
    assert "6 trials, 3 finished, 2 stopped early, 1 failed; " in page
    assert not re.search(r'(src|href)="(?!#)', page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for used in re.findall(r'(?:href="|url\()#([^")]+)', page):
        assert used in ids
    assert page.count("<svg") == page.count("<title id=") > 5


def test_the_front_and_what_goes_with_it_follow_from_the_numbers() -> None:
    """Fails if the page praises a beaten trial, or a parameter that does not matter."""
    made = result(costs=0.1)
    # Less hate and more reward: nothing beats the first trials, of coefficient 0.
    assert [trial.name for trial in made.trials if trial.pareto] == ["0000", "0001"]
    assert np.isclose(made.importance["interpretability_coeff"]["reward"].correlation, -0.956, 0.01)
    page = render(made, Path("runs/sweep"))
    assert "0000 and 0001 are beaten by no other in reward and hate at once." in page
    assert "Lowest hate: 0.0100" in page
    assert "noetik evaluate runs/sweep/trials/0001" in page
    # 0.5001 of reward by 0.98 of no hate, and 0.0001 more of no hate for 0.5 of reward.
    assert np.isclose(made.hypervolume, 0.5001 * 0.98 + 0.5 * 0.01)
    assert "Hypervolume 0.495098, above reward 0, hate 1." in remarks(made)


def test_a_stopped_trial_counts_by_its_policy() -> None:
    """Fails if a stopped trial's policy is kept off the front or out of what goes with what, or if
    what goes with the length of training looks like a parameter's doing alone.

    Only the trade-off is between trials that differ in their coefficient, and in nothing else.
    """
    made = result(costs=0.005, gains=0.2)
    trials = [
        trial.model_copy(update={"status": "stopped", "iterations": 1})
        if trial.parameters["interpretability_coeff"] == 1
        else trial
        for trial in made.trials
    ]
    halved = together(made.config, trials)
    assert [trial.pareto for trial in halved.trials] == [trial.pareto for trial in made.trials]
    assert halved.hypervolume == made.hypervolume
    found = halved.importance
    assert found["interpretability_coeff"] == made.importance["interpretability_coeff"]
    assert found["iterations"]["reward"].correlation > 0.8
    assert "iterations" not in made.importance
    whole, curve = tradeoff(made), tradeoff(halved)
    assert whole is not None
    assert curve is not None
    assert [one.coefficient for one in whole.settings] == [0, 0.5, 1]
    assert [one.coefficient for one in curve.settings] == [0, 0.5]
    rows = halved.table().to_pylist()
    assert [(row["status"], row["iterations"]) for row in rows[3:]] == [
        ("finished", 4),
        ("stopped", 1),
        ("stopped", 1),
    ]


def test_copies_are_named_and_count_for_no_importance() -> None:
    """Fails if copies of one policy count as independent evidence of what matters."""
    made = result(costs=0.1, gains=0.2)
    copy = Copy(iteration=2, trial="0001", changed={"interpretability_coeff": (0.5, 1.0)})
    last = made.trials[5].model_copy(update={"lineage": [copy]})
    evolved = together(made.config, [*made.trials[:5], last])
    assert made.importance
    assert not evolved.importance
    page = render(evolved, Path("runs/sweep"))
    assert "seed 1; a copy of 0001 from iteration 2<" in page
    assert "copies of each other do not say which parameter matters" in page
    curve = tradeoff(evolved)
    assert curve is not None
    assert [len(setting.trials) for setting in curve.settings] == [2, 2, 1]


@pytest.mark.parametrize(
    ("costs", "gains", "recommended", "measure"),
    [
        (0.005, 0.2, 1.0, "attention_faithfulness"),  # 1 % for the most
        (0.015, 0.2, 0.5, "attention_faithfulness"),  # 3 % is too much, 1.5 % is not
        (0.1, 0.2, 0.0, None),
        (0.0, 0.01, 0.0, None),  # within the intervals
        (0.0, -0.2, 0.0, None),
    ],
)
def test_a_coefficient_is_recommended_only_if_it_clearly_explains_better(
    costs: float, gains: float, recommended: float, measure: str | None
) -> None:
    """Fails if the recommendation costs more than 2 % of the reward, or follows noise."""
    curve = tradeoff(result(costs, gains))
    assert curve is not None
    assert (curve.recommended.coefficient, curve.measure) == (recommended, measure)
    if measure is None:
        assert curve.verdict.startswith("No interpretability_coeff above 0 clearly explains better")
    else:
        assert f"Recommended interpretability_coeff: {recommended:g}" in curve.verdict
        change = f"faithfulness of attention 0.000 to {gains * recommended:.3f} (clearly more)"
        assert change in curve.verdict
        assert f"the reward changes by {-costs * recommended / 0.5:+.1%}" in curve.verdict


def test_without_the_coefficient_there_is_no_curve() -> None:
    """Fails if a sweep is credited with a trade-off that it did not look for."""
    made = result(gains=0.2)
    search = {"seed": made.config.search["seed"]}
    other = made.model_copy(update={"config": made.config.model_copy(update={"search": search})})
    assert tradeoff(other) is None
    assert "What explaining costs" not in render(other, Path("x"))
    assert "What explaining costs" in render(made, Path("x"))
