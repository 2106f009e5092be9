"""IQL's other policy: the actor proposes videos, and the critic ranks them."""

from __future__ import annotations

import numpy as np
import torch

from noetik_rllib.evaluation.policies import ActorPolicy, check_finite
from noetik_rllib.iql import losses
from noetik_rllib.iql.networks import IQLNetworks

NAME = "iql_ranked"
#: Videos that the actor proposes. With 200 instead, values on the synthetic Pure world were equal
#: to three digits: beyond the first 50, the actor's doubt outweighs any Q.
CANDIDATES = 50
#: Pairs of state and proposal that pass through the critic at a time: 80 MB of what it reads.
_PAIRS = 51_200


class CriticRankedPolicy:
    r"""Shows, of the actor's first videos, the one of the highest :math:`\log \pi + \beta \hat Q`.

    Where weighted cloning has reached what it aims at, :math:`\pi = \mu\, e^{\beta A}`, this is the
    policy of twice that :math:`\beta`: as good as the critic, and greedier than the run's own. It
    costs no row of the log, of which a larger :math:`\beta` in training leaves few with weight. As
    IDQL (Hansen-Estruch et al. 2023, arXiv 2304.10573) does with samples of :math:`\mu`, it leaves
    the proposing to what has seen the log, and asks the critic about those videos alone.

    ``score`` ranks any video, proposed or not.

    Args:
        networks: of a run.
        beta: inverse temperature, in units of the training reward.
        actor: the run's own policy, whose embedded catalogue serves both.
    """

    def __init__(self, networks: IQLNetworks, beta: float, actor: ActorPolicy) -> None:
        self.name = NAME
        self._actor = actor
        self._beta = beta
        self._features = networks.features
        self._device = networks.features.numeric.device
        self._num_videos = networks.config.num_videos
        self._q = networks.q.eval()
        self._signs = torch.tensor(networks.reward.signs, device=self._device)

    def recommend(self, states: np.ndarray, user_id: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """Choose the video of the highest score that was not shown; see ``Policy``."""
        return self._best(states, 1, shown)[:, 0]

    def top_k(self, states: np.ndarray, user_id: np.ndarray, k: int) -> np.ndarray:
        """Return the k proposals of the highest scores; see ``Policy``."""
        return self._best(states, k, None)

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """Logit + beta Q, (B,), of one video each; see ``Policy``."""
        logits = self._actor.score(states, user_id, videos)
        return self._scores(states, videos[:, None], logits[:, None])[:, 0]

    def _best(self, states: np.ndarray, k: int, shown: np.ndarray | None) -> np.ndarray:
        """Videos (B, k) of the highest scores among those proposed, without ``shown`` (B, t)."""
        left = self._num_videos - (0 if shown is None else shown.shape[1])
        proposed, logits = self._actor.best(states, max(k, min(CANDIDATES, left)), shown)
        order = np.argsort(-self._scores(states, proposed, logits), axis=1, kind="stable")
        return np.take_along_axis(proposed, order[:, :k], axis=1)

    def _scores(self, states: np.ndarray, videos: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Logit + beta x the smaller critic's total Q, of C videos in each state; all (B, C)."""
        scores = np.empty(videos.shape, dtype=np.float32)
        size = max(1, _PAIRS // max(videos.shape[1], CANDIDATES))
        for first in range(0, len(states), size):
            rows = slice(first, first + size)
            scores[rows] = logits[rows] + self._beta * self._values(states[rows], videos[rows])
        check_finite(self.name, scores)
        return scores

    @torch.no_grad()
    def _values(self, states: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """Total Q of the smaller critic (B, C); a state is encoded once for all of its videos."""
        flat = torch.from_numpy(np.require(states, np.float32, "W")).to(self._device)
        summary = self._q.encoder(self._features, flat)
        many = summary.repeat_interleave(videos.shape[1], dim=0)
        index = torch.as_tensor(videos, device=self._device).reshape(-1)
        q = self._q.from_summary(self._features, many, index)  # (2, B C, S)
        total = losses.total(losses.smaller_q(q, self._signs), self._signs)
        return total.view(videos.shape).cpu().numpy()
