"""DiscreteIQL within RLlib: target updates, restoring, several learners, inference-only copies."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from noetik_rllib.errors import UserError
from noetik_rllib.iql.algorithm import DiscreteIQL
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.learner import GRADIENT_STEPS, STATISTICS, TARGET_UPDATES
from noetik_rllib.offline.dataset import OfflineDataset

pytestmark = pytest.mark.usefixtures("ray_session")


@contextmanager
def built(config: DiscreteIQLConfig) -> Iterator[DiscreteIQL]:
    algorithm: DiscreteIQL = config.build_algo()
    try:
        yield algorithm
    finally:
        algorithm.stop()


def weights(algorithm: Algorithm, part: str = "") -> dict[str, np.ndarray]:
    """Parameters and buffers whose name begins with ``part``, which is cut off."""
    state = algorithm.learner_group.get_weights()[DEFAULT_MODULE_ID]
    return {
        name.removeprefix(part): value.copy()
        for name, value in state.items()
        if name.startswith(part)
    }


def leaves(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The leaves of nested dicts by their path."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        here = f"{path}/{key}"
        flat |= leaves(value, here) if isinstance(value, Mapping) else {here: value}
    return flat


def assert_same(left: Mapping[str, Any], right: Mapping[str, Any]) -> None:
    """Every tensor and number is the same, to the bit."""
    left, right = leaves(left), leaves(right)
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)


def learner_state(algorithm: Algorithm) -> dict[str, Any]:
    """Weights, targets, optimizers and batches drawn; not the clocks among the metrics."""
    state = algorithm.learner_group.get_state(not_components="learner/metrics_logger")["learner"]
    return {key: state[key] for key in ("rl_module", "optimizer", GRADIENT_STEPS)}


def test_the_target_follows_every_gradient_step(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if the target moves once per train(), as RLlib's own target updates do.

    Ten iterations of one step show Q after each step; two iterations of five must have taken the
    same steps, and their target must be the moving average of those ten.
    """
    rate = 0.1
    tiny_config.training(target_polyak=rate)
    single = tiny_config.copy(copy_frozen=False).offline_data(dataset_num_iters_per_learner=1)
    with built(single) as algorithm:
        average = weights(algorithm, "q.")
        for name, value in weights(algorithm, "target_q.").items():
            np.testing.assert_array_equal(value, average[name], err_msg="target starts elsewhere")
        for _ in range(10):
            algorithm.train()
            q = weights(algorithm, "q.")
            average = {name: (1 - rate) * average[name] + rate * q[name] for name in q}
    with built(tiny_config) as algorithm:
        for _ in range(2):
            result = algorithm.train()
        learnt = result["learners"][DEFAULT_MODULE_ID]
        assert learnt[TARGET_UPDATES] == learnt[GRADIENT_STEPS] == 10
        assert result["num_env_steps_sampled_lifetime"] == 10 * 64
        assert_same(weights(algorithm, "q."), q)
        for name, value in weights(algorithm, "target_q.").items():
            np.testing.assert_allclose(value, average[name], atol=1e-5, err_msg=name)


def test_an_iteration_reports_its_means(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if a statistic is missing, is not finite, or lies where it cannot."""
    with built(tiny_config) as algorithm:
        learnt = algorithm.train()["learners"][DEFAULT_MODULE_ID]
    values = {name: float(learnt[name]) for name in STATISTICS}
    assert all(np.isfinite(list(values.values())))
    assert 0 <= values["capped_weight_share"] <= 1
    assert 1 <= values["effective_sample_size"] <= 64
    assert values["q_loss"] > 0
    assert values["v_loss"] > 0
    assert values["log_prob_mean"] == pytest.approx(-np.log(80), rel=0.3), "not near uniform"
    assert values["actor_gradient_norm"] > 0
    for whole in ("q_mean", "v_mean", "advantage_mean"):
        parts = [float(learnt[f"{whole}_{name}"]) for name in ("click", "watch_ratio")]
        assert sum(parts) == pytest.approx(values[whole], abs=1e-5), whole


def test_a_step_is_the_papers(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if a gradient flows where the paper stops it, or a loss reads another network.

    The gradients of one step are computed again here: each network by itself, all else as numbers.
    So are the statistics that tell what the step did; some of its weights are capped, not all.
    """
    config = tiny_config.offline_data(dataset_num_iters_per_learner=1)
    config.training(expectile=0.8, beta=2.0, gamma=0.9, max_weight=3.95)
    config.training(reward_weights={"hate": -20.0})
    with built(config) as algorithm:
        net = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
        (shard,) = algorithm.offline_data.sample(64)
        named = next(shard.iter_torch_batches(batch_size=64))
        batch = {name.split("/")[1]: value for name, value in named.items()}
        with torch.no_grad():  # so that neither critic is always the smaller one
            for critic, place in ((net.q, 0), (net.target_q, 1)):
                totals = critic(net.features, batch["obs"], batch["actions"]) @ net.signs
                # Between two rows: on the median one itself the critics would tie, and which is the
                # smaller would hang on rounding.
                gap = (totals[1 - place] - totals[place]).quantile(0.5)
                critic.heads[place].weighted.linear.bias += gap / net.signs.sum()
            totals = net.target_q(net.features, batch["obs"], batch["actions"]) @ net.signs
            advantage = totals.min(dim=0).values - net.v(net.features, batch["obs"]) @ net.signs
            # A quarter of the weights are capped.
            excess = advantage.quantile(0.75) - math.log(3.95) / 2.0
            net.v.head.weighted.linear.bias += excess / net.signs.sum()
        before = copy.deepcopy(net)
        learnt = algorithm.train()["learners"][DEFAULT_MODULE_ID]

    obs, actions = batch["obs"], batch["actions"]
    with torch.no_grad():
        twins = before.target_q(before.features, obs, actions)  # (2, 64, 9)
        signs = before.signs  # of a reward of three signals
        assert sorted(signs.tolist()) == [-1.0] + 6 * [0.0] + [1.0, 1.0]
        smaller = (twins @ signs)[0] < (twins @ signs)[1]
        assert 0 < smaller.float().mean() < 1
        target_q = torch.where(smaller[:, None], twins[0], twins[1])
        v = before.v(before.features, obs)
        next_v = before.v(before.features, batch["new_obs"])
        y = batch["reward_components"] + 0.9 * (1 - batch["terminateds"])[:, None] * next_v
        advantage = (target_q - v) @ signs
        asymmetry = torch.abs(0.8 - (advantage < 0).float())
        uncapped = torch.exp(2.0 * advantage)
        weight = uncapped.clamp(max=3.95)
        log_probs = before.actor(before.features, obs).log_softmax(-1)[torch.arange(64), actions]

    capped = (uncapped > 3.95).double().mean().item()
    assert 0.05 < capped < 0.45, "a share that its complement could be taken for, or none"
    shares = weight.double() / weight.double().sum()
    told = {
        "advantage_mean": advantage.mean(),
        "advantage_std": advantage.numpy().std(),
        "capped_weight_share": capped,
        "effective_sample_size": 1 / shares.square().sum(),  # Kish 1965
        "log_prob_mean": log_probs.mean(),
    }
    for name, value in told.items():
        assert float(learnt[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name

    # The probes' share of the losses reaches the probes alone.
    def v_loss() -> torch.Tensor:
        u = target_q - before.v(before.features, obs)
        return (asymmetry[:, None] * u**2).sum(1).mean()

    def q_loss() -> torch.Tensor:
        first, second = before.q(before.features, obs, actions)
        return ((first - y) ** 2).sum(1).mean() + ((second - y) ** 2).sum(1).mean()

    def actor_loss() -> torch.Tensor:
        log_prob = before.actor(before.features, obs).log_softmax(-1)
        return -(weight * log_prob[torch.arange(64), actions]).mean()

    for name, loss in {"v": v_loss, "q": q_loss, "actor": actor_loss}.items():
        network = getattr(before, name)
        loss().backward()
        for (path, expected), got in zip(
            network.named_parameters(), getattr(net, name).parameters(), strict=True
        ):
            np.testing.assert_allclose(
                got.grad, expected.grad, rtol=1e-3, atol=1e-6, err_msg=f"{name}.{path}"
            )


def test_each_networks_gradient_is_clipped_as_a_whole(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if grad_clip bounds single numbers, all networks together, or what is reported."""
    limit = 0.01
    tiny_config.offline_data(dataset_num_iters_per_learner=1).training(grad_clip=limit)
    with built(tiny_config) as algorithm:
        learnt = algorithm.train()["learners"][DEFAULT_MODULE_ID]
        module = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
        groups = module.optimizer_parameters()
    assert groups.keys() == {"actor", "q", "v", "probes"}
    for name, parameters in groups.items():
        norm = sum(float(p.grad.double().square().sum()) for p in parameters) ** 0.5
        assert float(learnt[f"{name}_gradient_norm"]) > 2 * limit, name
        assert norm == pytest.approx(limit, rel=1e-3), name


def test_each_network_has_its_own_step_size(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if actor_lr, critic_lr and value_lr go to the wrong networks."""
    with built(tiny_config.training(actor_lr=1e-2, critic_lr=0.0, value_lr=0.0)) as algorithm:
        before = weights(algorithm)
        algorithm.train()
        after = weights(algorithm)
    moved = {name.split(".")[0] for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {"actor"}


def test_a_restored_run_goes_on_as_if_unbroken(
    tiny_config: DiscreteIQLConfig, tmp_path: Path
) -> None:
    """Fails if a checkpoint lacks targets, optimizers or the place in the data."""
    with built(tiny_config) as algorithm:
        algorithm.train()
        algorithm.train()
        path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
        saved = learner_state(algorithm)
        for _ in range(2):
            expected = algorithm.train()
        unbroken = learner_state(algorithm)

        # Back in place, while the algorithm is running: what Tune does to exploit a better trial.
        algorithm.restore_from_path(path)
        assert_same(learner_state(algorithm), saved)
        algorithm.train()
        algorithm.train()
        assert_same(learner_state(algorithm), unbroken)

    restored = Algorithm.from_checkpoint(path)
    try:
        assert isinstance(restored, DiscreteIQL)
        assert restored.iteration == 2
        assert_same(learner_state(restored), saved)
        for _ in range(2):
            result = restored.train()
        assert_same(learner_state(restored), unbroken)
        for key in ("training_iteration", "num_env_steps_sampled_lifetime"):
            assert result[key] == expected[key]
        for name in STATISTICS:
            left, right = (r["learners"][DEFAULT_MODULE_ID][name] for r in (result, expected))
            assert left == right, name
    finally:
        restored.stop()


def test_a_state_is_taken_over_whole(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if an earlier state restores the optimizers alone, as RLlib's Learner does."""
    with built(tiny_config) as algorithm:
        algorithm.train()
        state = algorithm.get_state()
        saved = learner_state(algorithm)
        algorithm.train()
        algorithm.set_state(state)
        assert_same(learner_state(algorithm), saved)


def test_rllib_cannot_restore_an_offline_algorithm(
    tiny_config: DiscreteIQLConfig, tmp_path: Path
) -> None:
    """Fails when Ray has fixed this: our ``restore_from_path`` and ``set_state`` can then go."""
    with built(tiny_config) as algorithm:
        path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
        with pytest.raises(AttributeError, match="sync_weights"):
            Algorithm.restore_from_path(algorithm, path)


def test_two_learners_stay_equal(tiny_config: DiscreteIQLConfig, tmp_path: Path) -> None:
    """Fails if gradients are not exchanged, a target is left out, or a restore parts them."""
    with built(tiny_config.learners(num_learners=2)) as algorithm:
        before = weights(algorithm)
        for _ in range(3):
            result = algorithm.train()
        states = [
            result.get()
            for result in algorithm.learner_group.foreach_learner(
                lambda learner: learner.module[DEFAULT_MODULE_ID].unwrapped().get_state()
            )
        ]
        assert len(states) == 2
        assert_same(*states)
        trained = [name for name in before if not np.array_equal(before[name], states[0][name])]
        assert {name.split(".")[0] for name in trained} == {"actor", "q", "v", "target_q"}
        assert result["learners"][DEFAULT_MODULE_ID][GRADIENT_STEPS] == 15
        assert result["num_env_steps_sampled_lifetime"] == 2 * 15 * 64

        path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
        algorithm.train()
        expected = learner_state(algorithm)
        algorithm.restore_from_path(path)
        algorithm.train()
        assert_same(learner_state(algorithm), expected)


def test_a_copy_that_only_acts_has_no_critic(
    tiny_config: DiscreteIQLConfig, tiny_dataset: Path
) -> None:
    """Fails if critics travel to the processes that only act, or the copy acts differently."""
    states = torch.tensor(OfflineDataset(tiny_dataset).load("test", ("obs",))["obs"][:8])
    with built(tiny_config) as algorithm:
        learner = algorithm.learner_group._learner
        module = learner.module[DEFAULT_MODULE_ID].unwrapped()
        state = module.get_state(inference_only=True)
        actor = algorithm.config.get_rl_module_spec(inference_only=True).build()
        assert {name.split(".")[0] for name in state} == {"actor", "features"}
        assert actor.state_dict().keys() == state.keys()
        actor.set_state(state)
        expected = module.forward_inference({Columns.OBS: states})[Columns.ACTION_DIST_INPUTS]
        for forward in (actor.forward_inference, actor.forward_exploration):
            logits = forward({Columns.OBS: states})[Columns.ACTION_DIST_INPUTS]
            assert logits.shape == (8, 80)
            torch.testing.assert_close(logits, expected)
        action = actor.get_inference_action_dist_cls().from_logits(logits).sample()
        assert algorithm.config.action_space.contains(int(action[0]))
        assert algorithm.config.observation_space.contains(states[0].numpy())
        assert module.compute_values({Columns.OBS: states}).shape == (8,)


def test_a_diverged_training_stops(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if a training goes on for hours on NaN, or on zeros put in its place."""
    with built(tiny_config.training(critic_lr=1e30)) as algorithm:  # noqa: SIM117
        with pytest.raises(UserError, match=r"training diverged: .* is (nan|inf)"):
            algorithm.train()


def test_the_compiled_forward_is_used_and_learns_the_same(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if torch_compile_learner has no effect, as in RLlib's own learners, or changes results.

    With the backend that traces the graph and runs it as it is: no compiler is needed.
    """
    learnt = []
    for compiled in (False, True):
        torch._dynamo.reset()
        config = tiny_config.copy(copy_frozen=False).framework(
            torch_compile_learner=compiled, torch_compile_learner_dynamo_backend="aot_eager"
        )
        with built(config) as algorithm:
            algorithm.train()
            learnt.append(weights(algorithm))
        frames = torch._dynamo.utils.counters["frames"]["ok"]
        assert (frames > 0) == compiled
    for name, value in learnt[0].items():
        np.testing.assert_allclose(value, learnt[1][name], atol=1e-5, err_msg=name)


def test_half_precision_learns_nearly_the_same(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if bfloat16 has no effect, or if losses or parameters are of half precision as well."""
    results = {}
    for precision in ("float32", "bfloat16"):
        config = tiny_config.copy(copy_frozen=False).training(precision=precision)
        with built(config) as algorithm:
            learnt = algorithm.train()["learners"][DEFAULT_MODULE_ID]
            results[precision] = np.array([float(learnt[name]) for name in STATISTICS])
            assert {str(value.dtype) for value in weights(algorithm, "q.").values()} <= {
                "float32",
                "int64",
            }
    assert (results["float32"] != results["bfloat16"]).any()
    np.testing.assert_allclose(results["bfloat16"], results["float32"], rtol=0.1, atol=0.02)
