"""IQL's other policy: the actor proposes videos, and the critic ranks them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from noetik_rllib.evaluation.policies import ActorPolicy, actor_chunks
from noetik_rllib.iql import losses
from noetik_rllib.iql.networks import IQLNetworks

NAME = "iql_ranked"
#: Videos that the actor proposes. With 200 instead, values on the synthetic Pure world were equal
#: to three digits: beyond the first 50, the actor's doubt outweighs any Q.
CANDIDATES = 50
#: Pairs of state and proposal that pass through the critic at a time: 80 MB of what it reads.
_PAIRS = 51_200


class CriticRankedPolicy(ActorPolicy):
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
        self._share(actor, NAME)
        self._q = networks.q.eval()
        self._beta = beta
        self._signs = torch.tensor(networks.reward.signs, device=self._device)

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """Logit + beta Q, (B,), of one video each; see ``Policy``."""
        scores = super().score(states, user_id, videos)
        for rows in actor_chunks(len(states)):
            index = torch.as_tensor(videos[rows], device=self._device)[:, None]
            scores[rows] += self._beta * self._values(states[rows], index)[:, 0].cpu().numpy()
        self._check(scores)
        return scores

    def _best(self, states: np.ndarray, k: int, shown: np.ndarray | None) -> np.ndarray:
        """Videos (B, k) of the highest scores among those proposed, without ``shown`` (B, t)."""
        left = len(self._catalogue.biases) - (0 if shown is None else shown.shape[1])
        count = max(k, min(CANDIDATES, left))
        proposed = super()._best(states, count, shown)
        best = np.empty((len(states), k), dtype=np.int64)
        size = max(1, _PAIRS // count)
        for first in range(0, len(states), size):
            rows = slice(first, first + size)
            index = torch.as_tensor(proposed[rows], device=self._device)
            scores = self._logits(states[rows], index)
            scores += self._beta * self._values(states[rows], index)
            self._check(scores.cpu().numpy())
            order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
            best[rows] = index.gather(1, order).cpu().numpy()
        return best

    def _logits(self, states: np.ndarray, index: Tensor) -> Tensor:
        """Logits (B, C) of C videos per state."""
        query = self._query(states)
        videos, biases = self._catalogue.videos[index], self._catalogue.biases[index]
        # (B, 1, D) @ (B, D, C) -> (B, C)
        return (query[:, None] @ videos.transpose(1, 2))[:, 0] + biases

    @torch.no_grad()
    def _values(self, states: np.ndarray, index: Tensor) -> Tensor:
        """The smaller critic's total Q (B, C) of C videos per state."""
        summary = self._q.encoder(self._features, self._tensor(states))
        many = summary.repeat_interleave(index.shape[1], dim=0)
        q = self._q.from_summary(self._features, many, index.reshape(-1))  # (2, B C, S)
        return losses.total(losses.smaller_q(q, self._signs), self._signs).view(index.shape)
