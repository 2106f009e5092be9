"""Discrete IQL as an RLlib ``Algorithm``: what one iteration does, and how it is restored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import COMPONENT_LEARNER_GROUP
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    TIMERS,
)

from noetik_rllib.iql.config import DiscreteIQLConfig


class DiscreteIQL(Algorithm):
    """Implicit Q-learning from a log of shown videos; configured by ``DiscreteIQLConfig``."""

    config: DiscreteIQLConfig

    @classmethod
    def get_default_config(cls) -> AlgorithmConfig:
        """Return the defaults (RLlib's hook)."""
        return DiscreteIQLConfig()

    def training_step(self) -> None:
        """Let every learner take ``dataset_num_iters_per_learner`` gradient steps.

        Shaped as ``MARWIL.training_step`` (``ray/rllib/algorithms/marwil/marwil.py:461``), but it
        counts the rows that are really drawn: MARWIL counts one batch per iteration (:495), and
        learning-rate schedules follow that count.
        """
        config = self.config
        rows = (
            config.train_batch_size_per_learner
            * config.dataset_num_iters_per_learner
            * max(1, config.num_learners)
        )
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, rows, reduce="lifetime_sum")
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            results = self.learner_group.update(
                training_data=TrainingData(
                    data_iterators=self.offline_data.sample(
                        num_samples=config.train_batch_size_per_learner,
                        return_iterator=True,
                        num_shards=config.num_learners,
                    )
                ),
                minibatch_size=config.train_batch_size_per_learner,
                num_iters=config.dataset_num_iters_per_learner,
                timesteps={
                    NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek(
                        NUM_ENV_STEPS_SAMPLED_LIFETIME
                    )
                },
            )
            self.metrics.aggregate(results, key=LEARNER_RESULTS)

    def restore_from_path(self, path: str | Path, *args: Any, **kwargs: Any) -> None:
        """Load a checkpoint; ``from_checkpoint`` and Tune's trial restore come through here.

        RLlib's version ends by handing the weights to EnvRunners, which a purely offline algorithm
        has none of: ``'NoneType' object has no attribute 'sync_weights'``
        (``ray/rllib/algorithms/algorithm.py:3390``, unguarded in 2.60.0).
        """
        if self.env_runner_group is None:
            Checkpointable.restore_from_path(self, path, *args, **kwargs)
        else:
            super().restore_from_path(path, *args, **kwargs)

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over a state from ``get_state``; see ``restore_from_path`` for the reason."""
        if self.env_runner_group is None and COMPONENT_LEARNER_GROUP in state:
            self.learner_group.set_state(state[COMPONENT_LEARNER_GROUP])
            state = {key: value for key, value in state.items() if key != COMPONENT_LEARNER_GROUP}
        super().set_state(state)
