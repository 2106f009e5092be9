"""Who copies whom follows from the scores in the journal, and from nothing else."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noetik_rllib.errors import UserError
from noetik_rllib.sweeps.config import SweepConfig
from noetik_rllib.sweeps.folder import Event
from noetik_rllib.sweeps.population import Generation, Pbt, check_population, replay
from noetik_rllib.sweeps.search import draw_parameters

TRIALS, ITERATIONS = 8, 7


def population(**changes: Any) -> SweepConfig:
    content = {
        "name": "p",
        "data": Path("x"),
        "num_samples": TRIALS,
        "search": {
            "beta": {"low": 0.5, "high": 2.0, "scale": "log"},
            "gamma": {"choice": [0.5, 0.7, 0.9]},
        },
        "scheduler": {"type": "pbt", "perturbation_interval": 3},
        "objectives": ["reward"],
    }
    return SweepConfig.model_validate(content | changes)


def score(trial: int, iteration: int, value: float) -> Event:
    return Event(time=0, trial=trial, what="score", iteration=iteration, score=value)


def fail(trial: int) -> Event:
    return Event(time=0, trial=trial, what="fail", error="diverged")


def after(events: list[Event], config: SweepConfig | None = None) -> Generation:
    config = config or population()
    assert isinstance(config.scheduler, Pbt)
    return replay(config, config.scheduler, ITERATIONS, events)


FIRST = [score(trial, 3, float(trial)) for trial in range(TRIALS)]


def test_the_worst_copy_the_best() -> None:
    """Fails if anyone else copies or is copied, or a copy goes on with settings that are not a
    neighbour's of those that it copied, or with some outside what is searched.
    """
    assert (after([]).begin, after([]).end, after([]).waiting) == (0, 3, list(range(TRIALS)))
    for seed in range(50):
        now = after(FIRST, population(seed=seed))
        drawn = draw_parameters(population(seed=seed))
        assert (now.begin, now.end, now.last) == (3, 6, False)
        assert sorted(now.copies) == [0, 1]
        assert set(now.copies.values()) <= {6, 7}
        for number, member in enumerate(now.members):
            if number not in now.copies:
                assert (member.settings, member.lineage) == (drawn[number], ())
                continue
            donor = drawn[now.copies[number]]
            (copy,) = member.lineage
            assert (copy.iteration, copy.trial) == (3, f"{now.copies[number]:04d}")
            for name, value in member.settings.items():
                change = (donor[name], value)
                assert copy.changed.get(name, change) == change
                assert (name in copy.changed) == (value != donor[name])
            assert 0.5 <= member.settings["beta"] <= 2
            assert member.settings["gamma"] in (0.5, 0.7, 0.9)
    few = population(
        scheduler={"type": "pbt", "perturbation_interval": 3, "resample_probability": 0}
    )
    for number, donor_number in after(FIRST, few).copies.items():
        value, donor = (
            after(FIRST, few).members[n].settings["beta"] for n in (number, donor_number)
        )
        assert any(np.isclose(value, np.clip(donor * by, 0.5, 2)) for by in (0.8, 1.2))


def test_who_came_first_does_not_matter() -> None:
    """Fails if a sweep whose trials end in another order, or that is cut off, decides otherwise."""
    rng = np.random.default_rng(0)
    expected = after(FIRST)
    for _ in range(10):
        order = rng.permutation(TRIALS)
        assert after([FIRST[number] for number in order]) == expected
    # What a later process says again is not news.
    assert after([*FIRST[:4], score(2, 3, 99.0), *FIRST[4:]]) == expected
    for length in range(TRIALS):
        now = after(FIRST[:length])
        assert (now.end, now.waiting) == (3, list(range(length, TRIALS)))


def test_a_copy_of_a_copy_knows_both() -> None:
    """Fails if the settings that a policy was trained with cannot be told from its lineage."""
    first = after(FIRST)
    # Whoever copied is the best now, and its donors are the worst.
    best, worst = sorted(first.copies), (6, 7)
    second = [
        score(n, 6, 9.0 if n in best else -float(n) if n in worst else 0.0) for n in range(TRIALS)
    ]
    now = after([*FIRST, *second])
    assert (now.begin, now.end, now.last) == (6, ITERATIONS, True)
    assert sorted(now.copies) == [6, 7]
    for number, donor in now.copies.items():
        lineage = now.members[number].lineage
        assert lineage[:-1] == first.members[donor].lineage
        assert (lineage[-1].iteration, lineage[-1].trial) == (6, f"{donor:04d}")
        settings = dict(now.members[number].settings)
        for copy, generation in zip(reversed(lineage), (first, after([])), strict=True):
            settings |= {name: before for name, (before, _) in copy.changed.items()}
            assert settings == generation.members[int(copy.trial)].settings
    # The end of the runs is for judging: nobody copies any more.
    assert after([*FIRST, *second, *(score(n, 7, 1.0) for n in range(TRIALS))]) == now


def test_one_that_failed_copies() -> None:
    """Fails if a trial that failed holds up the others, or is lost although there is a policy."""
    events = [fail(7), *(event for event in FIRST if event.trial != 7)]
    now = after(events)
    assert (now.begin, now.waiting) == (3, list(range(TRIALS)))
    assert sorted(now.copies) == [0, 1, 7]
    assert set(now.copies.values()) <= {5, 6}
    alone = after([*(fail(number) for number in range(1, TRIALS)), score(0, 3, 1.0)])
    assert set(alone.copies.values()) == {0}
    assert sorted(alone.copies) == list(range(1, TRIALS))
    # With nobody to copy they are to be tried again.
    none = after([fail(number) for number in range(TRIALS)])
    assert (none.begin, none.waiting) == (0, list(range(TRIALS)))


def test_less_hate_is_better() -> None:
    """Fails if trials with the most dislikes are copied."""
    settings = {"type": "pbt", "perturbation_interval": 3, "metric": "hate"}
    now = after(FIRST, population(scheduler=settings))
    assert sorted(now.copies) == [6, 7]
    assert set(now.copies.values()) <= {0, 1}


def test_half_of_few_at_most() -> None:
    """Fails if a trial can copy itself, or someone who copies."""
    for count, fraction in itertools.product((2, 3, 4, 5), (0.01, 0.25, 0.5)):
        settings = {"type": "pbt", "perturbation_interval": 3, "quantile_fraction": fraction}
        config = population(num_samples=count, scheduler=settings)
        now = after(FIRST[:count], config)
        assert 1 <= len(now.copies) <= count // 2
        assert not set(now.copies) & set(now.copies.values())


def test_a_population_that_could_never_copy_is_refused() -> None:
    """Fails if a sweep of hours turns out to have been one without a scheduler."""
    config = population()
    assert isinstance(config.scheduler, Pbt)
    for iterations, trials, message in (
        (3, 8, "perturbation_interval is 3, but trials have 3 iterations"),
        (7, 1, "there is one: raise num_samples"),
    ):
        with pytest.raises(UserError, match=message):
            check_population(config.scheduler, iterations, trials)
    check_population(config.scheduler, 4, 2)
