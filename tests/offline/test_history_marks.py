"""Which events of a prepared history are said to have been drawn at random."""

from __future__ import annotations

from pathlib import Path

from noetik_rllib.data.reader import read_source
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.split import PARTS


def test_a_history_marks_exactly_its_random_exposures(
    tiny_world: Path, mixed_dataset: Path
) -> None:
    """Fails if a random exposure passes for a video that was chosen for its user, or a chosen one
    for random: in every state of every part, event by event, by the two logs' own column.
    """
    dataset = OfflineDataset(mixed_dataset)
    [log] = read_source(tiny_world).logs
    video = {int(number): index for index, number in enumerate(dataset.catalog.video_id)}
    past: dict[int, list[tuple[int, int, bool]]] = {}  # of each user, by time
    for user, number, time, is_random in zip(
        log.user_id, log.video_id, log.time_ms, log.is_random, strict=True
    ):
        past.setdefault(int(user), []).append((int(time), video[int(number)], bool(is_random)))
    marked = unmarked = 0
    for part in PARTS:
        rows = dataset.load(part, ("obs", "user_id", "time_ms"))
        parts = dataset.layout.unpack(rows["obs"])
        for row, (user, now) in enumerate(zip(rows["user_id"], rows["time_ms"], strict=True)):
            earlier = [event for event in past[int(user)] if event[0] < now]
            expected = earlier[: -dataset.layout.history_length - 1 : -1]  # the newest first
            count = len(expected)
            assert parts.present[row].sum() == count
            videos = [index for _, index, _ in expected]
            marks = [is_random for _, _, is_random in expected]
            assert parts.video_index[row, :count].tolist() == videos
            assert parts.unchosen[row].tolist() == marks + [False] * (16 - count)
            marked += sum(marks)
            unmarked += count - sum(marks)
    assert min(marked, unmarked) > 1_000
