"""Configuration of ``KuaiRandEnv``, as it comes from RLlib's ``env_config`` or a keyword."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.errors import UserError, did_you_mean


class KuaiRandEnvConfig(BaseModel):
    """What a ``KuaiRandEnv`` is made of; only ``data`` has to be given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Offline dataset, a folder written by ``noetik data prepare``.
    data: Path
    #: Part whose episodes give the start states, and so the users.
    part: Literal["train", "judge", "test", "random"] = "test"
    #: "logged": the logged answer where the log has that user and video, else the model's;
    #: "model": always the model's.
    user_model: Literal["logged", "model"] = "logged"
    #: Folder of a saved response model. None fits one on the part ``train`` (seconds), once per
    #: process and dataset; with many workers, save one and name it here instead.
    response_model: Path | None = None
    #: Steps of an episode; then it is truncated.
    horizon: int = Field(default=10, ge=1)
    #: Weight of each signal in the reward.
    reward: RewardWeights = RewardWeights()
    #: Put an ``action_mask`` of the videos not yet shown in this episode into ``info``, and let a
    #: video shown twice be skipped at once: every signal 0.
    mask_seen: bool = False
    #: Users to draw from; None for all users with an episode in the part.
    users: list[int] | None = Field(default=None, min_length=1)

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> KuaiRandEnvConfig:
        """Check options given as a mapping.

        Raises:
            UserError: an option is missing, unknown or of a wrong value.
        """
        for name in options:
            if name not in cls.model_fields:
                raise UserError(
                    f"KuaiRandEnv has no option '{name}': expected "
                    f"{', '.join(cls.model_fields)}.{did_you_mean(str(name), cls.model_fields)}"
                )
        try:
            return cls.model_validate(dict(options))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(f"KuaiRandEnv option '{where}': {first['msg']}") from None
