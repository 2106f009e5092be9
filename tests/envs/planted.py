"""A synthetic world with strong tastes, whose truth the tests hold fitted models against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from noetik_rllib.data.signals import BINARY_SIGNALS
from noetik_rllib.data.world import SyntheticWorld, WorldConfig
from noetik_rllib.envs.response_fit import fit_response_model
from noetik_rllib.envs.response_model import ResponseModel
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.prepare_config import PrepareConfig
from noetik_rllib.offline.writer import prepare

#: Large enough to learn from in seconds. Two users of five are held out, and the random log is
#: large, so that the judge has more than 500 random exposures before the split.
CONFIG = WorldConfig(users=240, videos=60, tags=8, standard_rows=16_000, random_rows=6_000, love=3)


@dataclass(frozen=True)
class Planted:
    """The world, its dataset, and the models fitted on the parts ``train`` and ``judge``."""

    world: SyntheticWorld
    dataset: OfflineDataset
    model: ResponseModel
    judge: ResponseModel

    def taste(self, user_id: np.ndarray) -> np.ndarray:
        """True taste of users (B,) for each video of the catalogue, in log-odds, (B, N)."""
        tags = self.world.video_tags[self.dataset.catalog.video_id]  # (N, 3)
        return self.world.taste[user_id][:, tags].sum(-1)

    def click(self, user_id: np.ndarray, videos: np.ndarray, states: np.ndarray) -> np.ndarray:
        """True probability (B,) of a click of users on videos, all (B,), in states."""
        ids = self.dataset.catalog.video_id
        parts = self.dataset.layout.unpack(states)
        recent = np.where(parts.present, ids[parts.video_index], -1)
        clicks = parts.feedback[..., BINARY_SIGNALS.index("click")]
        return self.world.response(user_id, ids[videos], recent, clicks)["click"]


def planted(root: Path) -> Planted:
    """Open the planted world in ``root``; the first call of a test session makes it."""
    world = SyntheticWorld(CONFIG)
    if not root.exists():
        world.write(root / "world")
        prepare(root / "world", root / "dataset", PrepareConfig(held_out_users=0.4))
        dataset = OfflineDataset(root / "dataset")
        for part in ("train", "judge"):
            fit_response_model(dataset, part).save(root / part)
    return Planted(
        world,
        OfflineDataset(root / "dataset"),
        ResponseModel.load(root / "train"),
        ResponseModel.load(root / "judge"),
    )
