"""RLlib's own learners on our columns: what they take, and what they lack for a log.

``rllib_baselines`` trains with them. Ray is imported here alone, so that a trained baseline is read
without it. Nothing of Ray is started: a ``Learner`` is an object of this process.

RLlib's offline pipeline turns each row into an Episode, and its connectors turn those into columns
again, some 10,000 rows a second. ``LearnerRows`` gives the learners the same columns at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from ray.rllib.algorithms.dqn.dqn_learner import QF_PREDS
from ray.rllib.algorithms.dqn.torch.dqn_torch_learner import DQNTorchLearner
from ray.rllib.algorithms.marwil.torch.marwil_torch_learner import MARWILTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.utils.torch_utils import update_target_network
from torch import Tensor, nn

from noetik_rllib.iql.row_files import PROPENSITY
from noetik_rllib.iql.shard_iterator import REWARD_COMPONENTS, Rows, ShardIterator

#: Key of the conservative penalty's weight in ``AlgorithmConfig.learner_config_dict``.
CQL_ALPHA = "cql_alpha"


@dataclass(frozen=True)
class LearnerRows:
    """A shard's batches with the columns that RLlib's stock learners read.

    Where the shard reads propensities, random exposures are left out. Rewards are in units of their
    standard deviation. States are standardised: a video's index and a count of seconds would
    saturate the units of a default network.

    Attributes:
        shard: the rows.
        mean: of each number of a state, (state size,).
        std: of the same.
    """

    shard: ShardIterator
    mean: Tensor
    std: Tensor

    def iter_torch_batches(
        self, *, batch_size: int, device: Any = None, **unused: Any
    ) -> Iterator[dict[str, Tensor]]:
        """Yield batches without end, as RLlib's ``MiniBatchRayDataIterator`` unpacks them."""
        prefix = f"{DEFAULT_MODULE_ID}/"
        signs = torch.tensor(self.shard.reward.signs)
        batches = self.shard.iter_torch_batches(batch_size=batch_size, device=device, **unused)
        plain = (
            {name.removeprefix(prefix): column for name, column in batch.items()}
            for batch in batches
        )
        for rows in _chosen(plain, batch_size) if self.shard.form.propensity else plain:
            reward = (rows[REWARD_COMPONENTS] * signs).sum(dim=-1)
            columns = {
                Columns.OBS: (rows[Columns.OBS] - self.mean) / self.std,
                Columns.NEXT_OBS: (rows[Columns.NEXT_OBS] - self.mean) / self.std,
                Columns.ACTIONS: rows[Columns.ACTIONS],
                Columns.REWARDS: reward,
                Columns.TERMINATEDS: rows[Columns.TERMINATEDS].float(),
                # Of DQN's replay buffer: steps between the two states, importance of a row.
                "n_step": torch.ones_like(reward),
                "weights": torch.ones_like(reward),
            }
            yield {prefix + name: column for name, column in columns.items()}


def _chosen(batches: Iterator[Rows], size: int) -> Iterator[Rows]:
    """Yield batches of ``size`` rows that are no random exposures, in order.

    Whole ones: one without a row would make RLlib's MARWIL divide by its number of rows, and its
    average of squared advantages NaN for good.
    """
    kept: Rows = {}
    for rows in batches:
        chosen = rows[PROPENSITY].isnan()
        new = {name: column[chosen] for name, column in rows.items()}
        kept = {name: torch.cat([kept[name], new[name]]) for name in new} if kept else new
        while len(kept[PROPENSITY]) >= size:
            yield {name: column[:size] for name, column in kept.items()}
            kept = {name: column[size:] for name, column in kept.items()}


class RowMARWILTorchLearner(MARWILTorchLearner):
    """RLlib's MARWIL, which finds the value targets itself instead of a connector on episodes.

    They are what RLlib's own ``GeneralAdvantageEstimation`` gives for rows in columns, which its
    reader makes episodes of one step: r + gamma V(next state), and r where the episode ended.
    """

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Tensor], fwd_out: dict[str, Tensor]
    ) -> Tensor:
        """Add the value targets, then RLlib's loss."""
        with torch.no_grad():
            following = {Columns.OBS: batch[Columns.NEXT_OBS]}
            value = self.module[module_id].unwrapped().compute_values(following)
        going_on = 1 - batch[Columns.TERMINATEDS]
        batch[Columns.VALUE_TARGETS] = batch[Columns.REWARDS] + config.gamma * going_on * value
        loss: Tensor = super().compute_loss_for_module(
            module_id=module_id, config=config, batch=batch, fwd_out=fwd_out
        )
        return loss


class CQLTorchLearner(DQNTorchLearner):
    r"""RLlib's double DQN with the penalty CQL(H), which keeps Q low where there are no data.

    To DQN's loss it adds (Kumar et al. 2020, "Conservative Q-Learning for Offline Reinforcement
    Learning", equation 4)

    .. math:: \alpha\, E_s \big[ \log \sum_a \exp Q(s, a) - E_{a \sim \text{log}}\, Q(s, a) \big]

    with :math:`\alpha` from ``learner_config_dict``. RLlib's own DQN cannot be trained on a log, as
    its ``training_step`` samples an environment; and RLlib's CQL takes continuous actions only.
    """

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Tensor], fwd_out: dict[str, Tensor]
    ) -> Tensor:
        """Add the penalty to RLlib's loss."""
        loss: Tensor = super().compute_loss_for_module(
            module_id=module_id, config=config, batch=batch, fwd_out=fwd_out
        )
        # logsumexp Q - Q of the logged action, of each state
        penalty = nn.functional.cross_entropy(fwd_out[QF_PREDS], batch[Columns.ACTIONS].long())
        return loss + config.learner_config_dict[CQL_ALPHA] * penalty

    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        """Step, then move the target network: after every gradient step.

        RLlib does so once per ``update()``, hence once in many steps
        (``ray/rllib/core/learner/learner.py:1161``, with a TODO that says so).
        """
        super().apply_gradients(gradients_dict)
        for module_id in self.module.keys():  # noqa: SIM118 (a MultiRLModule, no mapping)
            module = self.module[module_id].unwrapped()
            for online, target in module.get_target_network_pairs():
                update_target_network(main_net=online, target_net=target, tau=self.config.tau)
