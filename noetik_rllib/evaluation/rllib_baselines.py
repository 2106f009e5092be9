"""RLlib's own algorithms as baselines: BC, MARWIL and a conservative DQN, on the run's rows.

Their default network: two layers of 256 over the flat state, and an output per video. It knows
nothing of what the numbers of a state mean, nor that videos have features: what RLlib gives without
this package's networks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.baseline_cache import Kept, kept
from noetik_rllib.evaluation.cloning import chosen_rows
from noetik_rllib.evaluation.policies import ScoringPolicy
from noetik_rllib.offline.dataset import OfflineDataset

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.core.learner.learner import Learner

    from noetik_rllib.evaluation.rllib_learners import LearnerRows

#: What RLlib calls its algorithms; ``cql`` is its DQN with the conservative penalty.
RLlibAlgorithm = Literal["bc", "marwil", "cql"]

#: Raised when the same settings no longer give the same weights: older ones are then ignored.
CACHE_VERSION = 3
#: Widths of the default network's hidden layers (``DefaultModelConfig``).
HIDDEN = (256, 256)
#: The largest catalogue: an output layer of 256 x N, its gradient and Adam's two moments.
MAX_VIDEOS = 200_000
#: Random rows that the states are standardised by: a mean is then within 1 % of a deviation.
ROWS_FOR_MOMENTS = 16_384
#: The most gradient steps of an ``update()`` call, between two reports of progress.
STEPS_PER_UPDATE = 50


class RLlibEffort(BaseModel):
    """Settings of RLlib's algorithms: the run's own where it has them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Gradient steps.
    steps: int = Field(ge=1)
    #: Rows per gradient step.
    batch_size: int = Field(ge=1)
    #: Discount per video, of MARWIL and CQL.
    gamma: float = Field(ge=0, le=1)
    #: Of the signals in the reward.
    reward: RewardWeights = RewardWeights()
    seed: int = 0
    #: Adam's step size. RLlib's 1e-4 (BC, MARWIL) and 5e-4 (DQN) are for millions of steps.
    learning_rate: float = Field(default=1e-3, gt=0)
    #: MARWIL's scale of advantages in exp(beta A / c), and where c², which should be the mean of
    #: A², begins and how fast it follows. RLlib's own 100 and 1e-8 leave c at 10, ten times what
    #: rewards in units of their deviation give: every weight would be near 1, and MARWIL be BC.
    beta: float = Field(default=1.0, ge=0, le=1)
    advantage_start: float = Field(default=1.0, gt=0)
    advantage_rate: float = Field(default=1e-2, gt=0, le=1)
    #: CQL's weight of the penalty: d3rlpy's default for discrete actions. Share by which the target
    #: network moves per step: that of IQL's paper.
    cql_alpha: float = Field(default=1.0, ge=0)
    target_polyak: float = Field(default=0.005, gt=0, le=1)


class MLPPolicy(ScoringPolicy):
    """A network of fully connected layers over the flat state, an output per video.

    Args:
        name: what results call it.
        tensors: ``mean`` and ``std`` of a state, and ``weight`` and ``bias`` of each layer, as
            ``"0.weight"``; tanh between them.
    """

    def __init__(self, name: str, tensors: dict[str, Tensor]) -> None:
        self._layers = [
            (tensors[f"{place}.weight"], tensors[f"{place}.bias"])
            for place in range(len(tensors) // 2 - 1)
        ]
        super().__init__(name, len(self._layers[-1][1]))
        self._mean, self._std = tensors["mean"], tensors["std"]

    def score_all(self, states: np.ndarray, user_id: np.ndarray) -> np.ndarray:
        """Outputs (B, N): logits or Q.

        Raises:
            UserError: one is not finite, so the weights are not.
        """
        weight, bias = self._layers[-1]
        scores = nn.functional.linear(self._hidden(states), weight, bias)
        self._check(scores)
        return scores.numpy()

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """Outputs (B,) of one video each; see ``Policy``."""
        weight, bias = self._layers[-1]
        index = torch.as_tensor(videos)
        scores = (self._hidden(states) * weight[index]).sum(dim=1) + bias[index]
        self._check(scores)
        return scores.numpy()

    def _hidden(self, states: np.ndarray) -> Tensor:
        """What the last layer reads, (B, its width)."""
        hidden = (torch.from_numpy(np.require(states, np.float32, "W")) - self._mean) / self._std
        for weight, bias in self._layers[:-1]:
            hidden = torch.tanh(nn.functional.linear(hidden, weight, bias))
        return hidden

    def _check(self, scores: Tensor) -> None:
        if not torch.isfinite(scores).all():
            raise UserError(
                f"policy '{self.name}' gives scores that are not numbers: its training diverged, "
                "train it again with a smaller learning rate"
            )


def rllib_baseline(
    algorithm: RLlibAlgorithm,
    dataset: OfflineDataset,
    effort: RLlibEffort,
    run_directory: Path,
    progress: Callable[[float], None] | None = None,
) -> MLPPolicy:
    """Return what one of RLlib's algorithms learns from ``train``.

    Args:
        algorithm: which.
        dataset: dataset of the run.
        effort: settings.
        run_directory: folder of the run, where it is kept (``baseline_cache``).
        progress: called with the share that is done, 0 to 1.

    Raises:
        UserError: the catalogue is too large for an output per video, or the training diverged.
    """
    if dataset.manifest.num_videos > MAX_VIDEOS:
        raise UserError(
            f"RLlib's networks have an output per video: the catalogue has "
            f"{dataset.manifest.num_videos:,}, more than {MAX_VIDEOS:,}"
        )
    progress = progress or (lambda share: None)
    name = f"rllib_{algorithm}"
    made_from = {
        "version": CACHE_VERSION,
        "algorithm": algorithm,
        "dataset": dataset.fingerprint,
        "hidden": HIDDEN,
        "effort": effort.model_dump(mode="json"),
    }

    def train() -> Kept:
        # CQL learns values, also from random exposures; the others imitate.
        rows = learner_rows(dataset, effort, imitate=algorithm != "cql")
        learner = make_learner(algorithm, dataset, effort)
        _train(learner, rows, effort, progress)
        return Kept(_weights(learner) | {"mean": rows.mean, "std": rows.std})

    tensors = kept(run_directory, name, made_from, train).tensors
    progress(1.0)
    return MLPPolicy(name, tensors)


def learner_rows(dataset: OfflineDataset, effort: RLlibEffort, imitate: bool) -> LearnerRows:
    """Return the rows of ``train``, shuffled, as RLlib's learners take them.

    Args:
        dataset: of the run.
        effort: settings.
        imitate: whether the rows are to be imitated: random exposures are then left out.

    Raises:
        UserError: there are fewer than a batch of them, or all are random exposures and there is
            nothing to imitate.
    """
    from noetik_rllib.evaluation.rllib_learners import LearnerRows
    from noetik_rllib.iql.config import DiscreteIQLConfig
    from noetik_rllib.iql.data import ColumnarOfflineData

    config = (
        DiscreteIQLConfig()
        .offline_data(input_=[str(dataset.directory / "train")])
        # Some thousand steps need a few windows: no reason to read, and hold, all rows.
        .training(reward_weights=effort.reward, data_residency="stream", imitate_random=not imitate)
        .debugging(seed=effort.seed)
    )
    if imitate:
        chosen_rows(dataset)  # raises where there is none
    [shard] = ColumnarOfflineData(config).sample(effort.batch_size)
    count = min(ROWS_FOR_MOMENTS, shard.rows)
    some = next(iter(shard.iter_torch_batches(batch_size=count)))
    [states] = [column for name, column in some.items() if name.endswith("/obs")]
    std, mean = torch.std_mean(states, dim=0)
    # A number that does not vary says nothing; 0 / 1.
    return LearnerRows(shard, mean, torch.where(std > 0, std, 1.0))


def make_learner(
    algorithm: RLlibAlgorithm, dataset: OfflineDataset, effort: RLlibEffort
) -> Learner:
    """Build RLlib's learner with its default module; the same seed, the same weights."""
    from ray.rllib.core import DEFAULT_MODULE_ID

    from noetik_rllib.iql.data import dataset_spaces

    spaces = dataset_spaces(dataset)
    config = _config(algorithm, effort).environment(
        observation_space=spaces[0], action_space=spaces[1]
    )
    # Not by debugging(seed=...), which seeds and slows down the whole process.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(effort.seed)
        return config.build_learner(spaces={DEFAULT_MODULE_ID: spaces})


def _config(algorithm: RLlibAlgorithm, effort: RLlibEffort) -> AlgorithmConfig:
    """Return RLlib's configuration of an algorithm."""
    from ray.rllib.algorithms.bc import BCConfig
    from ray.rllib.algorithms.dqn import DQNConfig
    from ray.rllib.algorithms.marwil import MARWILConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    from noetik_rllib.evaluation.rllib_learners import (
        CQL_ALPHA,
        CQLTorchLearner,
        RowMARWILTorchLearner,
    )

    config: AlgorithmConfig
    if algorithm == "bc":
        config = BCConfig()
    elif algorithm == "marwil":
        config = MARWILConfig().training(
            beta=effort.beta,
            moving_average_sqd_adv_norm_start=effort.advantage_start,
            moving_average_sqd_adv_norm_update_rate=effort.advantage_rate,
            learner_class=RowMARWILTorchLearner,
        )
    else:
        config = DQNConfig().training(
            double_q=True,
            dueling=False,
            tau=effort.target_polyak,
            # RLlib's own updates of the target, counted in rows: never.
            target_network_update_freq=2**62,
            learner_class=CQLTorchLearner,
            learner_config_dict={CQL_ALPHA: effort.cql_alpha},
        )
    # vf_share_layers as MARWIL's own configuration has it, which the new stack does not read.
    model = DefaultModelConfig(
        fcnet_hiddens=list(HIDDEN), fcnet_activation="tanh", vf_share_layers=False
    )
    return (
        config.training(lr=effort.learning_rate, gamma=effort.gamma)
        .learners(num_learners=0, num_gpus_per_learner=0)
        .rl_module(model_config=model)
    )


def _train(
    learner: Learner, rows: LearnerRows, effort: RLlibEffort, progress: Callable[[float], None]
) -> None:
    """Take the gradient steps, through RLlib's own entry point."""
    from ray.rllib.core.learner.training_data import TrainingData
    from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

    # The learner keeps the iterator of its first call, and so that call's number of steps.
    most = min(STEPS_PER_UPDATE, effort.steps)
    steps = next(size for size in range(most, 0, -1) if effort.steps % size == 0)
    for done in range(steps, effort.steps + 1, steps):
        learner.update(
            training_data=TrainingData(data_iterators=[rows]),
            minibatch_size=effort.batch_size,
            num_iters=steps,
            timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: done * effort.batch_size},
        )
        progress(done / effort.steps)


def _weights(learner: Learner) -> dict[str, Tensor]:
    """Return the layers from the state to the outputs of a trained module."""
    from ray.rllib.core import DEFAULT_MODULE_ID

    module: Any = learner.module[DEFAULT_MODULE_ID].unwrapped()
    if hasattr(module, "_pi_head"):
        parts = [module._encoder, module._pi_head]
    elif hasattr(module, "pi"):
        parts = [module.encoder.actor_encoder, module.pi]
    else:
        parts = [module.encoder, module.af]
    layers = [layer for part in parts for layer in part.modules() if isinstance(layer, nn.Linear)]
    return {
        f"{place}.{name}": parameter.detach().clone()
        for place, layer in enumerate(layers)
        for name, parameter in layer.named_parameters()
    }
