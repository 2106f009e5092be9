"""What goes with what is found, and nothing is found in noise."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr

from noetik_rllib.sweeps.importance import columns, importance


def test_parameters_become_columns() -> None:
    """Fails if a weight, a name or a constant parameter is lost or made up."""
    trials = [
        {"reward": {"click": 0.2, "like": 0.0}, "share": "tower", "beta": 1.0, "num_layers": 1},
        {"reward": {"click": 0.7, "like": 0.0}, "share": "nothing", "beta": 1.0, "num_layers": 2},
        {"reward": {"click": 0.1, "like": 0.0}, "share": "encoder", "beta": 1.0, "num_layers": 2},
    ]
    found = {name: column.tolist() for name, column in columns(trials).items()}
    assert found == {
        "reward.click": [0.2, 0.7, 0.1],
        "share=tower": [1, 0, 0],
        "share=nothing": [0, 1, 0],
        "share=encoder": [0, 0, 1],
        "num_layers": [1, 2, 2],
    }
    assert list(columns(trials[:2])) == ["reward.click", "share=nothing", "num_layers"]


def test_a_weight_that_is_not_named_is_the_default() -> None:
    """Fails if rewards that name different signals make columns of different lengths."""
    trials = [{"reward": {"click": 1.0, "watch_ratio": 0.0}}, {"reward": {"like": 1.0}}]
    found = {name: column.tolist() for name, column in columns(trials).items()}
    expected = {"click": [1.0, 0.5], "watch_ratio": [0.0, 0.5], "like": [0.0, 1.0]}
    assert found == {f"reward.{name}": column for name, column in expected.items()}


def test_correlations_are_spearmans_with_honest_p_values() -> None:
    """Fails if a correlation is wrong, or noise counts as found more often than its p-value says.

    Error rate 1e-6: of 200 columns of noise, Binomial(200, 0.05) exceeds 28 that rarely.
    """
    rng = np.random.default_rng(0)
    outcome = {"reward": rng.normal(size=20), "constant": np.ones(20)}
    noise = {f"noise{place}": rng.normal(size=20) for place in range(200)}
    ties = {"cause": outcome["reward"].round(), "opposite": -np.exp(outcome["reward"])}
    found = importance(noise | ties, outcome, seed=0)
    for name, column in (noise | ties).items():
        assert set(found[name]) == {"reward"}
        expected = spearmanr(column, outcome["reward"])[0]
        assert np.isclose(found[name]["reward"].correlation, expected)
    assert found["cause"]["reward"].p_value < 0.001
    assert np.isclose(found["opposite"]["reward"].correlation, -1)
    assert sum(found[name]["reward"].p_value < 0.05 for name in noise) <= 28
    assert importance({"x": np.arange(3.0)}, {"reward": np.arange(3.0)}, seed=0) == {}
