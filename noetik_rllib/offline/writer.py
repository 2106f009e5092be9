"""``noetik data prepare``: from CSV files to an offline dataset for RLlib."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from noetik_rllib.data.interactions import InteractionLog
from noetik_rllib.data.mapping import Mapping
from noetik_rllib.data.reader import Progress, Source, read_source
from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.data.spans import beginnings, spans
from noetik_rllib.errors import UserError
from noetik_rllib.io import atomic_directory, make_directory, write_json
from noetik_rllib.offline.catalog import CATALOG_NAME, IdIndex
from noetik_rllib.offline.dataset import KEYS_NAME, USERS_NAME, Users, foreign_file, is_dataset
from noetik_rllib.offline.features import ItemTable, UserTable, fit_normaliser
from noetik_rllib.offline.manifest import Manifest, SignalMoments, StoredFile
from noetik_rllib.offline.part_files import PartFiles
from noetik_rllib.offline.prepare_config import PrepareConfig
from noetik_rllib.offline.rows import Block, PartRows, RowSettings, build_rows
from noetik_rllib.offline.split import (
    JUDGE,
    NEVER_MS,
    TRAIN,
    held_out,
    part_of,
    require_parts,
    split_moment,
    user_split_times,
)
from noetik_rllib.state import MAX_VIDEOS, StateLayout

#: Rows built at a time and core: their distinct states take up to 130 MB.
_ROWS_PER_BLOCK = 131_072
#: Share of the time that reading takes, measured on the 1K world.
_READ = 0.35
#: Rows summed at a time.
_ROWS_PER_SUM = 1 << 18


def prepare(
    source: str | Path,
    out: str | Path,
    config: PrepareConfig | None = None,
    *,
    mapping: Mapping | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Read a folder of CSV files and write the offline dataset ``out``.

    Args:
        source: folder of CSV files.
        out: folder to write; it appears only once it is complete.
        config: how; defaults as documented there.
        mapping: what the columns mean; KuaiRand's layout where not given.
        overwrite: replace ``out`` if it is a dataset already.
        progress: called with what is being done and the share done, 0 to 1.

    Raises:
        UserError: something in the source does not fit, or ``out`` is in the way.
    """
    config = config or PrepareConfig()
    out = Path(out)
    check = partial(_check_out, out, Path(source), overwrite=overwrite)
    check()
    make_directory(out.parent)  # before the long reading, not after it

    def within(low: float, high: float) -> Progress:
        """Report a step's share as a share of the whole."""

        def report(doing: str, share: float) -> None:
            if progress:
                progress(doing, low + share * (high - low))

        return report

    with atomic_directory(out, replace=overwrite, check=check) as folder:
        shards = folder / "shards"
        data = read_source(
            source,
            mapping,
            spill_folder=shards,
            shard_bytes=config.shard_bytes,
            check_items=_check_number,
            progress=within(0.0, _READ),
        )
        manifest = _Preparation(data, config, folder, within(_READ, 1.0)).write()
        data.logs.remove()
        return manifest


def _check_out(out: Path, source: Path, *, overwrite: bool) -> None:
    """Refuse to write over anything but a dataset, and over that only if it is asked for.

    Raises:
        UserError: ``out`` is in the way, or something in it is no part of a dataset.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_dataset(out):
        raise UserError(f"{out} exists already: choose another --out")
    if not overwrite:
        raise UserError(f"{out} exists already: use --overwrite to replace it")
    if source.resolve().is_relative_to(out.resolve()):
        raise UserError(f"{out} holds the source {source}: choose another --out")
    other = foreign_file(out)
    if other is not None:
        raise UserError(
            f"{out} holds {other}, which is no part of a dataset and would be lost: move it away, "
            "or choose another --out"
        )


def _check_number(videos: int) -> None:
    if videos > MAX_VIDEOS:
        raise UserError(
            f"{videos:,} videos: a state holds video numbers exactly only up to {MAX_VIDEOS:,}; "
            "prepare a selection of the users, and of the features file the videos in their logs"
        )


class _Preparation:
    """The making of one dataset: what is known of its users and videos, then its rows."""

    def __init__(
        self, data: Source, config: PrepareConfig, folder: Path, progress: Progress
    ) -> None:
        self.data = data
        self.config = config
        self.folder = folder
        self.progress = progress

    def write(self) -> Manifest:
        """Fit on the training rows, write every file, return the manifest."""
        self.progress("splitting", 0.0)
        self._find_users()
        self._find_split()
        items, trained = self._find_videos()
        # Everything below that is fitted sees the training rows only.
        vocabulary = items.vocabulary(trained)
        duration = fit_normaliser(items.ln_duration[trained][:, None])
        counts = fit_normaliser(self.user_table.numbers()[self.trained_users])
        users = Users(self.user_id, self.user_table.encode(counts), self.held_out, self.split_ms)
        moments = self._moments()
        users.save(self.folder)
        with ThreadPoolExecutor(max_workers=1) as background:
            catalog = background.submit(
                lambda: items.catalog(vocabulary, duration).save(self.folder)
            )
            settings = RowSettings(
                layout=StateLayout(self.config.history_length),
                episode_steps=self.config.episode_steps,
                user_features=users.features,
                signal_means=np.array(moments.mean),
                video_index=self.video_index,
                random_propensity=1.0 / self.random_pool if self.random_pool else np.nan,
                keep_columns=self.config.format == "json",
            )
            files = self._write_rows(settings)
            catalog.result()
        parts = files.close()
        names = [CATALOG_NAME, USERS_NAME]
        if self.data.keys:
            write_json(self.folder / KEYS_NAME, self.data.keys)
            names.append(KEYS_NAME)
        stored = {name: StoredFile.of(self.folder / name) for name in names}
        manifest = Manifest(
            history_length=self.config.history_length,
            num_videos=len(items),
            num_users=len(self.user_id),
            episode_steps=self.config.episode_steps,
            mapping=self.data.mapping,
            user_names=list(self.data.mapping.user_names),
            split=self.config.split,
            split_time_ms=int(self.split_ms[0]) if self.config.split == "time" else None,
            random_in_train=self.config.random_in_train,
            random_pool=self.random_pool,
            held_out_users=self.config.held_out_users,
            seed=self.config.seed,
            parts=parts,
            reward=RewardWeights(),
            signals=moments,
            vocabulary=vocabulary,
            user_numeric=counts,
            video_duration=duration,
            sources=self.data.sources,
            repairs={
                **self.data.repairs,
                **self._unknown(items),
                **self.user_table.counts(),
                **items.counts(),
            },
            logged_reward={
                part: files.reward_sums[part] / size.rows
                for part, size in parts.items()
                if size.rows
            },
            files=dict(sorted({**stored, **files.stored}.items())),
        )
        manifest.save(self.folder)
        return manifest

    def _find_users(self) -> None:
        """Give every user of the logs and of the features file a row."""
        data = self.data
        logged = [log.user_id[beginnings(log.user_id)] for log in data.logs]
        keys = np.zeros(0, dtype=np.int64)
        if data.users is not None and data.mapping.users is not None:
            keys = data.users[data.mapping.users.key].to_numpy()
        self.logged_users = np.concatenate(logged)
        self.user_id = np.union1d(self.logged_users, keys)
        self.user_table = UserTable(data.users, data.mapping.users, self.user_id, keys)
        self.held_out = held_out(self.user_id, self.config.held_out_users, self.config.seed)

    def _user_row(self, log: InteractionLog) -> np.ndarray:
        starts, counts = spans(beginnings(log.user_id))
        return np.repeat(np.searchsorted(self.user_id, log.user_id[starts]), counts)

    def _find_split(self) -> None:
        """Find every user's split time, and with it the part of each row."""
        n = len(self.user_id)
        if self.config.split == "time":
            moment = self.config.split_time_ms
            if moment is None:
                moment = split_moment(log.time_ms[~log.is_random] for log in self.data.logs)
            self.split_ms = np.full(n, moment, dtype=np.int64)
        else:
            self.split_ms = np.full(n, NEVER_MS, dtype=np.int64)
            for log in self.data.logs:
                times = user_split_times(self._user_row(log), log.time_ms, log.is_random, n)
                self.split_ms = np.minimum(self.split_ms, times)
        # One byte a row, so that even the largest log's parts stay in memory.
        self.parts = [self._part(log) for log in self.data.logs]

    def _part(self, log: InteractionLog) -> np.ndarray:
        row = self._user_row(log)
        part = part_of(row, log.time_ms, log.is_random, self.split_ms, self.held_out)
        if self.config.random_in_train:
            early = log.time_ms < self.split_ms[row]
            part[log.is_random & early & ~self.held_out[row]] = TRAIN
        return part

    def _find_videos(self) -> tuple[ItemTable, np.ndarray]:
        """Give every video an index; say which were shown in training, (n,) bool.

        Raises:
            UserError: too many videos, or a part that nothing can do without is empty.
        """
        data = self.data
        keys = np.zeros(0, dtype=np.int64)
        if data.items is not None and data.mapping.items is not None:
            keys = data.items[data.mapping.items.key].to_numpy()
        featured = np.sort(keys)
        index = IdIndex(featured)
        sizes = np.zeros(4, dtype=np.int64)
        trained = np.zeros(len(featured), dtype=bool)
        unknown: list[list[np.ndarray]] = [[], []]
        drawn: list[np.ndarray] = []
        self.trained_users = np.zeros(len(self.user_id), dtype=bool)
        for log, part in zip(data.logs, self.parts, strict=True):
            train = part == TRAIN
            sizes += np.bincount(part, minlength=4)
            self.trained_users[self._user_row(log)[train]] = True
            place = index.of(log.video_id)
            featured_too = place >= 0
            trained[place[train & featured_too]] = True
            drawn.append(np.unique(log.video_id[log.is_random]))
            for number, rows in enumerate((~featured_too, train & ~featured_too)):
                unknown[number].append(np.unique(log.video_id[rows]))
        require_parts(sizes, len(self.user_id), self.config.split)
        self.random_pool = self._find_pool(len(keys), np.unique(np.concatenate(drawn)))
        every, first = (np.unique(np.concatenate(ids)) for ids in unknown)
        log_only = np.concatenate([first, np.setdiff1d(every, first)])
        _check_number(len(keys) + len(log_only))
        items = ItemTable(data.items, data.mapping.items, keys, log_only)
        self.video_index = IdIndex(items.video_id)
        return items, np.concatenate([trained, np.arange(len(log_only)) < len(first)])

    def _find_pool(self, featured: int, drawn: np.ndarray) -> int | None:
        """Say of how many videos the uniform policy drew; None where the log has no such rows.

        Videos that only logs know do not count: which those are, test rows decide too.

        Args:
            featured: rows of the features file.
            drawn: distinct videos of the uniformly exposed rows.

        Raises:
            UserError: nobody says, or it is fewer than were drawn.
        """
        if not len(drawn):
            if self.config.random_pool is not None:
                raise UserError("the log has no uniformly exposed row: leave out --random-pool")
            return None
        named = self.data.mapping.log.random_pool
        if self.data.items is not None:
            # A features file without a row says nothing, and less than a mapping made for a whole.
            named = min(named or featured, featured) or None
        pool = self.config.random_pool or named
        if pool is None:
            raise UserError(
                "the log has uniformly exposed rows, but nothing says from how many videos they "
                "were drawn: give --random-pool, or random_pool in the mapping"
            )
        if len(drawn) > pool:
            raise UserError(
                f"the uniformly exposed rows show {len(drawn):,} different videos, but were drawn "
                f"from {pool:,}: expected no more; give the right number as --random-pool"
            )
        return pool

    def _unknown(self, items: ItemTable) -> dict[str, int]:
        known = self.user_table.known[np.searchsorted(self.user_id, self.logged_users)]
        return {
            "users_without_features": int(np.count_nonzero(~known)),
            "videos_without_features": len(items) - items.with_features,
        }

    def _moments(self) -> SignalMoments:
        """Mean and covariance of the signals over the training rows."""
        count = 0
        products = np.zeros((len(SIGNALS) + 1, len(SIGNALS) + 1))  # of the signals and 1

        def multiply(log: InteractionLog, rows: np.ndarray) -> np.ndarray:
            signals = np.ones((len(rows), len(SIGNALS) + 1))
            signals[:, 1:] = log.signals[rows]
            return np.asarray(signals.T @ signals)

        with ThreadPoolExecutor() as threads:
            for log, part in zip(self.data.logs, self.parts, strict=True):
                train = np.flatnonzero(part == TRAIN)
                pieces = [
                    train[start : start + _ROWS_PER_SUM]
                    for start in range(0, len(train), _ROWS_PER_SUM)
                ]
                for product in threads.map(partial(multiply, log), pieces):
                    products += product
                count += len(train)
        mean, products = products[0, 1:] / count, products[1:, 1:]
        return SignalMoments(
            mean=mean.tolist(), covariance=(products / count - np.outer(mean, mean)).tolist()
        )

    def _write_rows(self, settings: RowSettings) -> PartFiles:
        """Build blocks of rows on all cores and write them in order."""
        files = PartFiles(self.folder, json=self.config.format == "json")
        total = sum(map(len, self.parts))
        done = 0
        cores = os.cpu_count() or 1
        try:
            with ThreadPoolExecutor(max_workers=cores) as threads:
                # A window, so that packed blocks do not pile up before the disk.
                window: deque[Future[list[PartRows]]] = deque()
                for block in self._blocks():
                    window.append(threads.submit(build_rows, block, settings))
                    if len(window) > cores + 1:
                        done += self._put(files, window.popleft())
                        self.progress("writing", done / total)
                while window:
                    self._put(files, window.popleft())
        except BaseException:
            files.abort()
            raise
        return files

    @staticmethod
    def _put(files: PartFiles, block: Future[list[PartRows]]) -> int:
        rows = block.result()
        for part in rows:
            files.write(part)
        return sum(part.group.rows for part in rows)

    def _blocks(self) -> Iterator[Block]:
        """Cut the log into whole users, about ``_ROWS_PER_BLOCK`` rows each.

        Only rows before the split count, so that no later row moves a block's border, and with it
        the bytes of a training file.
        """
        for log, part in zip(self.data.logs, self.parts, strict=True):
            row = self._user_row(log)
            first, _ = spans(beginnings(row))
            early = np.add.reduceat((part == TRAIN) | (part == JUDGE), first, dtype=np.int64)
            number = (np.cumsum(early) - early) // _ROWS_PER_BLOCK
            starts = first[beginnings(number)]
            for start, stop in zip(starts, [*starts[1:], len(log)], strict=True):
                yield Block(
                    log=log.rows(start, stop),
                    user_row=row[start:stop],
                    part=part[start:stop],
                )
