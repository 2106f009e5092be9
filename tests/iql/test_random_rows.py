"""Random exposures in training: critics learn from them, the policy does not imitate them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from noetik_rllib.iql import losses
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.data import ColumnarOfflineData, dataset_spaces
from noetik_rllib.iql.rl_module import LOG_PROBS, TARGET_Q_VALUES, V_VALUES
from noetik_rllib.iql.row_files import PROPENSITY
from noetik_rllib.offline.dataset import OfflineDataset

ROWS = 128

Batch = dict[str, torch.Tensor]


@pytest.fixture
def mixed_config(tiny_config: DiscreteIQLConfig, mixed_dataset: Path) -> DiscreteIQLConfig:
    """The tiny config on rows of which some are random exposures."""
    return tiny_config.offline_data(input_=[str(mixed_dataset / "train")])


def made(config: DiscreteIQLConfig) -> tuple[TorchLearner, Batch]:
    """A learner and its first batch."""
    [data] = config.input_
    spaces = dataset_spaces(OfflineDataset(Path(data).parent))
    config.environment(observation_space=spaces[0], action_space=spaces[1])
    learner: TorchLearner = config.build_learner(spaces={DEFAULT_MODULE_ID: spaces})
    [shard] = ColumnarOfflineData(config).sample(ROWS)
    named = next(shard.iter_torch_batches(batch_size=ROWS))
    return learner, {name.split("/")[1]: column for name, column in named.items()}


def outputs(learner: TorchLearner, batch: Batch) -> tuple[Batch, torch.Tensor]:
    """What the module makes of a batch, and the loss of it."""
    module = SampleBatch({name: column.clone() for name, column in batch.items()})
    columns = MultiAgentBatch({DEFAULT_MODULE_ID: module}, env_steps=ROWS).policy_batches
    output = learner.module.forward_train(columns)
    loss = learner.compute_losses(fwd_out=output, batch=columns)[DEFAULT_MODULE_ID]
    return output[DEFAULT_MODULE_ID], loss


def gradients(learner: TorchLearner, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradient of each network, in one piece."""
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    found = {}
    for name in ("actor", "q", "v"):
        parameters = list(getattr(module, name).parameters())
        parts = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        given = [part.flatten() for part in parts if part is not None]
        found[name] = torch.cat([torch.zeros(0), *given])
    return found


def other_videos(batch: Batch, rows: torch.Tensor) -> Batch:
    """The batch with other videos in some rows."""
    actions = batch[Columns.ACTIONS]
    return batch | {Columns.ACTIONS: torch.where(rows, (actions + 1) % 80, actions)}


def test_the_policy_does_not_imitate_random_exposures(mixed_config: DiscreteIQLConfig) -> None:
    """Fails if the policy learns when the log experimented, or the critics are kept from the only
    rows that show videos for no reason.
    """
    learner, batch = made(mixed_config)
    is_random = ~batch[PROPENSITY].isnan()
    assert 10 < is_random.sum() < ROWS - 10

    def of(rows: torch.Tensor) -> dict[str, torch.Tensor]:
        return gradients(learner, outputs(learner, other_videos(batch, rows))[1])

    before = of(torch.zeros_like(is_random))
    random_changed, chosen_changed = of(is_random), of(~is_random)
    torch.testing.assert_close(random_changed["actor"], before["actor"], rtol=0, atol=1e-7)
    assert before["actor"].abs().max() > 1e-3
    for after, networks in ((random_changed, ("q", "v")), (chosen_changed, ("actor", "q", "v"))):
        for name in networks:
            assert (after[name] - before[name]).abs().max() > 1e-4, name


@pytest.mark.parametrize("imitate_random", [False, True])
def test_the_policys_loss_is_that_of_the_rows_it_imitates(
    mixed_config: DiscreteIQLConfig, imitate_random: bool
) -> None:
    """Fails if ``imitate_random`` does not give the paper's IQL, or if, without it, a row that was
    chosen for its user weighs anything but what it does there.
    """
    learner, batch = made(mixed_config.training(imitate_random=imitate_random))
    assert (PROPENSITY in batch) is not imitate_random
    output, loss = outputs(learner, batch)
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    target_q = losses.smaller_q(output[TARGET_Q_VALUES], module.signs)
    advantage = losses.total(target_q - output[V_VALUES], module.signs).detach()
    weight = torch.exp(mixed_config.beta * advantage)
    assert weight.max() < mixed_config.max_weight
    if not imitate_random:
        weight = weight * batch[PROPENSITY].isnan()
    expected = gradients(learner, -(weight * output[LOG_PROBS]).sum() / ROWS)
    torch.testing.assert_close(gradients(learner, loss)["actor"], expected["actor"])
