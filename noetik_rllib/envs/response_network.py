"""The networks of the user response model: from a state and a video to what the user would answer.

A user's taste is read from two places. The history, so that a user never met in fitting is modelled
from what they watched: this is where the two families differ. And, added to that, a vector of each
user that was met: some hundred answers say more than the last 16.

``pooled`` sums the history up first, in several pools that weigh an event by its feedback, and
compares the pools with the candidate: one hidden layer over a sum of parts. ``attentive`` lets the
candidate choose what it reads of the history (target attention, as in DIN, Zhou et al. 2018, with
the scaled dot product for its unit), and has a second hidden layer. A policy that exploits what one
of them gets wrong meets another error in the other.

A log shows users what its policy thinks they like, so that being shown is a sign of liking. A
random exposure is not, and neither is what another policy shows: the network knows both kinds apart
(``uniform``). Shapes: B rows, H history slots, N videos, D embedding size, K interests.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from noetik_rllib.envs.response_answers import BINS, SEGMENTS, AnswerForm, thresholds
from noetik_rllib.envs.response_user import About, Person
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.transformer import ANSWER_SIZE, answer_features
from noetik_rllib.iql.video_tower import VideoFeatures, VideoTower
from noetik_rllib.offline.catalog import Catalog
from noetik_rllib.state import StateLayout

#: Families of networks: which class answers for ``ResponseConfig.family``.
Family = Literal["pooled", "attentive"]


class ResponseConfig(BaseModel):
    """Sizes of a response model and the values its watch ratio can take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Family
    #: Sizes of the dataset and of the video tower.
    tower: NetworkConfig
    #: Mean place of the training rows in each bin of each of the three segments of the watch
    #: ratio, 0 to 1 (``response_answers``).
    places: list[list[float]] = Field(min_length=SEGMENTS, max_length=SEGMENTS)
    #: Users with a vector of their own.
    num_users: int = Field(ge=0)
    #: Pools of the history: with fewer than 4, likes and skips could not be told apart from mere
    #: exposure and recency. Also the heads of the attention.
    pools: int = Field(default=6, ge=1)
    #: Interests read from the user's features and context instead of the history.
    traits: int = Field(default=2, ge=1)
    #: Width of the hidden layer.
    hidden_size: int = Field(default=64, ge=1)

    @field_validator("places")
    @classmethod
    def _lie_in_their_segments(cls, places: list[list[float]]) -> list[list[float]]:
        for values, most in zip(places, BINS, strict=True):
            if not 1 <= len(values) <= most or not all(0.0 <= value <= 1.0 for value in values):
                raise ValueError(f"expected 1 to {most} places within 0 to 1, got {values}")
        return places


@dataclass(frozen=True)
class Candidates:
    """P videos that are scored in many states, with what of them is the same in all.

    Side by side: a row per channel and a column per video, so that every operation of
    ``ResponseNetwork.column`` runs over neighbouring numbers, and a block of them stays in a
    core's cache. That is five times as fast as a row per video.

    Attributes:
        plain: part of the hidden layer of a uniformly chosen video, (hidden, P).
        queries: what a video looks for in the history, (..., P).
        person: what it looks for in a user's own vector, (D, P).
        limits: its thresholds, (2, P).
    """

    plain: Tensor
    queries: Tensor
    person: Tensor
    limits: Tensor


class ResponseNetwork(nn.Module, abc.ABC):
    """Outputs of an answer (``AnswerForm``): ``head`` of the hidden layer of a stranger, plus what
    ``person`` adds to it.
    """

    user_id: Tensor
    limits: Tensor

    def __init__(self, config: ResponseConfig, catalog: Catalog | None = None) -> None:
        super().__init__()
        size, hidden = config.tower.embedding_size, config.hidden_size
        self.config = config
        self.layout = StateLayout(config.tower.history_length)
        self.form = AnswerForm(config.places)
        self.features = VideoFeatures(config.tower, catalog)
        self.tower = VideoTower(config.tower)
        self.about = About()
        self.from_video = nn.Linear(size, hidden, bias=False)
        self.from_exposure = nn.Linear(size, hidden)
        self.output = nn.Linear(hidden, self.form.size)
        self.person = Person(config.num_users, size, hidden)
        self.register_buffer("user_id", torch.zeros(config.num_users, dtype=torch.int64))
        #: Watch ratios from which a play of each video counts as click and long view, (N, 2).
        self.register_buffer("limits", torch.ones(config.tower.num_videos, 2))
        if catalog is not None:
            self.limits.copy_(torch.as_tensor(thresholds(catalog.duration_ms)))
        with torch.no_grad():
            # Without a random exposure to learn from, one means no more than any other.
            self.from_exposure.weight.zero_()
            self.from_exposure.bias.zero_()

    @abc.abstractmethod
    def stranger_lists(self, states: Tensor, past: Tensor, videos: Tensor) -> Tensor:
        """The hidden layer (B, L, hidden) for L videos per state, if the user was never met.

        Args:
            states: (B, state size).
            past: embeddings of the history's videos, (B, H, D).
            videos: embeddings of the candidates, (B, L, D).
        """

    def stranger(self, states: Tensor, past: Tensor, videos: Tensor) -> Tensor:
        """``stranger_lists`` (B, hidden) for one video per state, with embeddings (B, D)."""
        return self.stranger_lists(states, past, videos[:, None])[:, 0]

    @abc.abstractmethod
    def read(self, states: Tensor, past: Tensor) -> tuple[Tensor, ...]:
        """What is read of states (B, state size) before a video is known, each (B, ...)."""

    @abc.abstractmethod
    def queries(self, videos: Tensor) -> Tensor:
        """What videos with embeddings (M, D) look for in what is read, (M, ...)."""

    @abc.abstractmethod
    def stranger_column(self, read: tuple[Tensor, ...], videos: Candidates) -> Tensor:
        """``stranger``'s hidden layer, with ``plain``, of P videos in one state, (hidden, P).

        Args:
            read: of the state, each part without B.
            videos: to score.
        """

    def hidden(self, states: Tensor, past: Tensor, videos: Tensor, uniform: Tensor) -> Tensor:
        """``stranger`` (B, hidden), told how the video was chosen.

        Args:
            states: (B, state size).
            past: embeddings of the history's videos, (B, H, D).
            videos: embeddings of the candidates, (B, D).
            uniform: 1.0 where being shown says nothing of the user's taste, else 0.0, (B,).
        """
        hidden = self.stranger(states, past, videos) + self.from_video(videos)
        return hidden + uniform[:, None] * self.from_exposure(videos)

    def candidates(self, embedded: Tensor, limits: Tensor) -> Candidates:
        """Prepare P videos with embeddings (P, D) and thresholds (P, 2) for ``column``."""
        plain = self.from_video(embedded) + self.from_exposure(embedded)
        queries = self.queries(embedded).movedim(0, -1)
        columns = plain.T, queries, self.person.query(embedded).T, limits.T
        return Candidates(*(column.contiguous() for column in columns))

    def column(self, read: tuple[Tensor, ...], user: Tensor, videos: Candidates) -> Tensor:
        """Outputs (size, P) of P uniformly chosen videos, in one state of one user.

        Args:
            read: of the state, each part without B.
            user: place of the user, (1,).
            videos: to score.
        """
        hidden = self.stranger_column(read, videos)
        if user:  # a stranger's part is 0
            hidden = hidden + self.person.column(user, videos.person)
        return torch.addmm(
            self.output.bias[:, None], self.output.weight, self.before_output(hidden)
        )

    def lists(self, states: Tensor, past: Tensor, videos: Tensor, users: Tensor) -> Tensor:
        """Hidden layer (B, L, hidden) for uniformly chosen videos (B, L, D), users at (B,)."""
        hidden = self.stranger_lists(states, past, videos)
        hidden = hidden + (self.from_video(videos) + self.from_exposure(videos))
        return hidden + self.person(users[:, None], videos)

    def last(self, hidden: Tensor) -> Tensor:
        """What the outputs are linear in, (..., hidden), from (..., hidden)."""
        return F.gelu(hidden)

    def head(self, hidden: Tensor) -> Tensor:
        """Outputs (..., size) from (..., hidden)."""
        outputs: Tensor = self.output(self.last(hidden))
        return outputs

    def before_output(self, hidden: Tensor) -> Tensor:
        """As ``last``, for hidden layers (hidden, P) of P videos side by side."""
        return F.gelu(hidden)

    def is_finite(self) -> bool:
        """Whether every weight is a finite number."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in self.state_dict().values())

    def places(self, user_id: Tensor) -> Tensor:
        """Place of each user id (B,) among the vectors, int64; 0 where the user has none."""
        if not len(self.user_id):
            return torch.zeros_like(user_id)
        place = torch.searchsorted(self.user_id, user_id).clamp(max=len(self.user_id) - 1)
        return torch.where(self.user_id[place] == user_id, place + 1, 0)

    def video_table(self, states: Tensor, videos: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed every video that a batch mentions, once.

        Returns:
            The embeddings (M, D) of the M distinct videos, and the places in them of the
            histories' videos (B, H) and of ``videos`` (B,).
        """
        past = self.layout.unpack(states).video_index.clamp(min=0)
        distinct, place = torch.unique(
            torch.cat([past, videos[:, None]], dim=1), return_inverse=True
        )
        return self.tower(self.features, distinct), place[:, :-1], place[:, -1]


class PooledNetwork(ResponseNetwork):
    """The history in pools: a sum of a part of the state, of the video and of their match.

    Scoring a whole catalogue computes the first two once per state and per video.
    """

    def __init__(self, config: ResponseConfig, catalog: Catalog | None = None) -> None:
        super().__init__(config, catalog)
        size, hidden = config.tower.embedding_size, config.hidden_size
        self.weigh = nn.Linear(ANSWER_SIZE, config.pools)
        self.traits = nn.Linear(About.SIZE, config.traits * size)
        interests = config.pools + config.traits
        self.query = nn.Linear(size, interests * size, bias=False)
        self.from_state = nn.Linear(About.SIZE + config.pools * size, hidden)
        self.from_match = nn.Linear(interests, hidden, bias=False)

    def read(self, states: Tensor, past: Tensor) -> tuple[Tensor, ...]:
        """Read what a user is after.

        Args:
            states: (B, state size).
            past: embeddings of the history's videos, (B, H, D).

        Returns:
            Interests (B, K, D) and the state's part of the hidden layer (B, hidden).
        """
        parts = self.layout.unpack(states)
        weight = self.weigh(answer_features(parts)) * parts.present[..., None]  # (B, H, pools)
        # Two imagined neutral events keep the taste of a user with few events near 0.
        count = parts.present.sum(1) + 2.0
        # (B, pools, H) @ (B, H, D) -> (B, pools, D)
        pools = weight.transpose(1, 2) @ past / count[:, None, None]
        about = self.about(parts)
        # (B, traits * D) -> (B, traits, D)
        traits = self.traits(about).view(len(states), self.config.traits, -1)
        hidden = self.from_state(torch.cat([about, pools.flatten(1)], dim=-1))
        return torch.cat([pools, traits], dim=1), hidden

    def queries(self, videos: Tensor) -> Tensor:
        """What a video with embedding (M, D) compares each interest with, (M, K, D)."""
        size = self.config.tower.embedding_size
        # (M, K * D) -> (M, K, D)
        return self.query(videos).view(len(videos), -1, size) * size**-0.5

    def stranger_lists(self, states: Tensor, past: Tensor, videos: Tensor) -> Tensor:
        """See ``ResponseNetwork.stranger_lists``."""
        interests, hidden = self.read(states, past)
        # (B, L, D) -> (B, L, K, D)
        queries = self.queries(videos.flatten(0, 1)).unflatten(0, videos.shape[:2])
        match = (interests[:, None] * queries).sum(-1)  # (B, L, K)
        return hidden[:, None] + self.from_match(match)

    def stranger_column(self, read: tuple[Tensor, ...], videos: Candidates) -> Tensor:
        """See ``ResponseNetwork.stranger_column``."""
        interests, hidden = read
        # (K, 1, D) @ (K, D, P) -> (K, P)
        match = (interests[:, None] @ videos.queries)[:, 0]
        return torch.addmm(videos.plain + hidden[:, None], self.from_match.weight, match)


class AttentiveNetwork(ResponseNetwork):
    """The history as the candidate attends to it, then a second hidden layer."""

    def __init__(self, config: ResponseConfig, catalog: Catalog | None = None) -> None:
        super().__init__(config, catalog)
        size, hidden = config.tower.embedding_size, config.hidden_size
        self.query = nn.Linear(size, size, bias=False)
        self.key = nn.Linear(size + ANSWER_SIZE, size)
        self.value = nn.Linear(size + ANSWER_SIZE, hidden)
        self.from_state = nn.Linear(About.SIZE + ANSWER_SIZE, hidden)
        self.deep = nn.Linear(hidden, hidden)

    def read(self, states: Tensor, past: Tensor) -> tuple[Tensor, ...]:
        """Return the state's part (B, hidden), keys (B, H + 1, D), values (B, H + 1, hidden), and
        what is added to the attention's logits (B, H + 1).

        The last slot is empty: what a candidate attends to that finds nothing of interest.
        """
        parts = self.layout.unpack(states)
        answers = answer_features(parts) * parts.present[..., None]
        events = torch.cat([past, answers], dim=-1)
        keys = F.pad(self.key(events), (0, 0, 0, 1))
        values = F.pad(self.value(events), (0, 0, 0, 1))
        absent = F.pad(torch.where(parts.present, 0.0, -1e9), (0, 1))
        mean = answers.sum(1) / (parts.present.sum(1, keepdim=True) + 2.0)
        hidden = self.from_state(torch.cat([self.about(parts), mean], dim=-1))
        return hidden, keys, values, absent

    def queries(self, videos: Tensor) -> Tensor:
        """What a video with embedding (M, D) looks for, (M, D)."""
        queries: Tensor = self.query(videos) * self.config.tower.embedding_size**-0.5
        return queries

    def stranger_lists(self, states: Tensor, past: Tensor, videos: Tensor) -> Tensor:
        """See ``ResponseNetwork.stranger_lists``."""
        hidden, keys, values, absent = self.read(states, past)
        scores = self.queries(videos) @ keys.transpose(1, 2)  # (B, L, H + 1)
        weight = torch.softmax(scores + absent[:, None], dim=-1)
        return hidden[:, None] + weight @ values

    def stranger_column(self, read: tuple[Tensor, ...], videos: Candidates) -> Tensor:
        """See ``ResponseNetwork.stranger_column``."""
        hidden, keys, values, absent = read
        weight = torch.softmax(torch.addmm(absent[:, None], keys, videos.queries), dim=0)
        # The weights of a video sum to 1, so what is added to every value is added once.
        return torch.addmm(videos.plain, (values + hidden).T, weight)

    def last(self, hidden: Tensor) -> Tensor:
        """See ``ResponseNetwork.last``; a second hidden layer."""
        return F.gelu(hidden + self.deep(F.gelu(hidden)))

    def before_output(self, hidden: Tensor) -> Tensor:
        """As ``last``, for hidden layers (hidden, P) of P videos side by side."""
        deep = torch.addmm(self.deep.bias[:, None], self.deep.weight, F.gelu(hidden))
        return F.gelu(deep.add_(hidden))


FAMILIES: dict[Family, type[ResponseNetwork]] = {
    "pooled": PooledNetwork,
    "attentive": AttentiveNetwork,
}


def make_network(config: ResponseConfig, catalog: Catalog | None = None) -> ResponseNetwork:
    """Make the network of a configuration, with a catalogue or to be filled by a saved state."""
    return FAMILIES[config.family](config, catalog)
