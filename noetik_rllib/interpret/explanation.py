"""Explaining what a trained run recommends to its dataset's users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from noetik_rllib.errors import UserError
from noetik_rllib.interpret.attribution import Attributor
from noetik_rllib.interpret.baseline import Baseline
from noetik_rllib.interpret.counterfactual import (
    CounterfactualFinder,
    Found,
    slot_to_skip,
    watched,
)
from noetik_rllib.interpret.decisions import Decisions
from noetik_rllib.interpret.describe import choose, describe
from noetik_rllib.interpret.facts import Explanation
from noetik_rllib.interpret.groups import user_groups
from noetik_rllib.interpret.scores import MarginScore
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.split import PARTS
from noetik_rllib.state import EVENT_SIZE

if TYPE_CHECKING:
    from noetik_rllib.runs import Run


class Explainer:
    """Explains recommendations of one policy; opens the dataset once for many users.

    Args:
        dataset: what the policy was trained on, or another dataset of the same catalogue.
        networks: the policy.

    Raises:
        UserError: the policy belongs to another catalogue or history length.
    """

    def __init__(self, dataset: OfflineDataset, networks: IQLNetworks) -> None:
        config = networks.config
        for what, ours, theirs in (
            ("videos", config.num_videos, len(dataset.catalog)),
            ("history slots", config.history_length, dataset.layout.history_length),
        ):
            if ours != theirs:
                raise UserError(
                    f"the policy knows {ours:,} {what}, {dataset.directory} has {theirs:,}: "
                    "they do not belong together"
                )
        self.dataset = dataset
        self.networks = networks
        self.baseline = Baseline.from_dataset(dataset)
        self._mapping = dataset.manifest.mapping
        self._attributor = Attributor(
            MarginScore(networks), self.baseline, user_groups(self._mapping)
        )
        self._catalogue = networks.actor.embed_catalogue(networks.features)
        self._counterfactuals = CounterfactualFinder(networks, self._catalogue)

    def explain(self, user_id: int, top_k: int = 1) -> list[Explanation]:
        """Explain the policy's best ``top_k`` videos after the user's last event.

        Videos in the user's history slots are not recommended again, unless the mapping says that
        items repeat. Where fewer videos are left,
        fewer explanations are returned. A user of whom the dataset knows the profile and no event
        is taken in the average situation.

        Raises:
            UserError: the dataset does not know this user, or no video is left to recommend.
        """
        return self.explain_state(user_id, self._state_of(user_id), top_k)

    def _state_of(self, user_id: int) -> np.ndarray:
        try:
            return self.dataset.latest_state(user_id)
        except UserError:
            row = np.flatnonzero(self.dataset.users.user_id == user_id)
            if not len(row) or self._has_events(user_id):
                raise
        layout = self.dataset.layout
        none = np.zeros((1, layout.history_length, EVENT_SIZE), dtype=np.float32)
        return layout.pack(self.dataset.users.features[row], none, self.baseline.context[None])[0]

    def _label(self, user_id: int) -> str:
        """The user's id as the log writes it."""
        keys = self.dataset.keys.get("users")
        return str(user_id) if keys is None else keys[user_id]

    def _has_events(self, user_id: int) -> bool:
        return any(
            len(self.dataset.load(part, ("user_id",), users=[user_id])["user_id"]) for part in PARTS
        )

    def explain_state(self, user_id: int, state: np.ndarray, top_k: int = 1) -> list[Explanation]:
        """Explain the best ``top_k`` videos in ``state``, of (state size,); see ``explain``."""
        if top_k < 1:
            raise UserError(f"top-k is {top_k}: expected 1 or more recommendations to explain")
        seen = self.dataset.layout.unpack(state[None]).video_index[0]
        count = self.networks.config.num_videos
        if seen.max() >= count:
            raise UserError(
                f"the history of user {self._label(user_id)} holds video index {seen.max()}, but "
                f"the catalogue has {count:,} videos: {self.dataset.directory} is damaged; "
                "prepare it again"
            )
        states = np.array(state, dtype=np.float32)[None]
        excluded = seen[:0] if self._mapping.log.repeats else seen[seen >= 0]
        choices = choose(self._logits(states), excluded, top_k)
        if not choices:
            raise UserError(
                f"user {self._label(user_id)} has just seen all {count:,} videos: none is left to "
                "recommend"
            )
        videos = np.array([choice.index for choice in choices])
        decisions = Decisions(np.repeat(states, len(videos), axis=0), videos)
        attribution = self._attributor.attribute(decisions)
        without = self._attributor.value_without_each(decisions)
        found: Sequence[Found | None] = [None] * len(videos)
        if (seen >= 0).any():
            answered = watched(self.dataset.layout, states[0], self._mapping.log)
            skip = [slot_to_skip(answered, events) for events in attribution.events]
            found = self._counterfactuals.find(states[0], videos.tolist(), excluded, skip)
        return [
            describe(
                user_id=user_id,
                choice=choice,
                state=states[0],
                layout=self.dataset.layout,
                catalog=self.dataset.catalog,
                attribution=attribution,
                row=row,
                baseline=self.baseline,
                counts=self.dataset.manifest.user_numeric,
                mapping=self._mapping,
                keys=self.dataset.keys,
                found=found[row],
                without=without,
            )
            for row, choice in enumerate(choices)
        ]

    @torch.no_grad()
    def _logits(self, states: np.ndarray) -> np.ndarray:
        """Logits (N,) of the catalogue in one state (1, state size)."""
        actor, catalogue = self.networks.actor, self._catalogue
        query = actor.query(actor.encoder(self.networks.features, torch.as_tensor(states)))
        return F.linear(query * actor.scale, catalogue.videos, catalogue.biases)[0].numpy()


def explain(run: Run, user_id: int, top_k: int = 1) -> list[Explanation]:
    """Explain what a run recommends to one user; see ``Explainer.explain``."""
    return Explainer(run.dataset(), run.networks()).explain(user_id, top_k)


def default_users(dataset: OfflineDataset, count: int = 3) -> Sequence[int]:
    """The first held-out users, by id, who have events in the test part.

    The policy never learnt from them, so what it says about them is not remembered.
    """
    users = dataset.users
    held_out = users.user_id[users.held_out]
    tested = np.unique(dataset.load("test", ("user_id",))["user_id"])
    return [int(user) for user in np.intersect1d(held_out, tested)[:count]]
