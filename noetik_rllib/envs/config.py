"""Configuration of ``KuaiRandEnv``, as it comes from RLlib's ``env_config`` or a keyword."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.envs.dynamics import Dynamics, Patience
from noetik_rllib.errors import UserError, did_you_mean


class KuaiRandEnvConfig(BaseModel):
    """What a ``KuaiRandEnv`` is made of; only ``data`` has to be given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Offline dataset, a folder written by ``noetik data prepare``.
    data: Path
    #: Part whose episodes give the start states, and so the users.
    part: Literal["train", "judge", "test", "random"] = "train"
    #: "model": always the model's answer; "logged": the logged one where the log has that user and
    #: video, else the model's, so that a policy can learn the log by heart; "world": what the users
    #: of a synthetic world truly answer.
    user_model: Literal["logged", "model", "world"] = "model"
    #: Folder of a saved response model. None fits one on the part ``train`` (seconds), once per
    #: process and dataset; with many workers, save one and name it here instead.
    response_model: Path | None = None
    #: Folder of the synthetic world that the dataset was made from, for ``user_model`` "world".
    world: Path | None = None
    #: Steps of an episode; then it is truncated.
    horizon: int = Field(default=10, ge=1, le=10_000)
    #: Weight of each signal in the reward.
    reward: RewardWeights = RewardWeights()
    #: Put an ``action_mask`` of the videos not seen yet into ``info``, and let a seen video shown
    #: again be skipped at once: every signal 0.
    mask_seen: bool = False
    #: Share of its interest that a video keeps which the user has just seen, in this episode or in
    #: the history that it began with. On the real rows, 49 videos that were clicked and came back
    #: after more than 30 minutes were watched for 0.039 instead of 0.246. 1: like a new one.
    repeat_interest: float = Field(default=0.16, ge=0.0, le=1.0)
    #: What sessions do beside answering; nothing by default.
    dynamics: Dynamics = Dynamics()
    #: Users to draw from: their ids, "held_out" for those kept from training, None for all; with an
    #: episode in the part.
    users: Annotated[list[int], Field(min_length=1)] | Literal["held_out"] | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> KuaiRandEnvConfig:
        """Check options given as a mapping.

        Raises:
            UserError: an option is missing, unknown, of a wrong value or at odds with another.
        """
        for name in options:
            if name not in cls.model_fields:
                raise UserError(
                    f"KuaiRandEnv has no option '{name}': expected "
                    f"{', '.join(cls.model_fields)}.{did_you_mean(str(name), cls.model_fields)}"
                )
        try:
            config = cls.model_validate(dict(options))
        except ValidationError as error:
            first = error.errors()[0]
            if first["loc"][0] == "users":  # pydantic tells of each kind by itself
                raise UserError(
                    "KuaiRandEnv option 'users': expected ids of users, at least one, or 'held_out'"
                ) from None
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(f"KuaiRandEnv option '{where}': {first['msg']}") from None
        config.check()
        return config

    def check(self) -> None:
        """Refuse options that are at odds with each other.

        Raises:
            UserError: one is given that another makes meaningless.
        """
        dynamics, true_users = self.dynamics, self.user_model == "world"
        for wrong, option, reason in (
            (
                true_users and self.world is None,
                "world",
                "user_model 'world' needs the folder of the synthetic world",
            ),
            (
                self.world is not None and not true_users,
                "world",
                f"user_model '{self.user_model}' does not ask the world; expected 'world'",
            ),
            (
                true_users and self.response_model is not None,
                "response_model",
                "user_model 'world' asks the world, not a model; leave it out",
            ),
            (
                true_users and dynamics.satiation is not None,
                "dynamics.satiation",
                "user_model 'world' has its own satiation; leave it out",
            ),
            (
                true_users and dynamics.patience not in (None, Patience()),
                "dynamics.patience",
                "user_model 'world' has its own patience; expected true",
            ),
            (
                dynamics.returns is not None and dynamics.patience is None,
                "dynamics.returns",
                "nobody leaves without patience that runs out; set dynamics.patience too",
            ),
        ):
            if wrong:
                raise UserError(f"KuaiRandEnv option '{option}': {reason}")
