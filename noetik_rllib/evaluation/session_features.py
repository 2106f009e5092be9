"""Features of a state, a video and what a policy would show next, in which Q is taken as linear.

Shapes: B rows, H events of a history, N videos, L videos of a policy's list, p features.
"""

from __future__ import annotations

import numpy as np

from noetik_rllib.data.signals import BINARY_SIGNALS
from noetik_rllib.envs.dynamics import Satiation
from noetik_rllib.envs.response_model import ResponseModel
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.state import RATES, WATCH_RATIO

#: Signals whose expectation describes what is ahead and how exposure selects: those that occur.
_FREQUENT = 3  # click, watch ratio, long view: the first of SIGNALS
_CLICK_BIT = BINARY_SIGNALS.index("click")
#: Rows at a time: the tags of 8,192 histories of 16 are some MB.
CHUNK = 8_192


class SessionFeatures:
    """Features (B, p) of pairs under a policy.

    They are, with all expectations those of a response model fitted on other rows:

    - of the pair: the last hidden layer of the model, the expected signals, and the weighted shares
      of the history that have a tag of the video, and have one and were clicked (what satiation
      and habit follow);
    - of the state: the user's rates of all signals, shares of clicks and mean watch ratio of the
      history;
    - of what the policy has in store: means over some videos of its list for the state of the
      frequent signals' expectations and of both tag shares; the share of the list that has a tag
      of the video, alone and times the expected click. Q of a session is mostly what these videos
      will bring, which the pair alone does not tell;
    - for rows whose video the logging policy chose: an intercept, the frequent expectations and
      both tag shares once more. Being chosen by a policy that knows users better than their states
      do is a sign of liking; a policy evaluated here has no such knowledge, so these are 0 for
      what it chooses. Only uniformly exposed rows tell the two apart.

    Args:
        model: fitted on rows of other users, or of an earlier time.
        dataset: whose catalogue the videos are of.
        selection: whether the last group is there: there are uniformly exposed rows.
    """

    def __init__(self, model: ResponseModel, dataset: OfflineDataset, *, selection: bool) -> None:
        self._model = model
        self._layout = dataset.layout
        self._selection = selection
        self._bits = _tag_bits(dataset.catalog.tags)
        weight = Satiation().decay ** np.arange(self._layout.history_length)
        self._weight = (weight / weight.sum()).astype(np.float32)

    def of(
        self,
        states: np.ndarray,
        user_id: np.ndarray,
        videos: np.ndarray,
        ahead: np.ndarray,
        chosen: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return features (B, p) float32, the first of them 1.

        Args:
            states: (B, state size).
            user_id: whose, (B,).
            videos: one per state, (B,).
            ahead: of ``ahead``, (B, 5 + L).
            chosen: whether the logging policy chose the video, (B,) bool; False if not given.
        """
        parts = [
            self._of(states[rows], user_id[rows], videos[rows], ahead[rows], chosen, rows)
            for rows in _chunks(len(states))
        ]
        return np.concatenate(parts)

    def ahead(self, states: np.ndarray, user_id: np.ndarray, lists: np.ndarray) -> np.ndarray:
        """Describe what a policy has in store in each state, (B, 5 + L) float32.

        Args:
            states: (B, state size).
            user_id: whose, (B,).
            lists: videos that the policy would show, best first, (B, L).
        """
        places = np.unique(np.linspace(0, lists.shape[1] - 1, _LOOKED_AT).round().astype(int))
        result = np.zeros((len(states), _FREQUENT + 2 + lists.shape[1]), dtype=np.float32)
        result[:, _FREQUENT + 2 :] = lists  # exact up to 2^24 videos, as in a state
        for place in places:
            videos = lists[:, place]
            expected = self._model.predict(states, videos, user_id)
            result[:, :_FREQUENT] += expected[:, :_FREQUENT] / len(places)
            for rows in _chunks(len(states)):
                shares = self._tag_shares(states[rows], videos[rows])
                result[rows, _FREQUENT : _FREQUENT + 2] += shares / len(places)
        return result

    def _of(
        self,
        states: np.ndarray,
        user_id: np.ndarray,
        videos: np.ndarray,
        ahead: np.ndarray,
        chosen: np.ndarray | None,
        rows: slice,
    ) -> np.ndarray:
        distribution, hidden = self._model.describe(states, videos, user_id)
        expected = distribution.expected
        shares = self._tag_shares(states, videos)
        parts = self._layout.unpack(states)
        count = parts.present.sum(axis=1, keepdims=True) + 1.0
        clicks = (parts.feedback[..., _CLICK_BIT] * parts.present).sum(axis=1, keepdims=True)
        watched = parts.events[..., WATCH_RATIO].sum(axis=1, keepdims=True)
        listed = ahead[:, _FREQUENT + 2 :].astype(np.int64)
        alike = (self._bits[listed] & self._bits[videos][:, None]).any(-1).mean(1, keepdims=True)
        features = [
            np.ones((len(states), 1)),
            hidden,
            expected,
            shares,
            parts.context[:, RATES],
            clicks / count,
            watched / count,
            ahead[:, : _FREQUENT + 2],
            alike,
            alike * expected[:, :1],
        ]
        if self._selection:
            known = np.zeros(len(states)) if chosen is None else chosen[rows]
            selected = np.column_stack([np.ones(len(states)), expected[:, :_FREQUENT], shares])
            features.append(selected * known[:, None])
        return np.concatenate(features, axis=1).astype(np.float32)

    def _tag_shares(self, states: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """Weighted shares of the history that share a tag with the video, all and clicked, (B, 2)."""
        parts = self._layout.unpack(states)
        past = self._bits[np.maximum(parts.video_index, 0)]  # (B, H, W)
        same = (past & self._bits[videos][:, None]).any(-1) & parts.present
        clicked = same * parts.feedback[..., _CLICK_BIT]
        return np.column_stack([same @ self._weight, clicked @ self._weight]).astype(np.float32)


#: Videos of a list that are looked at, evenly spaced: each costs a pass of the model.
_LOOKED_AT = 3


def _tag_bits(tags: np.ndarray) -> np.ndarray:
    """Tags of videos as bits, (N, words) uint64, from (N, tags), -1 padded."""
    known = np.unique(tags[tags >= 0])
    bits = np.zeros((len(tags), len(known) // 64 + 1), dtype=np.uint64)
    for column in tags.T:
        video = np.flatnonzero(column >= 0)
        place = np.searchsorted(known, column[video])
        bits[video, place // 64] |= np.uint64(1) << (place % 64).astype(np.uint64)
    return bits


def _chunks(count: int) -> list[slice]:
    return [slice(first, first + CHUNK) for first in range(0, count, CHUNK)]
