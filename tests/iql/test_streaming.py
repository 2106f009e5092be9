"""Rows of a shard that is larger than memory: the same batches, two windows held at a time."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from noetik_rllib.errors import UserError
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.data import ColumnarOfflineData
from noetik_rllib.iql.row_files import RowFile
from noetik_rllib.iql.shard_iterator import ShardIterator

#: No divisor of a window's rows, nor of a shard's: batches reach over the ends of windows.
BATCH = 73
WINDOW = 300

Batch = dict[str, torch.Tensor]


@pytest.fixture
def shard(tiny_dataset: Path, tmp_path: Path) -> ShardIterator:
    """All but 37 rows of the tiny dataset, in files of 50: some nine windows, streamed."""
    cut = tmp_path / "cut"
    shutil.copytree(tiny_dataset, cut, ignore=shutil.ignore_patterns("train"))
    (cut / "train").mkdir()
    table = pq.read_table(tiny_dataset / "train")
    for number, start in enumerate(range(0, len(table), 50)):
        path = cut / "train" / f"part-{number:05d}.parquet"
        pq.write_table(table.slice(start, 50), path)
    config = DiscreteIQLConfig().offline_data(input_=[str(cut / "train")])
    (whole,) = ColumnarOfflineData(config).sample(BATCH)
    assert whole.rows > 2_500
    return replace(whole, start=20, stop=whole.stop - 17, window_rows=WINDOW, residency="stream")


def draw(shard: ShardIterator, number: int) -> list[Batch]:
    return list(itertools.islice(shard.iter_torch_batches(batch_size=BATCH), number))


def rows(batches: list[Batch]) -> list[bytes]:
    return [
        b"".join(batch[name][row].numpy().tobytes() for name in sorted(batch))
        for batch in batches
        for row in range(BATCH)
    ]


def reading() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("noetik-window")]


def per_epoch(shard: ShardIterator) -> int:
    return shard.rows // BATCH


def test_disk_and_memory_give_the_same_batches(shard: ShardIterator) -> None:
    """Fails if a run depends on how much memory the machine has."""
    number = 2 * per_epoch(shard) + 3
    streamed = draw(shard, number)
    resident = draw(replace(shard, residency="memory"), number)
    for left, right in zip(streamed, resident, strict=True):
        assert left.keys() == right.keys()
        for name, column in left.items():
            assert torch.equal(column, right[name]), name


def test_an_epoch_has_every_row_once(shard: ShardIterator) -> None:
    """Fails if rows are lost or repeated where windows end, or orders repeat.

    A few rows of the log are alike, hence counts.
    """
    every = Counter(rows(draw(replace(shard, stop=shard.start + shard.rows), per_epoch(shard))))
    (whole,) = draw_all(shard)
    assert sum(every.values()) == per_epoch(shard) * BATCH
    assert not every - whole, "rows that the shard does not have, or has less often"
    second = rows(draw(shard.starting_at(per_epoch(shard)), per_epoch(shard)))
    assert not Counter(second) - whole
    assert second[:BATCH] != rows(draw(shard, 1))


def draw_all(shard: ShardIterator) -> Iterator[Counter[bytes]]:
    """All rows of the shard, as one batch of one window."""
    whole = replace(shard, window_rows=shard.rows, residency="memory")
    batch = next(whole.iter_torch_batches(batch_size=shard.rows))
    yield Counter(
        b"".join(batch[name][row].numpy().tobytes() for name in sorted(batch))
        for row in range(shard.rows)
    )


def test_a_window_mixes_row_groups(shard: ShardIterator) -> None:
    """Fails if neighbours in the log stay neighbours: an epoch's windows must be dealt anew."""
    first, second = shard._deal(0), shard._deal(1)
    assert sorted(itertools.chain(*first)) == list(range(len(shard.spans)))
    assert first != second
    for window in first:
        assert abs(sum(shard.spans[place].rows for place in window) - WINDOW) <= 50
    adjacent = sum(b - a == 1 for window in first for a, b in itertools.pairwise(window))
    # Of 56 spans, each next one shares its window with probability 1/9: six, of which 14 would be
    # 3.5 standard deviations above. And this order is fixed.
    assert adjacent < 14


def test_a_restored_run_reads_only_what_it_needs(shard: ShardIterator) -> None:
    """Fails if a run that goes on late in an epoch reads the windows before, or goes astray.

    The files of all windows but the one that it goes on in, and the next, are deleted.
    """
    late = per_epoch(shard) - 12
    expected = rows(draw(shard, late + 3)[late:])
    windows = shard._deal(0)
    ends = list(itertools.accumulate(sum(shard.spans[p].rows for p in w) for w in windows))
    at = next(number for number, end in enumerate(ends) if end > late * BATCH)
    assert at >= 3
    needed = {shard.spans[place].file.path for window in windows[at : at + 2] for place in window}
    for file in shard.files:
        if file.path not in needed:
            Path(file.path).unlink()
    assert rows(draw(shard.starting_at(late), 3)) == expected
    with pytest.raises(UserError, match=r"part-\d+\.parquet cannot be read"):
        draw(shard, 3)


def test_an_error_ahead_is_told_when_its_window_comes(shard: ShardIterator) -> None:
    """Fails if the thread that reads ahead dies unheard, and training waits for ever."""
    windows = shard._deal(0)
    path = Path(shard.spans[windows[2][0]].file.path)
    path.write_bytes(path.read_bytes()[:-100])
    batches = shard.iter_torch_batches(batch_size=BATCH)
    drawn = 0
    with pytest.raises(UserError, match=rf"{path.name} cannot be read"):
        for _ in batches:
            drawn += 1
    assert drawn * BATCH > WINDOW, "windows before it were not drawn from"
    assert not reading()


def test_two_windows_are_held_at_most(shard: ShardIterator) -> None:
    """Fails if streaming keeps what it has read: counts the memory of NumPy's arrays."""
    draw(shard, 1)  # what is imported or cached once
    tracemalloc.start()
    draw_and_drop(shard, 2 * per_epoch(shard))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    largest = WINDOW + 50  # rows of a window, up to a row group more
    # The half is for decoded row groups, each a sixth of a window here, and orders.
    assert WINDOW * shard.form.row_bytes < peak < 2.5 * largest * shard.form.row_bytes
    assert peak < shard.rows * shard.form.row_bytes / 2


def draw_and_drop(shard: ShardIterator, number: int) -> None:
    for _ in itertools.islice(shard.iter_torch_batches(batch_size=BATCH), number):
        pass


def test_the_thread_ends_with_the_iterator(shard: ShardIterator) -> None:
    """Fails if each restore of a running algorithm leaves a thread and two windows behind."""
    batches = shard.iter_torch_batches(batch_size=BATCH)
    next(batches)
    assert len(reading()) == 1
    del batches
    assert not reading()


def test_a_process_ends_while_it_streams(shard: ShardIterator) -> None:
    """Fails if a learner that still holds its iterator hangs at its exit."""
    code = f"""
import itertools
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.data import ColumnarOfflineData
config = DiscreteIQLConfig().offline_data(input_=[{str(Path(shard.files[0].path).parent)!r}])
config.training(data_residency="stream", data_window_mb=1)
(shard,) = ColumnarOfflineData(config).sample({BATCH})
assert shard.windows > 2
batches = shard.iter_torch_batches(batch_size={BATCH})
print(len(next(batches)["default_policy/actions"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{BATCH}\n"), done.stderr


def test_rows_that_fit_stay_in_memory(shard: ShardIterator) -> None:
    """Fails if 'auto' streams a small log, or takes all memory for one that is too large."""
    auto = replace(shard, residency="auto")
    assert auto.resident
    assert not shard.resident
    large = RowFile("never opened", (10**12 // 2,) * 2)
    assert not replace(auto, files=(large,), stop=10**12).resident
    # Of one row group, streaming would hold it twice: the one that is drawn from, and the next.
    one = RowFile("never opened", (10**12,))
    assert replace(shard, files=(one,), stop=10**12).resident
    assert replace(auto, files=(large,), stop=10**12, residency="memory").resident
    # Streaming one window would hold it twice.
    assert replace(shard, window_rows=shard.rows).resident


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED: no GPU here")
@pytest.mark.parametrize("residency", ["memory", "stream"])
def test_a_gpu_gets_the_same_batches(shard: ShardIterator, residency: str) -> None:
    """Fails if copies that nothing waits for are overwritten before they are done."""
    shard = replace(shard, residency=residency)
    number = per_epoch(shard) + 3
    on_gpu = itertools.islice(shard.iter_torch_batches(batch_size=BATCH, device="cuda"), number)
    for left, right in zip(draw(shard, number), on_gpu, strict=True):
        for name, column in left.items():
            assert right[name].device.type == "cuda"
            assert torch.equal(column, right[name].cpu()), name
