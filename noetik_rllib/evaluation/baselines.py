"""Baselines without reinforcement learning: greedy on a user model, the best cycle of six videos,
and the videos of the best logged reward.

The user model is the training simulator's. All are made from ``train`` alone: neither the judge's
users nor the test part are ever looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.envs.response_fit import fit_response_model
from noetik_rllib.envs.response_model import FORMAT_VERSION, FitRecord, ResponseModel
from noetik_rllib.envs.response_network import ResponseConfig, make_network
from noetik_rllib.envs.simulator import Simulator
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.envs.threads import one_thread
from noetik_rllib.evaluation.baseline_cache import USER_MODEL, Kept, kept
from noetik_rllib.evaluation.policies import FixedPolicy, ScoringPolicy
from noetik_rllib.evaluation.sessions import SessionStarts, run_sessions
from noetik_rllib.iql.retrieval import top_of_chunk
from noetik_rllib.offline.dataset import OfflineDataset

Progress = Callable[[float], None]

#: Raised when the same settings no longer give the same baselines: older ones are then ignored.
CACHE_VERSION = 1
#: The same for what is searched for in simulated sessions.
SEARCH_VERSION = 2
#: Sessions of training users in which the greedy policy's candidates are found, and how many of the
#: best of each of their states become candidates. On a world of KuaiRand-Pure's size these are 181
#: of 7,583 videos, and 3,000 states of new users had no better one.
CANDIDATE_SESSIONS, CANDIDATE_DEPTH = 200, 64
#: Rows with the mean of all that each video's logged reward is drawn towards.
PRIOR_ROWS = 50.0
#: Videos of the cycle: published policies on KuaiRand show as few as six to 100 users.
CYCLE = 6
#: Sessions of training users that cycles are judged by: differences of 0.01 reward show.
CYCLE_SESSIONS = 400
#: Videos that a cycle is built of, the best on average at the start of a session; greedily built
#: cycles, one from each of the first of them; and videos that each place of the best is tried with.
CYCLE_VIDEOS, CYCLE_BEGINNINGS, CYCLE_CHANGES = 100, 10, 20


class GreedyPolicy(ScoringPolicy):
    """Shows what a response model expects to bring the most reward at once.

    Args:
        model: whose expectations.
        weights: of the signals in the reward.
        candidates: the only videos that it recommends, (P,) int64; all where not given.
        name: what results call it.
    """

    def __init__(
        self,
        model: ResponseModel,
        weights: RewardWeights,
        candidates: np.ndarray | None = None,
        name: str = "greedy",
    ) -> None:
        super().__init__(name, model.num_videos)
        self.model = model
        self.weights = weights
        self.candidates = np.arange(model.num_videos) if candidates is None else candidates
        #: Place of each video among the candidates; behind them for all others.
        self._place = np.full(model.num_videos, len(self.candidates))
        self._place[self.candidates] = np.arange(len(self.candidates))

    def score_all(self, states: np.ndarray, user_id: np.ndarray) -> np.ndarray:
        """Expected rewards (B, N)."""
        with one_thread():
            return self.model.reward_matrix(states, self.weights, user_id)

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """Expected reward (B,) of one video each."""
        with one_thread():
            signals = self.model.predict(states, videos, user_id)
        return (signals @ self.weights.as_array()).astype(np.float32)

    def recommend(self, states: np.ndarray, user_id: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """Choose the best candidate that was not shown; see ``Policy``."""
        best = np.empty(len(states), dtype=np.int64)
        for rows in self._chunks(len(states)):
            scores = self._of_candidates(states[rows], user_id[rows])
            # One column more, for what was shown and is no candidate.
            scores = np.pad(scores, ((0, 0), (0, 1)), constant_values=-np.inf)
            np.put_along_axis(scores, self._place[shown[rows]], -np.inf, axis=1)
            best[rows] = self.candidates[scores.argmax(axis=1)]
        return best

    def top_k(self, states: np.ndarray, user_id: np.ndarray, k: int) -> np.ndarray:
        """Return the k best candidates, or of all videos where k is more; see ``Policy``."""
        if k > len(self.candidates):
            return super().top_k(states, user_id, k)
        best = np.empty((len(states), k), dtype=np.int64)
        for rows in self._chunks(len(states)):
            scores = torch.from_numpy(self._of_candidates(states[rows], user_id[rows]))
            best[rows] = self.candidates[top_of_chunk(scores, k)[1].numpy()]
        return best

    def _of_candidates(self, states: np.ndarray, user_id: np.ndarray) -> np.ndarray:
        """Expected rewards (B, P)."""
        with one_thread():
            return self.model.reward_matrix(states, self.weights, user_id, self.candidates)


class NoisyPolicy(ScoringPolicy):
    """A policy made worse by noise, so that there are policies of any quality to rank.

    Args:
        name: what results call it.
        policy: whose scores.
        noise: scale of the Gumbel noise that is added to them.
        seed: of the noise: same seed, same calls, same scores.
    """

    def __init__(self, name: str, policy: ScoringPolicy, noise: float, seed: int = 0) -> None:
        super().__init__(name, policy.num_videos)
        self._policy = policy
        self._noise = noise
        self._rng = np.random.default_rng(seed)

    def score_all(self, states: np.ndarray, user_id: np.ndarray) -> np.ndarray:
        """Scores with noise (B, N)."""
        scores = self._policy.score_all(states, user_id)
        scores += self._noise * self._rng.gumbel(size=scores.shape).astype(np.float32)
        return scores


class CyclePolicy(FixedPolicy):
    """The same few videos in turn, for everybody, again and again.

    Args:
        videos: in the order in which they are shown, (C,) int64.
        scores: of all videos, (N,): in what order the others would follow.
        name: what results call it.
    """

    def __init__(self, videos: np.ndarray, scores: np.ndarray, name: str = "best_cycle") -> None:
        ranks = scores.copy()
        ranks[videos] = scores.max() + np.arange(len(videos), 0, -1)
        super().__init__(name, ranks)
        self.videos = videos

    def recommend(self, states: np.ndarray, user_id: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """The next video of the cycle, (B,)."""
        return np.full(len(states), self.videos[shown.shape[1] % len(self.videos)])


def logged_reward(dataset: OfflineDataset, weights: RewardWeights) -> np.ndarray:
    """Mean logged reward of each video in ``train``, (N,), drawn towards the mean of all.

    As if each had ``PRIOR_ROWS`` more rows with the mean of all: without, the best are videos that
    were shown a few times.
    """
    used = [name for name in SIGNALS if getattr(weights, name)]
    rows = dataset.load("train", ("actions", *used))
    reward = np.sum([getattr(weights, name) * rows[name] for name in used], axis=0)
    count = dataset.manifest.num_videos
    total = np.bincount(rows["actions"], weights=reward, minlength=count)
    shown = np.bincount(rows["actions"], minlength=count)
    return np.asarray((total + PRIOR_ROWS * reward.mean()) / (shown + PRIOR_ROWS))


def best_rewarded(dataset: OfflineDataset, weights: RewardWeights) -> FixedPolicy:
    """The same videos for everybody: those of the highest ``logged_reward``."""
    return FixedPolicy("best_rewarded", logged_reward(dataset, weights))


def user_model(
    dataset: OfflineDataset, run_directory: Path, seed: int = 0, progress: Progress | None = None
) -> ResponseModel:
    """Return the response model fitted on ``train``, as the training simulator has it.

    Args:
        dataset: dataset of the run.
        run_directory: folder of the run, where it is kept (``baseline_cache``).
        seed: of the fit.
        progress: called with the share that is done, 0 to 1.
    """
    progress = progress or (lambda share: None)

    def fit() -> Kept:
        model = fit_response_model(dataset, "train", seed=seed, progress=progress)
        note = {"config": model.config.model_dump(), "fitted_on": model.record.model_dump()}
        return Kept(dict(model.network.state_dict()), json.dumps(note))

    tensors, note = kept(run_directory, USER_MODEL, _model_key(dataset, seed), fit)
    progress(1.0)
    content = json.loads(note)
    network = make_network(ResponseConfig.model_validate(content["config"]))
    network.load_state_dict(tensors)
    return ResponseModel(network, FitRecord.model_validate(content["fitted_on"]))


def greedy(
    model: ResponseModel,
    dataset: OfflineDataset,
    weights: RewardWeights,
    run_directory: Path,
    seed: int = 0,
    progress: Progress | None = None,
) -> GreedyPolicy:
    """Return the greedy policy on ``user_model``, with few candidates that hold its choices.

    The candidates are the best ``CANDIDATE_DEPTH`` videos of every state that the policy meets in
    ``CANDIDATE_SESSIONS`` sessions of training users. They make it ten times as fast.

    Args:
        model: of ``user_model``.
        dataset: dataset of the run.
        weights: of the signals in the reward.
        run_directory: folder of the run, where the candidates are kept.
        seed: of the sessions.
        progress: called with the share that is done, 0 to 1.
    """
    progress = progress or (lambda share: None)
    made_from = {
        "version": SEARCH_VERSION,
        "model": _model_key(dataset, model.record.seed),
        "weights": weights.model_dump(),
        "effort": [CANDIDATE_SESSIONS, CANDIDATE_DEPTH],
        "seed": seed,
    }

    def find() -> Kept:
        collecting = _Collecting(model, weights)
        starts = _training_starts(dataset, CANDIDATE_SESSIONS, seed)
        steps = dataset.manifest.episode_steps
        simulator = Simulator.for_dataset(dataset, model)
        run_sessions(collecting, simulator, starts, steps=steps, progress=progress)
        return Kept({"videos": torch.as_tensor(np.flatnonzero(collecting.among_the_best))})

    candidates = kept(run_directory, "greedy", made_from, find).tensors["videos"].numpy()
    progress(1.0)
    return GreedyPolicy(model, weights, candidates)


class _Collecting(GreedyPolicy):
    """The greedy policy over all videos, noting which are among the best in any state."""

    def __init__(self, model: ResponseModel, weights: RewardWeights) -> None:
        super().__init__(model, weights)
        self.among_the_best = np.zeros(model.num_videos, dtype=bool)

    def score_all(self, states: np.ndarray, user_id: np.ndarray) -> np.ndarray:
        scores = super().score_all(states, user_id)
        depth = min(CANDIDATE_DEPTH, self.num_videos)
        best = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
        self.among_the_best[best] = True
        return scores

    def recommend(self, states: np.ndarray, user_id: np.ndarray, shown: np.ndarray) -> np.ndarray:
        return ScoringPolicy.recommend(self, states, user_id, shown)


def best_cycle(
    model: ResponseModel,
    dataset: OfflineDataset,
    weights: RewardWeights,
    run_directory: Path,
    seed: int = 0,
    progress: Progress | None = None,
) -> CyclePolicy:
    """Return the best cycle of ``CYCLE`` videos in sessions that ``user_model`` simulates.

    Built greedily, each video the one that adds the most after those before it, from several
    beginnings; of the best of these, each place is then tried with other videos.

    Args:
        model: of ``user_model``.
        dataset: dataset of the run.
        weights: of the signals in the reward.
        run_directory: folder of the run, where the cycle is kept.
        seed: of the sessions.
        progress: called with the share that is done, 0 to 1.
    """
    progress = progress or (lambda share: None)
    made_from = {
        "version": SEARCH_VERSION,
        "model": _model_key(dataset, model.record.seed),
        "weights": weights.model_dump(),
        "effort": [CYCLE, CYCLE_SESSIONS, CYCLE_VIDEOS, CYCLE_BEGINNINGS, CYCLE_CHANGES],
        "seed": seed,
    }

    def search() -> Kept:
        found = _CycleSearch(model, dataset, weights, seed)
        videos = found.run(progress)
        return Kept({"videos": torch.as_tensor(videos), "scores": torch.as_tensor(found.mean)})

    tensors = kept(run_directory, "best_cycle", made_from, search).tensors
    progress(1.0)
    return CyclePolicy(tensors["videos"].numpy(), tensors["scores"].numpy())


class _CycleSearch:
    """Searches the best cycle in the same sessions of training users, with the same luck."""

    def __init__(
        self, model: ResponseModel, dataset: OfflineDataset, weights: RewardWeights, seed: int
    ) -> None:
        self._model = model
        self._simulator = Simulator.for_dataset(dataset, model)
        self._starts = _training_starts(dataset, CYCLE_SESSIONS, seed)
        self._weights = weights
        self._steps = dataset.manifest.episode_steps
        #: Mean expected reward of each video at the start of a session, (N,).
        self.mean = self._expected(self._starts.states, None)
        self._best = np.argsort(-self.mean, kind="stable")[:CYCLE_VIDEOS]
        self._length = min(CYCLE, model.num_videos)

    def run(self, progress: Progress) -> np.ndarray:
        """Return the best cycle found, (C,) int64."""
        changes = self._best[:CYCLE_CHANGES]
        beginnings = self._best[:CYCLE_BEGINNINGS]
        total, done = len(beginnings) + self._length * len(changes), 0
        best, value = self._best[: self._length], -np.inf

        def consider(videos: np.ndarray) -> None:
            nonlocal best, value, done
            found = self._value(videos)
            if found > value:
                best, value = videos, found
            done += 1
            progress(done / total)

        for first in beginnings:
            consider(self._build(int(first)))
        for place in range(self._length):
            for video in changes:
                if video in best:
                    done += 1
                    continue
                changed = best.copy()
                changed[place] = video
                consider(changed)
        return best

    def _build(self, first: int) -> np.ndarray:
        """Add to ``first`` what brings the most after the videos before it."""
        videos, states = [first], self._starts.states
        while len(videos) < self._length:
            states = self._answered(states, videos[-1], len(videos) - 1)
            expected = self._expected(states, self._best)
            expected[np.isin(self._best, videos)] = -np.inf
            videos.append(int(self._best[expected.argmax()]))
        return np.array(videos)

    def _answered(self, states: np.ndarray, video: int, step: int) -> np.ndarray:
        """States after all users have answered a video."""
        uniforms = self._starts.luck(step, self._simulator.users.num_uniforms)
        shown = np.full(len(states), video)
        return self._simulator.step(states, self._starts.user_id, shown, uniforms).next_states

    def _expected(self, states: np.ndarray, videos: np.ndarray | None) -> np.ndarray:
        """Mean expected reward over the users, (P,)."""
        with one_thread():
            matrix = self._model.reward_matrix(states, self._weights, self._starts.user_id, videos)
        mean: np.ndarray = matrix.mean(axis=0)
        return mean

    def _value(self, videos: np.ndarray) -> float:
        """Mean reward of sessions of a cycle."""
        policy = CyclePolicy(videos, self.mean)
        log = run_sessions(policy, self._simulator, self._starts, steps=self._steps)
        return float(log.signals.mean(axis=(0, 1)) @ self._weights.as_array())


def _training_starts(dataset: OfflineDataset, sessions: int, seed: int) -> SessionStarts:
    """Sessions of users of ``train``, one of each where there are as many."""
    starts = load_starts(dataset, "train")
    return SessionStarts.draw(starts, sessions, [seed])


def _model_key(dataset: OfflineDataset, seed: int) -> dict[str, Any]:
    """What a user model's weights follow from."""
    return {
        "version": CACHE_VERSION,
        "format": FORMAT_VERSION,
        "dataset": dataset.fingerprint,
        "part": "train",
        "seed": seed,
    }
