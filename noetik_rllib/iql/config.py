"""``DiscreteIQLConfig``: every setting of discrete IQL in RLlib's own config class."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from pydantic import ValidationError
from ray.rllib.algorithms.algorithm_config import (
    AlgorithmConfig,
    NotProvided,
    TorchCompileWhatToCompile,
)
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.util.debug import log_once

from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.iql.data import (
    ColumnarOfflineData,
    dataset_spaces,
    input_dataset,
    reward_decomposition,
)
from noetik_rllib.iql.mlp_rl_module import MLPConfig, MLPIQLTorchRLModule
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.rl_module import PRECISION_KEY, REWARD_KEY
from noetik_rllib.iql.settings import (
    DataResidency,
    IQLSettings,
    LearningRate,
    Precision,
    explain,
)
from noetik_rllib.iql.transformer_rl_module import (
    DATASET_KEY,
    INTERPRETABILITY_KEY,
    TransformerIQLTorchRLModule,
    network_config,
)


class DiscreteIQLConfig(AlgorithmConfig):
    """Config of ``DiscreteIQL``, trained from an offline dataset, or from any log of transitions.

    Example:
        >>> config = (
        ...     DiscreteIQLConfig()
        ...     .offline_data(input_=["data/pure/train"], dataset_num_iters_per_learner=100)
        ...     .training(expectile=0.7, beta=3.0, reward_weights=RewardWeights(like=1.0))
        ...     .rl_module(model_config={"embedding_size": 32})
        ... )
        >>> config.expectile
        0.7

    ``algo = config.build_algo(); algo.train()`` then makes 100 gradient steps. Spaces and sizes of
    the networks come from the dataset. For any other log, ``input_`` is a folder of Parquet files
    with RLlib's columns (obs, actions, rewards, new_obs, terminateds), ``environment(...)`` gives
    the spaces, and the networks are fully connected.

    Derived from ``AlgorithmConfig`` and not from RLlib's ``MARWILConfig`` or ``IQLConfig``, whose
    ``validate()`` refuses a ``beta`` above 1 (``ray/rllib/algorithms/marwil/marwil.py:392``), hence
    the paper's 3.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        from noetik_rllib.iql.algorithm import DiscreteIQL

        super().__init__(algo_class=algo_class or DiscreteIQL)

        # --- IQL's own settings: see IQLSettings for what each means and where it is from.
        defaults = IQLSettings()
        self.expectile = defaults.expectile
        self.beta = defaults.beta
        self.max_weight = defaults.max_weight
        self.imitate_random = defaults.imitate_random
        self.gamma = defaults.gamma
        self.target_polyak = defaults.target_polyak
        self.actor_lr = defaults.actor_lr
        self.critic_lr = defaults.critic_lr
        self.value_lr = defaults.value_lr
        self.grad_clip = defaults.grad_clip
        self.normalise_reward = defaults.normalise_reward
        self.subtract_reward_mean = defaults.subtract_reward_mean
        self.precision = defaults.precision
        self.data_residency = defaults.data_residency
        self.data_window_mb = defaults.data_window_mb
        self.interpretability_coeff = defaults.interpretability_coeff
        #: Gradient steps over which ``actor_lr`` falls to 0 along a cosine, as in the official
        #: code; 0 keeps it. Off, as an Algorithm does not know how long it will be trained.
        self.actor_lr_decay_steps = 0
        #: Weight of each signal in the reward, which is computed while the rows are read.
        self.reward_weights = RewardWeights()

        # --- Running on several hosts.
        #: Where learners copy the dataset from, to the folder of ``input_``, where it is not there:
        #: a URI, see ``noetik_rllib.remote``.
        self.data_source: str | None = None
        #: How long to wait for room for the learners, in seconds.
        self.host_wait_seconds = 900.0

        # --- RLlib's own settings, with the values that this algorithm needs.
        self._is_online = False
        self.offline_data_class = ColumnarOfflineData
        #: Of each network by itself: the paper's three optimizers are independent.
        self.grad_clip_by = "global_norm"
        #: Rows per gradient step and learner: the official batch size.
        self.train_batch_size_per_learner = 256
        #: Gradient steps per ``train()``. An iteration of RLlib costs some 20 ms by itself: below
        #: 1 % at 100 steps.
        self.dataset_num_iters_per_learner = 100
        #: The buffers are the catalogue, which never changes: sending them with every step, as
        #: torch's DDP does by default, would cost more than the gradients on a large catalogue.
        self.torch_ddp_kwargs = {"broadcast_buffers": False}

    def training(
        self,
        *,
        expectile: float = NotProvided,
        beta: float = NotProvided,
        max_weight: float = NotProvided,
        imitate_random: bool = NotProvided,
        target_polyak: float = NotProvided,
        actor_lr: LearningRate = NotProvided,
        critic_lr: LearningRate = NotProvided,
        value_lr: LearningRate = NotProvided,
        reward_weights: RewardWeights = NotProvided,
        normalise_reward: bool = NotProvided,
        subtract_reward_mean: bool = NotProvided,
        actor_lr_decay_steps: int = NotProvided,
        precision: Precision = NotProvided,
        data_residency: DataResidency = NotProvided,
        data_window_mb: int = NotProvided,
        interpretability_coeff: float = NotProvided,
        data_source: str | None = NotProvided,
        host_wait_seconds: float = NotProvided,
        **kwargs: Any,
    ) -> DiscreteIQLConfig:
        """Set what training uses; ``__init__`` says what each setting means.

        Args:
            expectile: between 0 and 1, exclusive.
            beta: 0 (behaviour cloning) or more.
            max_weight: positive.
            imitate_random: whether the policy clones random exposures as well.
            target_polyak: above 0, at most 1.
            actor_lr: positive, or a schedule [(rows trained, rate), ...].
            critic_lr: likewise.
            value_lr: likewise.
            reward_weights: weight of each signal; a mapping of names will do, in which signals
                that are left out keep their default weight.
            normalise_reward: divide by the standard deviation.
            subtract_reward_mean: subtract the mean.
            actor_lr_decay_steps: gradient steps of the cosine decay of ``actor_lr``, 0 for none.
            precision: "float32" or "bfloat16".
            data_residency: "auto", "memory" or "stream".
            data_window_mb: MiB of rows that are shuffled together, 1 or more.
            interpretability_coeff: 0 or more.
            data_source: URI of the dataset, or None where every host has the folder of ``input_``.
            host_wait_seconds: how long to wait for hosts with room for the learners.
            **kwargs: RLlib's own (``gamma``, ``grad_clip``, ``train_batch_size_per_learner`` ...).
        """
        super().training(**kwargs)
        given = {
            "expectile": expectile,
            "beta": beta,
            "max_weight": max_weight,
            "imitate_random": imitate_random,
            "target_polyak": target_polyak,
            "actor_lr": actor_lr,
            "critic_lr": critic_lr,
            "value_lr": value_lr,
            "reward_weights": reward_weights,
            "normalise_reward": normalise_reward,
            "subtract_reward_mean": subtract_reward_mean,
            "actor_lr_decay_steps": actor_lr_decay_steps,
            "precision": precision,
            "data_residency": data_residency,
            "data_window_mb": data_window_mb,
            "interpretability_coeff": interpretability_coeff,
            "data_source": data_source,
            "host_wait_seconds": host_wait_seconds,
        }
        for name, value in given.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    def validate(self) -> None:
        """Check every setting, and take the spaces from the dataset.

        Raises:
            ValueError: a setting has no meaning; one line says which, and what is expected.
            UserError: the dataset cannot be used.
        """
        self._validate_iql()
        if self.observation_space is None or self.action_space is None:
            self._find_spaces()
        # Counts as said already: RLlib's advice on how to return to its old stack, which this
        # algorithm does not know (ray/rllib/algorithms/algorithm_config.py:5159).
        log_once(f"{self.algo_class.__name__}_on_new_api_stack")
        super().validate()

    def _validate_iql(self) -> None:
        try:
            self.reward_weights = RewardWeights.model_validate(self.reward_weights)
            settings = IQLSettings.model_validate(
                {name: getattr(self, name) for name in IQLSettings.model_fields}
            )
        except ValidationError as error:
            raise ValueError(explain(error)) from None
        for name in IQLSettings.model_fields:
            setattr(self, name, getattr(settings, name))  # "0.7" is 0.7 from here on
        decay = self.actor_lr_decay_steps
        if not (isinstance(decay, int) and decay >= 0):
            raise ValueError(
                f"actor_lr_decay_steps is {decay!r}: expected a whole number, 0 or more"
            )
        if decay and isinstance(self.actor_lr, list):
            raise ValueError("actor_lr is a schedule already: set actor_lr_decay_steps to 0")
        what = TorchCompileWhatToCompile.FORWARD_TRAIN
        if self.torch_compile_learner and self.torch_compile_learner_what_to_compile != what:
            raise ValueError(
                "torch_compile_learner_what_to_compile: only the forward pass is compiled here, "
                "leave it as it is"
            )
        for name in ("dataset_num_iters_per_learner", "train_batch_size_per_learner"):
            count = getattr(self, name)
            if not (isinstance(count, int) and count >= 1):
                raise ValueError(f"{name} is {count!r}: expected a whole number of at least 1")
        if not self.is_offline:
            raise ValueError("no training data: call config.offline_data(input_=['DATASET/train'])")
        without_effect = {
            "iter_batches_kwargs": "rows do not go through Ray Data here",
            "map_batches_kwargs": "rows do not go through Ray Data here",
            "prelearner_class": "rows do not go through Ray Data here",
            "_torch_grad_scaler_class": "the networks train in single precision",
            "_torch_lr_scheduler_classes": "give actor_lr, critic_lr or value_lr a schedule",
        }
        for name, reason in without_effect.items():
            if getattr(self, name):
                raise ValueError(f"{name} has no effect on DiscreteIQL: {reason}")
        self._validate_model()

    def _validate_model(self) -> None:
        dataset = input_dataset(self.input_)
        if dataset is not None:
            network_config(self.model_config)
            if self.interpretability_coeff and dataset.manifest.history_length < 2:
                raise ValueError(
                    "interpretability_coeff: expected histories of 2 events or more, "
                    "or there is nothing to concentrate"
                )
            return
        MLPConfig.of(self.model_config)
        if self.reward_weights != RewardWeights():
            raise ValueError("reward_weights: this log has one reward, and no signals to weigh")
        if self.interpretability_coeff:
            raise ValueError("interpretability_coeff: these networks know no past events")

    def _find_spaces(self) -> None:
        """Take the spaces from the dataset, or from the environment that is named."""
        dataset = input_dataset(self.input_)
        if dataset is not None:
            observation_space, action_space = dataset_spaces(dataset)
        elif isinstance(self.env, str) and self.env in gym.registry:
            env = gym.make(self.env, **self.env_config)
            observation_space, action_space = env.observation_space, env.action_space
            env.close()
        else:
            raise ValueError(
                f"{self.input_} is in no dataset of 'noetik data prepare', so the spaces are not "
                "known: call config.environment(observation_space=..., action_space=...)"
            )
        self.environment(observation_space=observation_space, action_space=action_space)

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        """Give the RLModule what follows from the dataset, and where it is."""
        included: dict[str, Any] = super()._model_config_auto_includes
        if not self.is_offline:
            return included
        included |= {
            REWARD_KEY: reward_decomposition(self).model_dump(),
            PRECISION_KEY: self.precision,
        }
        dataset = input_dataset(self.input_)
        if dataset is None:
            return included
        if self.interpretability_coeff:
            included[INTERPRETABILITY_KEY] = True
        sizes = NetworkConfig.for_dataset(dataset.manifest).model_dump()
        return included | sizes | {DATASET_KEY: str(dataset.directory.resolve())}

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the RLModule to train (RLlib's hook)."""
        videos = input_dataset(self.input_) is not None
        return RLModuleSpec(
            module_class=TransformerIQLTorchRLModule if videos else MLPIQLTorchRLModule
        )

    def build_learner_group(
        self,
        *,
        env: Any = None,
        spaces: Any = None,
        rl_module_spec: Any = None,
        placement_group: Any = None,
    ) -> LearnerGroup:
        """Start the learners (RLlib's hook); their calls fail when one of them is lost.

        Raises:
            LearnerLostError: a host was lost meanwhile.
            UserError: there was no room for them in ``host_wait_seconds``.
        """
        from noetik_rllib.iql.learner_group import build

        spec = rl_module_spec or self.get_multi_rl_module_spec(env=env, spaces=spaces)
        return build(self.copy(), self.host_wait_seconds, placement_group, module_spec=spec)

    def get_default_learner_class(self) -> type:
        """Return the Learner (RLlib's hook)."""
        from noetik_rllib.iql.learner import DiscreteIQLTorchLearner

        return DiscreteIQLTorchLearner
