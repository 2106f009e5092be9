"""A short-video world whose truth is known: what a user would answer to any video.

A user has sparse tastes over tags; a video has one to three tags, a quality and a duration. The
utility of a video to a user, in log-odds of being engaged by it, is::

    u = base + user level + quality + sum of taste over its tags + offset of the tab
        + sum over recent events that share a tag with it of weight x (habit x clicked - satiation)

The play time is log-normal around 2 s (a skip) or, with probability sigmoid(u), that of an engaged
watch, which may run to the end. Click and long view are KuaiRand's threshold rules of it; the other
signals are rare reactions given the click. So ``SyntheticWorld.response`` is in closed form, and
the next answer depends on the past through the last 16 events alone. docs/world.md has the
equations, ``world_files`` writes the logs, ``world_value`` gives the true value of a policy.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from scipy.special import expit, logit, ndtr

from noetik_rllib.data import world_files
from noetik_rllib.data.signals import UNKNOWN_DURATION_FULL_VIEW_MS
from noetik_rllib.data.world_config import (
    MAIN_TAB,
    REACTIONS,
    TABS,
    TAP_WITHOUT_PLAY,
    Page,
    WorldConfig,
)
from noetik_rllib.data.world_kernel import VideoSide, Watching, play_rows
from noetik_rllib.data.world_latents import Latents
from noetik_rllib.data.world_presets import PRESETS, preset
from noetik_rllib.errors import UserError

__all__ = ["PRESETS", "Answers", "SyntheticWorld", "WorldConfig", "preset"]

_PAGE = np.array([tab.page for tab in TABS])
_OFFSET = np.array([tab.offset for tab in TABS])


class Answers(NamedTuple):
    """The distribution of the answers to N shown videos; all arrays are (N,).

    ``page`` says what a click is there. ``utility`` is in log-odds, tab and history included.
    ``engaged`` is the probability of an engaged watch, ``finish`` that such a watch runs to the
    end, ``watch_ln_ms`` the logarithm of the median in ms of one that does not. ``video`` and
    ``user`` (N,) are the pairs.
    """

    user: np.ndarray
    video: np.ndarray
    page: np.ndarray
    utility: np.ndarray
    engaged: np.ndarray
    finish: np.ndarray
    watch_ln_ms: np.ndarray


class SyntheticWorld(Latents):
    """A drawn world: latent users and videos, their true responses and their logs.

    Attributes: those of ``Latents``.
    """

    @property
    def watching(self) -> Watching:
        """The numbers behind a play time."""
        config = self.config
        return Watching(
            skip_ln_ms=float(np.log(config.skip_median_ms)),
            skip_sigma=config.skip_sigma,
            engaged_sigma=config.engaged_sigma,
            engaged_utility_gain=config.engaged_utility_gain,
            finish_utility=config.finish_utility,
            finish_ln=float(np.log(config.finish_median)),
            finish_sigma=config.finish_sigma,
        )

    def video_side(self, video_id: np.ndarray) -> VideoSide:
        """Return what the play times of videos (N,) take from them."""
        config, relative = self.config, self.relative_ln_ms[video_id]
        known = self.duration_ms[video_id] > 0
        level = config.finish_level + config.finish_duration * relative
        return VideoSide(
            watch_ln_ms=np.log(config.engaged_median_ms) + config.engaged_duration_power * relative,
            finish_level=np.where(known, level, -np.inf),
            duration_ln_ms=config.duration_ln_median + relative,
            click_from_ms=self.click_from_ms[video_id],
        )

    def plain_utility(self, user_id: np.ndarray, video_id: np.ndarray) -> np.ndarray:
        """Return the utility (N,) of videos (N,) to users (N,) without tab and history."""
        taste = self.affinity(self.taste, user_id, self.video_set[video_id])
        return self.config.base + self.level[user_id] + self.quality[video_id] + taste

    def leave_probability(self, user_id: np.ndarray, unclicked_share: np.ndarray) -> np.ndarray:
        """Return the probability (N,) that users (N,) leave after a request.

        Args:
            user_id: (N,) int64.
            unclicked_share: of the videos shown since the session began, the share without a
                click, (N,) in [0, 1].
        """
        level = self.leave_level[user_id] - self.config.impatience * (1 - unclicked_share)
        return expit(level)

    def drivers(
        self,
        user_id: np.ndarray,
        video_id: np.ndarray,
        recent_videos: np.ndarray,
        recent_clicks: np.ndarray,
    ) -> np.ndarray:
        """Return what each recent event adds to the utility of the video shown, exactly.

        Arguments as ``response``. The contributions of all users to the same videos are the same.

        Returns:
            (N, k) float64, log-odds: weight x (habit x clicked - satiation) where the event
            shares a tag with the video, else 0; 0 beyond the ``history_window`` newest.
        """
        self._check(user_id, video_id, recent_videos)
        window = min(self.config.history_window, recent_videos.shape[1])
        past = recent_videos[:, :window]
        shares = (self.tag_bits(past) & self.tag_bits(video_id)[:, None]) > 0
        gained = self.config.habit * (recent_clicks[:, :window] > 0) - self.config.satiation
        result = np.zeros(recent_videos.shape)
        result[:, :window] = self.history_weight[:window] * gained * shares
        return result

    def _check(self, user_id: np.ndarray, video_id: np.ndarray, recent: np.ndarray) -> None:
        top_user, top_video = self.config.users - 1, self.config.videos - 1
        given = ((user_id, 0, top_user), (video_id, 0, top_video), (recent, -1, top_video))
        for ids, low, high in given:
            if ids.size and not (low <= ids.min() and ids.max() <= high):
                raise ValueError(f"expected ids {low} to {high}, got {ids.min()} to {ids.max()}")

    def answers(
        self,
        user_id: np.ndarray,
        video_id: np.ndarray,
        recent_videos: np.ndarray,
        recent_clicks: np.ndarray,
        tab: np.ndarray | int | None = None,
    ) -> Answers:
        """Return the distribution of the answers to N shown videos; arguments as ``response``."""
        tab = np.broadcast_to(MAIN_TAB if tab is None else tab, np.shape(user_id))
        if tab.size and not (tab.min() >= 0 and tab.max() < len(TABS)):
            raise ValueError(f"expected tabs 0 to {len(TABS) - 1}, got {tab.min()} to {tab.max()}")
        history = self.drivers(user_id, video_id, recent_videos, recent_clicks).sum(axis=1)
        return self.answers_to(user_id, video_id, tab, history)

    def answers_to(
        self, user_id: np.ndarray, video_id: np.ndarray, tab: np.ndarray, history: np.ndarray
    ) -> Answers:
        """Return the answers where the history adds ``history`` to the utility; all (N,)."""
        utility = self.plain_utility(user_id, video_id) + _OFFSET[tab] + history
        video, page = self.video_side(video_id), _PAGE[tab]
        return Answers(
            user=user_id,
            video=video_id,
            page=page,
            utility=utility,
            engaged=np.where(page == Page.TAPPED, 1.0, expit(utility)),
            finish=expit(video.finish_level + self.config.finish_utility * utility),
            watch_ln_ms=video.watch_ln_ms + self.config.engaged_utility_gain * utility,
        )

    def reaction(self, name: str, answers: Answers, clicked: np.ndarray | bool) -> np.ndarray:
        """Return the probability (N,) of the named reaction, given whether there was a click."""
        rates = REACTIONS[name]
        level = np.where(clicked, logit(rates.rate_click), logit(rates.rate_no_click))
        level = level + rates.gain * answers.utility + rates.trait * self.reactivity[answers.user]
        return expit(level - rates.short * self.relative_ln_ms[answers.video])

    def sample(
        self,
        user_id: np.ndarray,
        video_id: np.ndarray,
        recent_videos: np.ndarray,
        recent_clicks: np.ndarray,
        rng: Generator,
        tab: np.ndarray | int | None = None,
    ) -> dict[str, np.ndarray]:
        """Draw an answer to each of N shown videos; arguments as ``response``.

        Returns:
            "play_time_ms" (N,) int64, and each of ``BINARY_SIGNALS`` (N,) bool.
        """
        answers = self.answers(user_id, video_id, recent_videos, recent_clicks, tab)
        play_ms, click = play_rows(
            self.watching,
            answers.page,
            answers.utility,
            self.video_side(video_id),
            rng.random(len(user_id)),
            rng.standard_normal(len(user_id)),
        )
        return self.react(answers, play_ms, click, rng)

    def react(
        self, answers: Answers, play_ms: np.ndarray, click: np.ndarray, rng: Generator
    ) -> dict[str, np.ndarray]:
        """Add long view and drawn reactions to play times and clicks; as ``sample``."""
        result = {
            "play_time_ms": play_ms,
            "click": click,
            "long_view": play_ms >= self.long_view_from_ms[answers.video],
        }
        for name in REACTIONS:
            result[name] = rng.random(len(click)) < self.reaction(name, answers, click)
        return result

    def response(
        self,
        user_id: np.ndarray,
        video_id: np.ndarray,
        recent_videos: np.ndarray,
        recent_clicks: np.ndarray,
        tab: np.ndarray | int | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the true expected value of every signal, in closed form.

        Args:
            user_id: (N,) int64.
            video_id: the video shown, (N,) int64.
            recent_videos: the user's last videos before the request, (N, k) int64, newest first
                (the order of a state's history), -1 where there is none. The first
                ``history_window`` columns count; ones that are not given count as none.
            recent_clicks: whether they were clicked, (N, k) 0 or 1, or bool.
            tab: page of the app, (N,) or one for all, 0 to 14; the main one, 1, if not given.

        Returns:
            Each of ``SIGNALS``, (N,) float64: the probability of a binary signal, the mean of
            "watch_ratio" (up to 2e-4: play times are rounded down to whole ms).

        Raises:
            ValueError: an id or a tab is out of range.
        """
        return self.expected(self.answers(user_id, video_id, recent_videos, recent_clicks, tab))

    def expected(self, answers: Answers) -> dict[str, np.ndarray]:
        """Return the expected value of every signal, as ``response``."""
        numbers, duration = self.watching, self.duration_ms[answers.video]
        whole_ms = np.where(duration > 0, duration, UNKNOWN_DURATION_FULL_VIEW_MS)
        duration_ln_ms = self.config.duration_ln_median + self.relative_ln_ms[answers.video]
        grid = answers.page == Page.GRID
        plays = np.where(grid, answers.engaged * (1 - TAP_WITHOUT_PLAY), answers.engaged)

        def mixed(value: Callable[..., np.ndarray], limit_ms: np.ndarray) -> np.ndarray:
            of_skip = value(numbers.skip_ln_ms, numbers.skip_sigma, limit_ms)
            of_watch = value(answers.watch_ln_ms, numbers.engaged_sigma, limit_ms)
            finish_ln_ms = duration_ln_ms + numbers.finish_ln
            of_finish = value(finish_ln_ms, numbers.finish_sigma, limit_ms)
            of_engaged = of_watch + answers.finish * (of_finish - of_watch)
            return plays * of_engaged + np.where(grid, 0.0, (1 - plays) * of_skip)

        click = np.select(
            [grid, answers.page == Page.TAPPED, answers.page == Page.MUTE],
            [answers.engaged, 1.0, 0.0],
            mixed(_reaches, self.click_from_ms[answers.video]),
        )
        result = {
            "click": click,
            "watch_ratio": mixed(_mean_ratio, whole_ms),
            "long_view": mixed(_reaches, self.long_view_from_ms[answers.video]),
        }
        for name in REACTIONS:
            without = self.reaction(name, answers, False)
            result[name] = without + click * (self.reaction(name, answers, True) - without)
        return result

    @classmethod
    def load(cls, directory: str | Path) -> SyntheticWorld:
        """Return the world whose logs are in ``directory``, drawn again from its world.json.

        Raises:
            UserError: the file is missing, damaged, or of another version of this module.
        """
        settings = world_files.read_settings(Path(directory))
        try:
            return cls(WorldConfig(**settings))
        except TypeError as error:
            raise UserError(f"{directory}: {world_files.WORLD_FILE} is damaged: {error}") from None

    def write(
        self, directory: str | Path, progress: Callable[[float], None] | None = None
    ) -> world_files.WorldFiles:
        """Write the world's logs, features and description: same configuration, same bytes.

        ``directory`` is made if missing, files of the same names are replaced; ``progress`` is
        called with the share of the work that is done, 0 to 1.
        """
        return world_files.write_files(self, Path(directory), progress or (lambda share: None))


def _reaches(ln_median: np.ndarray, sigma: float, limit_ms: np.ndarray) -> np.ndarray:
    """P(X >= limit) of a log-normal X."""
    return ndtr((ln_median - np.log(limit_ms)) / sigma)


def _mean_ratio(ln_median: np.ndarray, sigma: float, whole_ms: np.ndarray) -> np.ndarray:
    """E[min(1, X / whole)] of a log-normal X: its partial expectation below, its tail above."""
    z = (np.log(whole_ms) - ln_median) / sigma
    below = np.exp(ln_median + sigma**2 / 2) / whole_ms * ndtr(z - sigma)
    return below + ndtr(-z)
