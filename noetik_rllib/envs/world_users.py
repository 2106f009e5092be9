"""Users of a synthetic world, who answer as the world's truth says."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from noetik_rllib.data.reader import sha256_of
from noetik_rllib.data.signals import BINARY_SIGNALS, SIGNALS, watch_ratio
from noetik_rllib.data.world import SyntheticWorld
from noetik_rllib.data.world_config import MAIN_TAB, REACTIONS, TABS
from noetik_rllib.data.world_files import WORLD_FILE
from noetik_rllib.data.world_kernel import play_rows
from noetik_rllib.errors import UserError
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.state import CONTEXT_NAMES

_FIRST_TAB = CONTEXT_NAMES.index("tab_0")
_TABS = slice(_FIRST_TAB, _FIRST_TAB + len(TABS))
_CLICK_BIT = BINARY_SIGNALS.index("click")


class Situation(NamedTuple):
    """What the truth depends on besides user and video, of B states.

    ``recent_videos`` and ``recent_clicks`` (B, H), newest first; ``tab`` (B,), the page of the app.
    """

    recent_videos: np.ndarray
    recent_clicks: np.ndarray
    tab: np.ndarray


class WorldUsers:
    """Users of a world, told by their ids, on the page of the app that their state names.

    The truth depends on a state through its last events and its page alone; a state without a
    page is on the main one.

    Args:
        world: the world.
        dataset: made from its logs.

    Raises:
        UserError: the dataset's states hold fewer events than the world's users remember.
    """

    #: One says whether and how the video is watched, one how long, the others the reactions.
    num_uniforms = 2 + len(REACTIONS)

    def __init__(self, world: SyntheticWorld, dataset: OfflineDataset) -> None:
        self.world = world
        self.layout = dataset.layout
        self.num_videos = dataset.manifest.num_videos
        #: Id in the world of each video of the catalogue, (N,).
        self.video_id = dataset.catalog.video_id
        window = world.config.history_window
        if self.layout.history_length < window:
            raise UserError(
                f"{dataset.directory} has states of {self.layout.history_length} past events, but "
                f"the world's users remember {window}: prepare it with a history of {window} or "
                "more"
            )

    @classmethod
    def load(cls, directory: Path, dataset: OfflineDataset) -> WorldUsers:
        """Open the world that a dataset was made from.

        Raises:
            UserError: there is no world, or not the one whose logs the dataset was made from.
        """
        world = SyntheticWorld.load(directory)
        for source in dataset.manifest.sources:
            path = directory / "data" / source.name
            if not path.is_file() or sha256_of(path) != source.sha256:
                raise UserError(
                    f"the world in {directory} is not the one that {dataset.directory} was made "
                    f"from: data/{source.name} differs; name the folder with its {WORLD_FILE}"
                )
        return cls(world, dataset)

    def read(self, states: np.ndarray) -> Situation:
        """Return what the truth depends on of states (B, state size)."""
        parts = self.layout.unpack(states)
        pages = parts.context[:, _TABS]
        return Situation(
            recent_videos=np.where(parts.present, self.video_id[parts.video_index], -1),
            recent_clicks=parts.feedback[..., _CLICK_BIT],
            tab=np.where(pages.any(axis=1), pages.argmax(axis=1), MAIN_TAB),
        )

    def signals(
        self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray, uniforms: np.ndarray
    ) -> np.ndarray:
        """Draw answers (B, 9) float32, in ``SIGNALS`` order; arguments as ``Simulator.answer``.

        They have the distribution of ``SyntheticWorld.sample``.
        """
        world, situation = self.world, self.read(states)
        answers = world.answers(user_id, self.video_id[videos], *situation)
        play_ms, click = play_rows(
            world.watching,
            answers.page,
            answers.utility,
            world.video_side(answers.video),
            np.ascontiguousarray(uniforms[:, 0]),
            ndtri(uniforms[:, 1]),
        )
        drawn = {
            "click": click,
            "watch_ratio": watch_ratio(play_ms, world.duration_ms[answers.video]),
            "long_view": play_ms >= world.long_view_from_ms[answers.video],
        }
        for column, name in enumerate(REACTIONS, start=2):
            drawn[name] = uniforms[:, column] < world.reaction(name, answers, click)
        return np.stack([drawn[name] for name in SIGNALS], axis=1).astype(np.float32)
