"""Features of a state, a video and what a policy has in store, in which Q is taken as linear.

Shapes: B rows, H steps of a session, N videos, p features of a pair, q of what is ahead. A history
has E events, a list of the policy H videos.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from noetik_rllib.data.signals import BINARY_SIGNALS, SIGNALS
from noetik_rllib.envs.dynamics import Satiation
from noetik_rllib.envs.response_model import ResponseModel
from noetik_rllib.evaluation.logged_rows import logged_rows
from noetik_rllib.evaluation.past_answers import PastAnswers
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.state import (
    CONTEXT_NAMES,
    FEEDBACK,
    RATES,
    TABS,
    WATCH_RATIO,
    StateParts,
)

_CLICK_BIT = BINARY_SIGNALS.index("click")
_FIRST_TAB = CONTEXT_NAMES.index("tab_0")
_TAB_SLICE = slice(_FIRST_TAB, _FIRST_TAB + TABS)
#: Rows before the split that expected answers are fitted on, half of them uniform where there are.
_PAST_ROWS = 200_000
#: Rows' worth by which that fit is drawn towards the model's expectations.
_RIDGE = 10.0
#: Rows at a time: the tags of 8,192 histories of 16 are some MB.
CHUNK = 8_192


@dataclass(frozen=True)
class Prospect:
    """What a policy has in store in B states, and what is expected of it there.

    ``listed`` (B, H): the videos that it would show, best first. ``expected`` (B, H, 9): their
    signals. ``shares`` (B, H, 2): weighted shares of the history with a tag of each, all and
    clicked. ``after`` (B, H, H): 1 where a video comes after another that shares a tag with it.
    """

    listed: np.ndarray
    expected: np.ndarray
    shares: np.ndarray
    after: np.ndarray


class SessionFeatures:
    """Features of pairs and of what comes after them, from what is known before the split.

    Of a pair: what a user model expects, and corrections of it, each times the slope of the
    probability of a click in its log-odds, so that they fade where little can change: the model's
    last hidden layer, what the history says of the video's tags, and what is known of user and
    video from before (``PastAnswers``). And of the state, the user's rates of all signals, the tab,
    the clicks and the watch ratio of the history.

    Being chosen by a policy that knows users better than their states do is a sign of liking; a
    policy evaluated here has no such knowledge. So the model is told which rows were (``uniform``),
    and these have the corrections once more. Only uniformly exposed rows tell the two apart.

    What is expected of a video in the end is fitted on these features, by ridge from the model's
    expectations, on rows before the split. Of what is ahead, see ``ahead``.

    Args:
        model: user model.
        dataset: whose catalogue the videos are of, and whose rows before the split are read.
        steps: of a session, H.
        selection: whether there are uniformly exposed rows.
    """

    def __init__(
        self, model: ResponseModel, dataset: OfflineDataset, steps: int, *, selection: bool
    ) -> None:
        self.steps = steps
        self._model = model
        self._layout = dataset.layout
        self._selection = selection
        self._past = PastAnswers(dataset)
        self._bits = _tag_bits(dataset.catalog.tags)
        weight = Satiation().decay ** np.arange(self._layout.history_length)
        self._weight = (weight / weight.sum()).astype(np.float32)
        self._answers = self._fit_answers(dataset)

    def pairs(
        self,
        states: np.ndarray,
        user_id: np.ndarray,
        videos: np.ndarray,
        chosen: np.ndarray | None = None,
        own: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return features (B, p) float32 of pairs, the first of them 1.

        Args:
            states: (B, state size).
            user_id: whose, (B,).
            videos: one per state, (B,).
            chosen: whether the logging policy chose the video, (B,) bool; False if not given.
            own: of rows before the split, the answers, (B,); see ``PastAnswers.of``.
        """
        if chosen is None:
            chosen = np.zeros(len(states), dtype=bool)
        result = []
        for rows in chunks(len(states)):
            told = ~chosen[rows] if self._selection else True
            distribution, hidden = self._model.describe(
                states[rows], videos[rows], user_id[rows], uniform=told
            )
            known = None if own is None else (own[rows], chosen[rows])
            traits = self._traits(states[rows], user_id[rows], videos[rows, None], known)
            expected = distribution.expected[:, None]
            features = self._assembled(
                states[rows], traits, expected, hidden[:, None], chosen[rows]
            )
            result.append(features[:, 0])
        return np.concatenate(result)

    def prospect(self, states: np.ndarray, user_id: np.ndarray, listed: np.ndarray) -> Prospect:
        """Describe what a policy's lists (B, H) would bring in states (B, state size)."""
        expected = np.empty((*listed.shape, len(SIGNALS)), dtype=np.float32)
        shares = np.empty((*listed.shape, 2), dtype=np.float32)
        after = np.empty((*listed.shape, listed.shape[1]), dtype=np.float32)
        nobody = np.zeros(len(states), dtype=bool)
        for rows in chunks(len(states), CHUNK // listed.shape[1]):
            described = self._model.describe_lists(states[rows], listed[rows], user_id[rows])
            traits = self._traits(states[rows], user_id[rows], listed[rows], None)
            features = self._assembled(states[rows], traits, *described, nobody[rows])
            expected[rows] = features @ self._answers
            shares[rows] = traits[..., :2]
            bits = self._bits[listed[rows]]
            after[rows] = np.tril(_alike(bits[:, :, None], bits[:, None]), -1)
        return Prospect(listed, expected, shares, after)

    def ahead(
        self,
        prospect: Prospect,
        clicks: np.ndarray,
        videos: np.ndarray,
        newest: np.ndarray,
        chosen: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return features (B, q) float32 of what is ahead of a video at a step of a session.

        Still ahead are, of the policy's list, the best that are neither the video nor among the
        session's videos, as many as the session has steps left. Were the user to stay as they are,
        Q would be the sum of their expectations. So the features are these sums, and how the
        answers before may change them: over the videos ahead, the slope of their probability of a
        click times the history's shares of their tags, and times the number of videos before them,
        this one among them, that have one of their tags, and of the clicks expected on those.

        Args:
            prospect: of the states.
            clicks: expected click of the video, (B,).
            videos: one per state, (B,).
            newest: videos that the session has shown before it, (B, t): it is step t, from 0.
            chosen: whether the logging policy chose the video, (B,) bool; False if not given. The
                answer to such a one raises what is expected of those ahead.
        """
        listed = prospect.listed
        left = self.steps - 1 - newest.shape[1]
        free = listed != videos[:, None]
        for column in newest.T:
            free &= listed != column[:, None]
        there = (free & (np.cumsum(free, axis=1) <= left)).astype(np.float32)  # (B, H)
        click = prospect.expected[..., 0]
        slope = there * _slope(click)
        alike = _alike(self._bits[listed], self._bits[videos][:, None]).astype(np.float32)
        # (B, H, H) @ (B, H, 2) -> (B, H, 2): of those before it, the video itself among them.
        before = prospect.after @ np.stack([there, there * click], axis=-1)
        before += alike[..., None] * np.stack([np.ones_like(clicks), clicks], axis=-1)[:, None]
        sums = [
            (there[..., None] * prospect.expected).sum(axis=1),
            (slope[..., None] * prospect.shares).sum(axis=1),
            (slope[..., None] * before).sum(axis=1),
        ]
        if self._selection:
            told = np.zeros(len(listed)) if chosen is None else chosen
            sums += [told * slope.sum(axis=1), told * (there * click).sum(axis=1)]
        return np.column_stack(sums).astype(np.float32)

    def prior(self, q: int) -> np.ndarray:
        """Return the coefficients (p + q, 9) of a Q that is what is expected of a user who stays as
        they are: of the video, plus of those ahead.
        """
        ahead = np.zeros((q, len(SIGNALS)))
        ahead[: len(SIGNALS)] = np.eye(len(SIGNALS))
        return np.concatenate([self._answers, ahead])

    @property
    def click_column(self) -> int:
        """Column of ``pairs`` that holds the expected click."""
        return 1 + self._model.config.hidden_size

    def _traits(
        self,
        states: np.ndarray,
        user_id: np.ndarray,
        videos: np.ndarray,
        own: tuple[np.ndarray, np.ndarray] | None,
    ) -> np.ndarray:
        """What is known of pairs beside the model's expectation, (B, L, 11) float32.

        Of the history: the weighted shares of events with a tag of the video, all and clicked;
        how many there are, as n / (n + 2), with the clicks among them beyond the user's rate over
        n + 2, and whether one was clicked, and all of them not. Then ``PastAnswers``.

        Args:
            states: (B, state size).
            user_id: whose, (B,).
            videos: (B, L).
            own: see ``PastAnswers.of``.
        """
        parts = self._layout.unpack(states)
        past = self._bits[np.maximum(parts.video_index, 0)][:, None]  # (B, 1, E, words)
        same = _alike(past, self._bits[videos][:, :, None]) & parts.present[:, None]
        click = _clicked(parts)
        same = same.astype(np.float32)  # (B, L, E)
        clicked = same * click[:, None]
        count, clicks = same.sum(-1), clicked.sum(-1)  # (B, L)
        rate = parts.context[:, RATES][:, :1]
        of_history = np.stack(
            [
                same @ self._weight,
                clicked @ self._weight,
                count / (count + 2),
                (clicks - rate * count) / (count + 2),
                clicks > 0,
                (count > 0) & (clicks == 0),
            ],
            axis=-1,
        )
        return np.concatenate([of_history, self._past.of(user_id, videos, own)], axis=-1).astype(
            np.float32
        )

    def _assembled(
        self,
        states: np.ndarray,
        traits: np.ndarray,
        expected: np.ndarray,
        hidden: np.ndarray,
        chosen: np.ndarray,
    ) -> np.ndarray:
        """Features (B, L, p) of lists of L videos.

        Args:
            states: (B, state size).
            traits: of ``_traits``, (B, L, 11).
            expected: signals that the model expects, (B, L, 9).
            hidden: its last hidden layer, (B, L, hidden).
            chosen: whether the logging policy chose the videos, (B,).
        """
        parts = self._layout.unpack(states)
        count = parts.present.sum(axis=1, keepdims=True) + 1.0
        clicks = (_clicked(parts) * parts.present).sum(axis=1, keepdims=True)
        watched = parts.events[..., WATCH_RATIO].sum(axis=1, keepdims=True)
        context = parts.context
        state = np.column_stack(
            [context[:, RATES], context[:, _TAB_SLICE], clicks / count, watched / count]
        )
        lists = traits.shape[:2]
        slope, ones = _slope(expected[..., :1]), np.ones((*lists, 1))
        features = [
            ones,
            slope * hidden,
            expected,
            slope * traits,
            np.broadcast_to(state[:, None], (*lists, state.shape[1])),
        ]
        if self._selection:
            told = slope * chosen[:, None, None]
            features.append(told * np.concatenate([ones, traits], axis=-1))
        return np.concatenate(features, axis=-1).astype(np.float32)

    def _fit_answers(self, dataset: OfflineDataset) -> np.ndarray:
        """Coefficients (p, 9) of the signals, drawn towards the model's expectations."""
        rows = _past_rows(dataset, selection=self._selection)
        signals = np.stack([rows[name] for name in SIGNALS], axis=1).astype(np.float64)
        own = 0.5 * (rows["click"] + rows["watch_ratio"])
        features = self.pairs(
            rows["obs"], rows["user_id"], rows["actions"].astype(np.int64), rows["chosen"], own
        ).astype(np.float64)
        size = features.shape[1]
        model = np.zeros((size, len(SIGNALS)))
        model[self.click_column + np.arange(len(SIGNALS)), np.arange(len(SIGNALS))] = 1.0
        penalty = _RIDGE * np.eye(size)
        sums = features.T @ signals + penalty @ model
        return np.asarray(np.linalg.solve(features.T @ features + penalty, sums))


def chunks(count: int, size: int = CHUNK) -> list[slice]:
    """Cut ``count`` rows into slices of ``size``."""
    return [slice(first, first + size) for first in range(0, count, size)]


def _past_rows(dataset: OfflineDataset, *, selection: bool) -> dict[str, np.ndarray]:
    """Read rows before the split, some of all times: standard ones and, with ``selection``, as many
    uniform ones.
    """
    columns = ("user_id", "time_ms", "obs", "actions", "propensity", *SIGNALS)
    sizes = {name: part.rows for name, part in dataset.manifest.parts.items()}
    standard = sizes["train"] + sizes["judge"]
    parts = {"train": standard, "judge": standard}
    if selection and sizes["random"]:
        parts["random"] = sizes["random"]
    found: list[dict[str, np.ndarray]] = []
    for part, total in parts.items():
        step = max(1.0, total / (_PAST_ROWS // 2))
        for rows in logged_rows(dataset, part, columns):
            row = np.arange(len(rows["actions"]))
            kept = dataset.before_split(rows["user_id"], rows["time_ms"])
            kept &= np.floor(row / step) != np.floor((row - 1) / step)  # every step-th
            found.append({name: values[kept] for name, values in rows.items()})
    merged = {name: np.concatenate([rows[name] for rows in found]) for name in columns}
    # Training may have random exposures too (--random-in-train): their propensity is known.
    merged["chosen"] = np.isnan(merged["propensity"])
    return merged


def _slope(click: np.ndarray) -> np.ndarray:
    """How far a probability of a click moves with its log-odds, of any shape; 1 at a half."""
    return np.asarray(4 * click * (1 - click))


def _clicked(parts: StateParts[np.ndarray]) -> np.ndarray:
    """Whether each event was clicked, (B, E) of 0.0 or 1.0: ``feedback`` unpacks all signals."""
    return np.asarray(np.floor(parts.events[..., FEEDBACK] / 2.0**_CLICK_BIT) % 2)


def _alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether two sets of tags (..., words) have one in common, (...) bool."""
    common = (one[..., 0] & other[..., 0]) != 0
    for word in range(1, one.shape[-1]):
        common |= (one[..., word] & other[..., word]) != 0
    return np.asarray(common)


def _tag_bits(tags: np.ndarray) -> np.ndarray:
    """Tags of videos as bits, (N, words) uint64, from (N, tags), -1 padded."""
    known = np.unique(tags[tags >= 0])
    bits = np.zeros((len(tags), len(known) // 64 + 1), dtype=np.uint64)
    for column in tags.T:
        video = np.flatnonzero(column >= 0)
        place = np.searchsorted(known, column[video])
        bits[video, place // 64] |= np.uint64(1) << (place % 64).astype(np.uint64)
    return bits
