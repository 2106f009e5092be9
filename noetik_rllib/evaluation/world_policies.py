"""Policies that only a synthetic world allows: who made its log, and who knows its truth.

Shapes: B states, N videos of the catalogue, G sets of tags, X points of a table.
"""

from __future__ import annotations

import numpy as np

from noetik_rllib.data.signals import BINARY_SIGNALS, SIGNALS, RewardWeights
from noetik_rllib.data.world_config import REACTIONS, TABS, Page
from noetik_rllib.envs.world_users import Situation, WorldUsers
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.policies import ScoringPolicy

#: Distance of a table's points in log-odds. A line between two of them is off by less than 5e-5 of
#: reward (its second derivative is below 0.15), less than the closed form itself (2e-4).
STEP = 0.05
#: The largest catalogue of the oracle: a table of some 350 points per video takes 140 MB.
MAX_VIDEOS = 100_000
#: Pairs of state and video that are asked at a time.
_PAIRS = 500_000


class LoggingPolicy(ScoringPolicy):
    """The policy that made the standard log of a synthetic world; it draws at random, as there.

    Args:
        users: the world's users.
        seed: of the draws: same seed, same calls, same videos.
    """

    def __init__(self, users: WorldUsers, seed: int = 0) -> None:
        super().__init__("logging", users.num_videos)
        self._users = users
        self._rng = np.random.default_rng(seed)

    def score_all(self, states: np.ndarray, user_id: np.ndarray) -> np.ndarray:
        """Log-probabilities with Gumbel noise (B, N): their order is a draw without repetition."""
        noise = self._rng.gumbel(size=(len(states), self.num_videos))
        return (self._log_probability(user_id) + noise).astype(np.float32)

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """Log-probability (B,) of one video each, without noise."""
        found, place = np.unique(user_id, return_inverse=True)
        scores = np.empty(len(videos), dtype=np.float32)
        for rows in self._chunks(len(found)):
            own = (place >= rows.start) & (place < rows.stop)
            log_probability = self._log_probability(found[rows])
            scores[own] = log_probability[place[own] - rows.start, videos[own]]
        return scores

    def _log_probability(self, user_id: np.ndarray) -> np.ndarray:
        probability = self._users.world.standard_policy(user_id)[:, self._users.video_id]
        return np.log(np.maximum(probability, np.finfo(float).tiny))


class OraclePolicy(ScoringPolicy):
    """Shows the video of the highest true expected reward: the user's tastes and history known.

    What it does not do is plan: a video also moves the answers to those after it.

    The utility of a video is its quality plus what user, page and history make of its set of tags,
    one number x for all videos of a set. So the expected reward of each video is tabulated over x,
    once for each kind of page, and a state costs a look-up per video. Where a reaction has a weight
    in the reward, which depends on the user besides, every pair is asked instead, 20 times slower.

    Args:
        users: the world's users.
        weights: of the signals in the reward.

    Raises:
        UserError: the catalogue is too large for the tables.
    """

    def __init__(self, users: WorldUsers, weights: RewardWeights) -> None:
        super().__init__("oracle", users.num_videos)
        if users.num_videos > MAX_VIDEOS:
            raise UserError(
                f"the oracle tabulates the reward of every video: the catalogue has "
                f"{users.num_videos:,}, more than {MAX_VIDEOS:,}"
            )
        self._users = users
        self._world = users.world
        self._weight = dict(zip(SIGNALS, weights.as_array(), strict=True))
        self._exact = any(self._weight[name] for name in REACTIONS)
        sets = self._world.video_set[users.video_id]
        _, first, self._set = np.unique(sets, return_index=True, return_inverse=True)
        #: A video of the world with each set of tags, (G,), and which sets share a tag, (G, G).
        self._example = users.video_id[first]
        bits = self._world.tag_bits(self._example)
        self._shares = ((bits[:, None] & bits) > 0).astype(np.float64)
        self._low, self._high = self._range()
        self._tables: dict[Page, np.ndarray] = {}

    def score_all(self, states: np.ndarray, user_id: np.ndarray) -> np.ndarray:
        """True expected rewards (B, N)."""
        situation = self._users.read(states)
        if self._exact:
            return self._ask_everything(user_id, situation)
        pages = [TABS[tab].page for tab in situation.tab]
        place = (self._of_sets(user_id, states, situation.tab) - self._low) / STEP  # (B, G)
        below = place.astype(np.int64)
        share = (place - below).astype(np.float32)
        scores = np.empty((len(states), self.num_videos), dtype=np.float32)
        column = np.arange(self.num_videos)
        for row, page in enumerate(pages):
            table = self._table(Page(page))
            point = below[row, self._set]
            low = table[point, column]
            scores[row] = low + share[row, self._set] * (table[point + 1, column] - low)
        return scores

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """True expected reward (B,) of one video each."""
        reward = self._ask(user_id, self._users.video_id[videos], self._users.read(states))
        return reward.astype(np.float32)

    def _ask(self, user_id: np.ndarray, video_id: np.ndarray, situation: Situation) -> np.ndarray:
        """True expected reward of pairs, (B,)."""
        return self._reward(self._world.response(user_id, video_id, *situation))

    def _reward(self, expected: dict[str, np.ndarray]) -> np.ndarray:
        parts = (weight * expected[name] for name, weight in self._weight.items() if weight)
        return np.sum(list(parts), axis=0)

    def _ask_everything(self, user_id: np.ndarray, situation: Situation) -> np.ndarray:
        """The same of every video, (B, N)."""
        rewards = np.empty((len(user_id), self.num_videos), dtype=np.float32)
        size = max(1, _PAIRS // self.num_videos)
        for first in range(0, len(user_id), size):
            row = np.repeat(np.arange(first, min(first + size, len(user_id))), self.num_videos)
            videos = np.tile(self._users.video_id, len(row) // self.num_videos)
            found = self._ask(user_id[row], videos, Situation(*(part[row] for part in situation)))
            rewards[first : first + size] = found.reshape(-1, self.num_videos)
        return rewards

    def _of_sets(self, user_id: np.ndarray, states: np.ndarray, tab: np.ndarray) -> np.ndarray:
        """Utility of every set of tags without a video's quality, (B, G)."""
        world, config, count = self._world, self._world.config, len(self._example)
        video = self._example[None]
        plain = world.plain_utility(user_id[:, None], video) - world.quality[video]
        parts = self._users.layout.unpack(states)
        recent = slice(config.history_window)
        clicks = parts.feedback[:, recent, BINARY_SIGNALS.index("click")]
        gained = world.history_weight * (config.habit * (clicks > 0) - config.satiation)
        gained = np.where(parts.present[:, recent], gained, 0.0)  # as in ``drivers``
        # (B, H) events -> (B, G), summed by their sets
        place = np.arange(len(states))[:, None] * count + self._set[parts.video_index[:, recent]]
        by_set = np.bincount(place.ravel(), gained.ravel(), len(states) * count)
        offset = np.array([TABS[number].offset for number in tab])
        return plain + by_set.reshape(-1, count) @ self._shares + offset[:, None]

    def _range(self) -> tuple[float, float]:
        """Bounds of the utility without a video's quality, over all users and histories."""
        world, config = self._world, self._world.config
        offsets = [tab.offset for tab in TABS]
        # The weights of the history sum to 1, and what it adds is between these.
        history = (0.0, -config.satiation, config.habit - config.satiation)
        ends = []
        for end in (np.min, np.max):
            taste = end(world.taste, axis=0)[world.set_tags].sum(axis=1)
            ends.append(config.base + end(world.level) + end(taste) + end(offsets) + end(history))
        return float(ends[0]), float(ends[1])

    def _table(self, page: Page) -> np.ndarray:
        """Reward of every video at utilities ``_low`` + i ``STEP`` of its set, (X, N) float32."""
        if page not in self._tables:
            world, video = self._world, self._users.video_id
            tab = next(number for number, tab in enumerate(TABS) if tab.page == page)
            points = self._low + STEP * np.arange(int((self._high - self._low) / STEP) + 2)
            table = np.empty((len(points), len(video)), dtype=np.float32)
            nobody = np.zeros(len(video), dtype=np.int64)  # without reactions, all users are alike
            plain = world.plain_utility(nobody, video) + TABS[tab].offset
            tabs = np.full(len(video), tab)
            for place, point in enumerate(points):
                history = point + world.quality[video] - plain
                answers = world.answers_to(nobody, video, tabs, history)
                table[place] = self._reward(world.expected(answers))
            self._tables[page] = table
        return self._tables[page]
