"""The batches of one learner: a shard's rows in a shuffled order, from memory or from disk.

RLlib hands a learner an iterator and asks it for one thing, ``iter_torch_batches(batch_size=,
device=)`` (``ray/rllib/utils/minibatch_utils.py:208``). ``ShardIterator`` answers with slices of
arrays that it read from Parquet itself.

**The order.** An epoch deals the shard's row groups to windows of about ``window_rows`` rows, at
random, and shuffles the rows of each window. A shard of one window, as most are, is shuffled as a
whole. That makes the order a pure function of (seed, shard, window size, batches drawn), whether
the rows come from memory or from disk: a restored run goes on with exactly the batch that an
unbroken one would have seen next, even on a machine with less memory.

**Streaming.** While a window is drawn from, a thread reads the next, so two are held at a time, and
what is read once is used once per epoch. A batch that a window's end cuts is completed from the
next window; only an epoch's last, short batch is dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from ray._private.utils import estimate_available_memory
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor

from noetik_rllib.errors import UserError
from noetik_rllib.iql.decoded_rows import held
from noetik_rllib.iql.reward import RewardDecomposition
from noetik_rllib.iql.row_files import RowFile, RowFormat, Span, read_spans, spans
from noetik_rllib.iql.settings import DataResidency

#: Column of a batch: the reward's components (B, S), see ``reward.py``.
REWARD_COMPONENTS = "reward_components"

#: Share of the memory that is free, on the machine or on the GPU, which rows may take. The other
#: half is for networks, their gradients and Adam's moments, activations, and Arrow's buffers.
_MEMORY_SHARE = 0.5

#: Rows by column, all tensors of equal length.
Rows = dict[str, Tensor]


@dataclass(frozen=True)
class _Window:
    """Rows that are shuffled together: numbers of spans, and the order of what is left to draw."""

    spans: tuple[int, ...]
    order: np.ndarray


@dataclass(frozen=True)
class ShardIterator:
    """The rows ``start`` to ``stop`` of a log, as an endless shuffled stream of batches.

    Light to pickle: it carries paths and numbers, and each learner opens the files itself.

    Attributes:
        files: the log's files, in order.
        start: first row of this shard, over all files.
        stop: row after the last.
        form: what the columns hold.
        reward: how the reward is made.
        seed: of the shuffling.
        window_rows: rows to shuffle together, about.
        residency: whether rows stay in memory.
        index: number of this shard, so that learners shuffle differently.
        batches_drawn: batches that were drawn before, by the run that this one continues.
    """

    files: tuple[RowFile, ...]
    start: int
    stop: int
    form: RowFormat
    reward: RewardDecomposition
    seed: int
    window_rows: int
    residency: DataResidency = "auto"
    index: int = 0
    batches_drawn: int = 0

    @property
    def rows(self) -> int:
        """Rows of this shard."""
        return self.stop - self.start

    @property
    def windows(self) -> int:
        """Windows of an epoch, at most: fewer where row groups are larger than a window."""
        return -(-self.rows // self.window_rows)

    @cached_property
    def spans(self) -> list[Span]:
        """The shard's part of each row group, in order."""
        return spans(self.files, self.start, self.stop)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "spans"}

    def starting_at(self, batches_drawn: int) -> ShardIterator:
        """Return the same stream from its batch number ``batches_drawn`` on."""
        return replace(self, batches_drawn=batches_drawn)

    def iter_torch_batches(
        self, *, batch_size: int, device: str | torch.device | None = None, **unused: Any
    ) -> Iterator[dict[str, Tensor]]:
        """Yield batches without end, as RLlib's ``MiniBatchRayDataIterator`` unpacks them.

        Every epoch has an order of its own and drops its last, short batch: all learners must draw
        equally many, or the gradient exchange between them would wait for ever.

        Args:
            batch_size: rows per batch.
            device: where the batch goes.
            **unused: what RLlib passes to Ray Data's iterators; refused, as it has no effect.

        Yields:
            ``default_policy/<column>`` -> tensor of ``batch_size`` rows.

        Raises:
            UserError: a file cannot be read, or holds what training could only misunderstand.
        """
        if unused:
            raise ValueError(f"iter_batches_kwargs {sorted(unused)} have no effect here: remove")
        if self.rows < batch_size:
            raise UserError(
                f"{self.rows:,} training rows per learner are fewer than a batch of "
                f"{batch_size:,}: lower the batch size or the number of learners"
            )
        target = torch.device(device or "cpu")
        plan = self._plan(batch_size)
        windows = self._from_memory(plan, target) if self.resident else self._from_disk(plan)
        for batch in _batches(windows, batch_size):
            yield {
                f"{DEFAULT_MODULE_ID}/{name}": _on_device(rows, target)
                for name, rows in batch.items()
            }

    def _plan(self, batch_size: int) -> Iterator[_Window]:
        """Yield the windows from batch ``batches_drawn`` on, without end.

        An epoch's orders add up to whole batches, and begin at the first row not drawn yet.
        """
        per_epoch = self.rows // batch_size
        epoch, batch = divmod(self.batches_drawn, per_epoch)
        skip = batch * batch_size
        while True:
            left = per_epoch * batch_size - skip
            for number, chosen in enumerate(self._deal(epoch)):
                size = sum(self.spans[place].rows for place in chosen)
                if skip < size and left:
                    order = self._random(epoch, number + 1).permutation(size)[skip:][:left]
                    left -= len(order)
                    yield _Window(chosen, order)
                skip = max(0, skip - size)
            epoch += 1

    def _random(self, epoch: int, purpose: int) -> np.random.Generator:
        # Not Python's hash of a tuple, nor seed + epoch, which repeats orders between seeds.
        return np.random.default_rng([self.seed, self.index, epoch, purpose])

    def _deal(self, epoch: int) -> list[tuple[int, ...]]:
        """Return the spans of each of an epoch's windows; each window in order of the files.

        Spans are dealt in a random order to windows of equal size, but for a span's size: a small
        last window would be shuffled badly.
        """
        order = self._random(epoch, 0).permutation(len(self.spans))
        sizes = np.array([span.rows for span in self.spans])[order]
        middles = np.cumsum(sizes) - sizes / 2
        owner = (middles * self.windows / self.rows).astype(int)
        return [tuple(sorted(order[owner == window])) for window in np.unique(owner)]

    @property
    def resident(self) -> bool:
        """Whether to keep the rows in memory.

        By ``auto``, if all learners' rows take half of what is free here, where the others may be
        too; and always where they are there already, or streaming would hold more.
        """
        if self.residency == "memory" or len(self._deal(0)) == 1 or held(self.files):
            return True
        total = sum(file.rows for file in self.files) * self.form.row_bytes
        fits: bool = total <= _MEMORY_SHARE * estimate_available_memory()
        return self.residency == "auto" and fits

    def _read(self, parts: list[Span], cancelled: Callable[[], bool] = lambda: False) -> Rows:
        """Read rows into arrays of their final size."""
        columns: dict[str, np.ndarray] = {}
        size, done = sum(span.rows for span in parts), 0
        for rows in read_spans(parts, self.form):
            if cancelled():
                raise CancelledError
            signals = np.stack([rows.pop(name) for name in self.form.signals], axis=1)
            rows[REWARD_COMPONENTS] = self.reward.components(signals)
            for name, part in rows.items():
                if name not in columns:
                    columns[name] = np.empty((size, *part.shape[1:]), dtype=part.dtype)
                columns[name][done : done + len(part)] = part
            done += len(signals)
        return {name: torch.from_numpy(column) for name, column in columns.items()}

    def _held(self) -> Rows | None:
        """The rows of the shard in memory that processes share, if this one was handed them."""
        decoded = held(self.files)
        if decoded is None:
            return None
        rows = decoded.tensors(self.form.names, self.start, self.stop)
        signals = np.stack([rows.pop(name).numpy() for name in self.form.signals], axis=1)
        return {**rows, REWARD_COMPONENTS: torch.from_numpy(self.reward.components(signals))}

    def _from_memory(
        self, plan: Iterator[_Window], device: torch.device
    ) -> Iterator[tuple[Rows, Tensor]]:
        """Yield the rows of the shard with the order of each window."""
        rows = self._held() or self._read(self.spans)
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self.rows * self.form.row_bytes <= _MEMORY_SHARE * free:
                rows = {name: column.to(device) for name, column in rows.items()}
        first = np.cumsum([0, *(span.rows for span in self.spans)])
        for window in plan:
            numbers = [np.arange(first[place], first[place + 1]) for place in window.spans]
            yield rows, torch.from_numpy(np.concatenate(numbers)[window.order])

    def _from_disk(self, plan: Iterator[_Window]) -> Iterator[tuple[Rows, Tensor]]:
        """Yield the rows of each window with their order, and read the next meanwhile."""
        cancelled = threading.Event()

        def read(window: _Window) -> tuple[Rows, Tensor]:
            rows = self._read([self.spans[place] for place in window.spans], cancelled.is_set)
            return rows, torch.from_numpy(window.order)

        # Leaving the block, at the latest when the generator is dropped, ends the thread.
        with ThreadPoolExecutor(1, thread_name_prefix="noetik-window") as thread:
            try:
                following = thread.submit(read, next(plan))
                while True:
                    window = following.result()
                    following = thread.submit(read, next(plan))
                    yield window
                    del window  # before the wait for the next: two are held, not three
            finally:
                cancelled.set()


def _batches(windows: Iterator[tuple[Rows, Tensor]], batch_size: int) -> Iterator[Rows]:
    """Cut windows into batches, of which one may reach over several windows."""
    parts: list[Rows] = []
    missing = batch_size
    for rows, order in windows:
        # Where the rows are: on a GPU, the order follows once a window, not once a batch.
        here = order.to(rows[REWARD_COMPONENTS].device)
        for index in (here[:missing], *here[missing:].split(batch_size)):
            if len(index):
                # index_select: column[index] takes 30 times as long for as few rows.
                parts.append({name: column.index_select(0, index) for name, column in rows.items()})
                missing -= len(index)
            if not missing:
                yield _joined(parts)
                parts, missing = [], batch_size
        del rows  # before the next window comes


def _joined(parts: list[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _on_device(rows: Tensor, device: torch.device) -> Tensor:
    """Copy rows to where they are needed; to a GPU, without waiting for it."""
    if rows.device.type == device.type:
        return rows
    return rows.pin_memory().to(device, non_blocking=True)
