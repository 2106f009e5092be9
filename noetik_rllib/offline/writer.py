"""``noetik data prepare``: from KuaiRand's CSV files to an offline dataset for RLlib."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noetik_rllib.data.reader import KuaiRand, Progress, read_kuairand
from noetik_rllib.data.schema import RANDOM_POOL_SIZE
from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.errors import UserError
from noetik_rllib.io import atomic_directory, make_directory
from noetik_rllib.offline.columns import fixed_lists
from noetik_rllib.offline.dataset import COLUMNS, PARTS, Users
from noetik_rllib.offline.episodes import Episodes, cut_episodes
from noetik_rllib.offline.features import (
    build_catalog,
    fit_duration,
    fit_normaliser,
    fit_vocabulary,
    user_counts,
    user_features,
)
from noetik_rllib.offline.history import HistoryIndex
from noetik_rllib.offline.json_writer import JsonPartWriter
from noetik_rllib.offline.manifest import MANIFEST_NAME, Manifest, Part, SignalMoments
from noetik_rllib.offline.split import held_out, split_rows, split_time
from noetik_rllib.state import MAX_VIDEOS, StateLayout

#: Rows per Parquet file: some 130 MB of states before compression, so that files stay near the
#: 64 to 256 MiB that Ray Data recommends and a learner can take its share by file.
ROWS_PER_FILE = 131_072
#: Rows built at a time: bounds memory to some 70 MB.
_ROWS_PER_CHUNK = 32_768

Format = Literal["parquet", "json"]


@dataclass(frozen=True)
class PrepareConfig:
    """How a dataset is made.

    Attributes:
        history_length: past events in a state; 16 makes a state of 128.
        episode_steps: longest episode; 10, the length of an environment's episode.
        held_out_users: share of users kept from training, to fit and start the evaluation's
            simulator on. A fifth leaves the simulator some thousands of users on KuaiRand-Pure.
        seed: decides which users are held out.
        format: "json" writes RLlib's SampleBatch lines to ``json/`` beside the Parquet files.
    """

    history_length: int = 16
    episode_steps: int = 10
    held_out_users: float = 0.2
    seed: int = 0
    format: Format = "parquet"

    def __post_init__(self) -> None:
        StateLayout(self.history_length)  # refuses a length that cannot be
        if not 0 < self.held_out_users < 1:
            raise UserError(
                f"held-out users is {self.held_out_users}: expected a share between 0 and 1"
            )
        if self.episode_steps < 1:
            raise UserError(f"episode steps is {self.episode_steps}: expected at least 1")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}: expected 0 or more")


def prepare(
    source: str | Path,
    out: str | Path,
    config: PrepareConfig | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Read a KuaiRand folder and write the offline dataset ``out``.

    Args:
        source: folder of CSV files.
        out: folder to write; it appears only once it is complete.
        config: how; defaults as documented there.
        overwrite: replace ``out`` if it is a dataset already.
        progress: called with what is being done and the share done, 0 to 1.

    Raises:
        UserError: something in the source does not fit, or ``out`` is in the way.
    """
    config = config or PrepareConfig()
    out = Path(out)
    if out.exists():
        is_dataset = (out / MANIFEST_NAME).is_file()
        if not (is_dataset and overwrite) and (not out.is_dir() or any(out.iterdir())):
            hint = "use --overwrite to replace it" if is_dataset else "choose another --out"
            raise UserError(f"{out} exists already: {hint}")
    make_directory(out.parent)  # before the long reading, not after it
    kuairand = read_kuairand(source, progress)
    with atomic_directory(out) as folder:
        return _write(kuairand, folder, config, progress)


def _write(
    kuairand: KuaiRand, folder: Path, config: PrepareConfig, progress: Progress | None
) -> Manifest:
    log = kuairand.log
    user_id = np.union1d(np.unique(log.user_id), kuairand.users.index.to_numpy())
    user_held_out = held_out(user_id, config.held_out_users, config.seed)
    user_row = np.searchsorted(user_id, log.user_id)
    time_ms = split_time(log)
    parts = split_rows(log, time_ms, user_held_out[user_row])

    # Everything below that is fitted sees the training rows only.
    train = parts["train"]
    train_signals = log.signals[train].astype(np.float64)
    moments = SignalMoments(
        mean=train_signals.mean(axis=0).tolist(),
        covariance=np.cov(train_signals, rowvar=False, bias=True).tolist(),
    )
    trained_videos = np.unique(log.video_id[train])
    vocabulary = fit_vocabulary(kuairand.videos, trained_videos)
    duration = fit_duration(kuairand.videos, trained_videos)
    counts = fit_normaliser(user_counts(kuairand.users, np.unique(log.user_id[train])))

    # Videos known from a log alone come last, those of the training part first, so that no test
    # row moves the index of a video in training.
    known = kuairand.videos.index.to_numpy()
    log_only_train = np.setdiff1d(trained_videos, known)
    log_only_rest = np.setdiff1d(np.unique(log.video_id), np.union1d(known, trained_videos))
    log_only = np.concatenate([log_only_train, log_only_rest])
    if len(known) + len(log_only) > MAX_VIDEOS:
        raise UserError(
            f"{len(known) + len(log_only):,} videos: a state holds video numbers exactly only up "
            f"to {MAX_VIDEOS:,}; restrict the catalogue to the videos of interest"
        )
    catalog = build_catalog(kuairand.videos, log_only, vocabulary, duration)
    catalog.save(folder)
    users = Users(user_id, user_features(kuairand.users, user_id, counts), user_held_out)
    users.save(folder)

    index = HistoryIndex(
        layout=StateLayout(config.history_length),
        log=log,
        user_row=user_row,
        user_features=users.features,
        video_index=catalog.index_of(log.video_id),
        signal_means=np.array(moments.mean),
    )
    writer = _PartWriter(
        folder=folder,
        index=index,
        config=config,
        # Uniform over the published pool where the catalogue is larger than that (1K and 27K).
        random_propensity=1.0 / min(len(catalog), RANDOM_POOL_SIZE),
        total_rows=sum(map(len, parts.values())),
        progress=progress,
    )
    sizes = {name: writer.write(name, parts[name]) for name in PARTS}
    reward = RewardWeights()
    manifest = Manifest(
        history_length=config.history_length,
        num_videos=len(catalog),
        num_users=len(user_id),
        episode_steps=config.episode_steps,
        split_time_ms=time_ms,
        held_out_users=config.held_out_users,
        seed=config.seed,
        parts=sizes,
        reward=reward,
        signals=moments,
        vocabulary=vocabulary,
        user_numeric=counts,
        video_duration=duration,
        sources=kuairand.sources,
        repairs=kuairand.repairs,
        logged_reward={
            name: float((log.signals[rows].astype(np.float64) @ reward.as_array()).mean())
            for name, rows in parts.items()
            if len(rows)
        },
    )
    manifest.save(folder)
    return manifest


class _RollingParquet:
    """Writes tables to ``part-00000.parquet``, ... of at most ``ROWS_PER_FILE`` rows each."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.files = 0
        self.rows = 0
        self.writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _RollingParquet:
        return self

    def __exit__(self, *error: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def write(self, table: pa.Table) -> None:
        """Append a table."""
        if self.writer is not None and self.rows + len(table) > ROWS_PER_FILE:
            self.writer.close()
            self.writer = None
        if self.writer is None:
            path = self.folder / f"part-{self.files:05d}.parquet"
            self.writer = pq.ParquetWriter(path, table.schema, compression="zstd")
            self.files += 1
            self.rows = 0
        self.writer.write_table(table)
        self.rows += len(table)


class _PartWriter:
    """Writes the parts of a dataset, one after the other, a chunk of rows at a time."""

    def __init__(
        self,
        *,
        folder: Path,
        index: HistoryIndex,
        config: PrepareConfig,
        random_propensity: float,
        total_rows: int,
        progress: Progress | None,
    ) -> None:
        self.folder = folder
        self.index = index
        self.config = config
        self.random_propensity = random_propensity
        self.total_rows = total_rows
        self.progress = progress
        self.rows_done = 0
        self.first_episode = 0
        self.weights = RewardWeights().as_array().astype(np.float32)

    def write(self, part: str, rows: np.ndarray) -> Part:
        """Write the log's ``rows`` as ``part`` and return its size."""
        user_id = self.index.log.user_id[rows]
        if part == "random":
            # Between two random rows of a user lie standard ones: each is an episode of its own.
            alone = np.arange(len(rows))
            episodes = cut_episodes(alone, alone, self.config.episode_steps)
        else:
            session = self.index.session_start[rows]
            episodes = cut_episodes(user_id, session, self.config.episode_steps)
        with ExitStack() as stack:
            parquet = stack.enter_context(_RollingParquet(self.folder / part))
            lines = None
            if self.config.format == "json":
                lines = stack.enter_context(
                    JsonPartWriter(self.folder / "json" / part, ROWS_PER_FILE)
                )
            for table in self._chunks(part, rows, episodes):
                parquet.write(table)
                if lines:
                    lines.write(table)
                self.rows_done += len(table)
                if self.progress:
                    self.progress(f"writing {part}", self.rows_done / self.total_rows)
        num_episodes = int(episodes.number[-1]) + 1 if len(rows) else 0
        self.first_episode += num_episodes
        return Part(rows=len(rows), users=len(np.unique(user_id)), episodes=num_episodes)

    def _chunks(self, part: str, rows: np.ndarray, episodes: Episodes) -> Iterator[pa.Table]:
        """Yield the part's rows as tables; one empty table for an empty part."""
        for start in range(0, max(len(rows), 1), _ROWS_PER_CHUNK):
            yield self._table(part, rows, episodes, slice(start, start + _ROWS_PER_CHUNK))

    def _table(self, part: str, rows: np.ndarray, episodes: Episodes, chunk: slice) -> pa.Table:
        log, index = self.index.log, self.index
        here = rows[chunk]
        obs = index.states(index.before(here))
        new_obs = np.empty_like(obs)
        continues = episodes.continues[chunk]
        # The state after a row is the user's next request, else the moment after watching.
        following = np.flatnonzero(continues)
        inside = following[following + 1 < len(here)]
        new_obs[inside] = obs[inside + 1]
        if len(following) > len(inside):  # the next request lies in the next chunk
            new_obs[-1:] = index.states(index.before(rows[chunk.stop : chunk.stop + 1]))
        last = np.flatnonzero(~continues)
        new_obs[last] = index.states(index.after(here[last]))

        signals = log.signals[here]
        n = len(here)
        propensity = self.random_propensity if part == "random" else np.nan
        columns = {
            "eps_id": episodes.number[chunk] + self.first_episode,
            "agent_id": pa.repeat("default_agent", n),
            "module_id": pa.repeat("default_policy", n),
            "t": episodes.step[chunk].astype(np.int32),
            "obs": fixed_lists(obs),
            "actions": index.events[here, 0].astype(np.int64) - 1,
            "rewards": signals @ self.weights,
            "new_obs": fixed_lists(new_obs),
            "terminateds": episodes.terminated[chunk],
            "truncateds": episodes.truncated[chunk],
            **{name: signals[:, place].copy() for place, name in enumerate(SIGNALS)},
            "user_id": log.user_id[here],
            "video_id": log.video_id[here],
            "time_ms": log.time_ms[here],
            # Of the standard log nobody knows the propensity: not a number, rather than a guess.
            "propensity": np.full(n, propensity, dtype=np.float32),
        }
        return pa.table({name: columns[name] for name in COLUMNS})
