"""What ``noetik data prepare`` does with its source and its place, beyond the rows themselves."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from noetik_rllib.data.mapping import Mapping, kuairand
from noetik_rllib.data.reader import read_source
from noetik_rllib.data.world import PRESETS
from noetik_rllib.errors import UserError
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.prepare_config import PrepareConfig
from noetik_rllib.offline.rows import EPISODE_ROW_BITS
from noetik_rllib.offline.split import PARTS
from noetik_rllib.offline.verify import verify
from noetik_rllib.offline.writer import prepare
from tests.data.broken import LOG, RANDOM, USERS, VIDEOS


@pytest.fixture
def world(tiny_world: Path, tmp_path: Path) -> Path:
    """A copy of the tiny world to change."""
    return Path(shutil.copytree(tiny_world, tmp_path / "world"))


def keep_lines(path: Path, count: int) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:count]))


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("below", ["", "raw"])
def test_a_source_within_the_old_dataset_is_not_overwritten(
    below: str, tiny_world: Path, tmp_path: Path
) -> None:
    """Fails if --overwrite deletes the only copy of the logs."""
    out = tmp_path / "dataset"
    prepare(tiny_world, out)
    shutil.copytree(tiny_world / "data", out / below / "data")
    before = files_below(out)
    with pytest.raises(UserError, match="holds the source"):
        prepare(out / below, out, overwrite=True)
    assert files_below(out) == before


@pytest.mark.parametrize("name", ["notes.txt", "train/mine.parquet", "runs/iql/config.yaml"])
def test_what_is_no_part_of_a_dataset_is_not_overwritten(
    name: str, tiny_world: Path, tmp_path: Path
) -> None:
    """Fails if --overwrite deletes what somebody kept beside the dataset's files."""
    out = tmp_path / "dataset"
    prepare(tiny_world, out, PrepareConfig(format="json"))
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text("mine")
    with pytest.raises(UserError, match=f"holds .*{name}, which is no part of a dataset"):
        prepare(tiny_world, out, overwrite=True)
    assert (out / name).read_text() == "mine"
    (out / name).unlink()
    prepare(tiny_world, out, overwrite=True)


def test_two_at_once_do_not_both_win(tiny_world: Path, tmp_path: Path) -> None:
    """Fails if a dataset that another process wrote in the meantime is silently replaced."""
    out = tmp_path / "dataset"
    written = []

    def meanwhile(doing: str, share: float) -> None:
        if not written:
            written.append(prepare(tiny_world, out, PrepareConfig(seed=1)))

    with pytest.raises(UserError, match="exists already: another process wrote it"):
        prepare(tiny_world, out, progress=meanwhile)
    assert OfflineDataset(out).manifest == written[0]
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


@pytest.mark.parametrize("kind", ["a folder", "a file"])
def test_what_comes_meanwhile_is_not_overwritten(
    kind: str, tiny_world: Path, tmp_path: Path
) -> None:
    """Fails if --overwrite deletes what somebody put there while it worked."""
    out = tmp_path / "dataset"
    notes = out / "notes.txt" if kind == "a folder" else out

    def meanwhile(doing: str, share: float) -> None:
        if not notes.exists():
            notes.parent.mkdir(exist_ok=True)
            notes.write_text("mine")

    with pytest.raises(UserError, match="exists already: choose another --out"):
        prepare(tiny_world, out, overwrite=True, progress=meanwhile)
    assert notes.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_somebody_elses_manifest_makes_no_dataset(tiny_world: Path, tmp_path: Path) -> None:
    """Fails if --overwrite takes any folder with a manifest.json for a dataset."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "manifest.json").write_text('{"name": "an app", "manifest_version": 3}')
    with pytest.raises(UserError, match="exists already: choose another --out"):
        prepare(tiny_world, tmp_path / "app", overwrite=True)


def test_a_link_and_a_dot_stand_for_the_folder(
    tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a link is replaced instead of its target, or '.' ends in a traceback."""
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    for seed in (0, 1):
        prepare(tiny_world, tmp_path / "link", PrepareConfig(seed=seed), overwrite=True)
        assert (tmp_path / "link").is_symlink()
        assert OfflineDataset(target).manifest.seed == seed
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    prepare(tiny_world, ".")
    assert OfflineDataset(tmp_path / "here").manifest.seed == 0


def test_features_without_a_row_make_unknown_users_and_videos(world: Path, tmp_path: Path) -> None:
    """Fails if files of the first line alone end in a traceback."""
    for name in (USERS, VIDEOS, RANDOM):
        keep_lines(world / "data" / name, 1)
    manifest = prepare(world, tmp_path / "dataset")
    dataset = OfflineDataset(tmp_path / "dataset")
    assert not dataset.users.features.any()
    assert dataset.catalog.numeric[:, 3].all()  # features_unknown
    assert manifest.repairs["users_without_features"] == manifest.num_users
    assert manifest.repairs["videos_without_features"] == manifest.num_videos
    assert not verify(tmp_path / "dataset").lines


def test_an_empty_log_beside_a_full_one_is_read(world: Path, tmp_path: Path) -> None:
    """Fails if a period without a row stops the others; or if no row at all is not named."""
    keep_lines(world / "data" / LOG, 1)
    other = world / "data" / LOG.replace("4_08_to_4_21", "4_22_to_5_08")
    source = read_source(world)
    assert len(source.log) > 0
    assert {file.name: file.rows for file in source.sources}[LOG] == 0
    keep_lines(other, 1)
    with pytest.raises(
        UserError,
        match=rf"{LOG}:2: column 'user_id' has no value: the file holds "
        "no row nor does any other standard log",
    ):
        prepare(world, tmp_path / "dataset")


@pytest.mark.parametrize("name", PRESETS)
def test_worlds_draw_from_as_many_videos_as_the_reader_assumes(name: str) -> None:
    """Fails if the propensity that a dataset of a preset holds is not the world's own."""
    config = PRESETS[name]
    assumed = kuairand().log.random_pool
    assert assumed is not None
    assert config.pool == min(config.videos, assumed)


def test_the_pool_is_that_of_the_features_file(world: Path, tmp_path: Path) -> None:
    """Fails if videos that logs alone know, test rows among them, change the propensity."""
    expected = prepare(world, tmp_path / "before").random_pool
    path = world / "data" / LOG
    first, second, *rest = path.read_text().splitlines(keepends=True)
    user, _, *others = second.split(",")
    path.write_text("".join([first, ",".join([user, "99999", *others]), *rest]))
    manifest = prepare(world, tmp_path / "after")
    assert manifest.num_videos == PRESETS["tiny"].videos + 1
    assert manifest.random_pool == expected == PRESETS["tiny"].videos


def test_the_pool_can_be_given(world: Path, tmp_path: Path) -> None:
    """Fails if a pool is not written as given, or one is taken that the log contradicts."""
    pool = PRESETS["tiny"].videos + 100
    assert prepare(world, tmp_path / "dataset", PrepareConfig(random_pool=pool)).random_pool == pool
    rows = OfflineDataset(tmp_path / "dataset").load("random", ["propensity"])
    np.testing.assert_array_equal(rows["propensity"], np.float32(1 / pool))
    with pytest.raises(UserError, match="were drawn from 3: expected no more"):
        prepare(world, tmp_path / "other", PrepareConfig(random_pool=3))
    for wrong in (0, 10**40):
        with pytest.raises(UserError, match=f"random pool is {wrong}: expected 1 to"):
            PrepareConfig(random_pool=wrong)


def test_a_pool_that_nobody_knows_is_asked_for(world: Path, tmp_path: Path) -> None:
    """Fails if a propensity is made up where neither the mapping nor a features file tells it."""
    content = kuairand().model_dump()
    del content["items"], content["log"]["random_pool"]
    mapping = Mapping.model_validate(content)
    with pytest.raises(UserError, match="give --random-pool"):
        prepare(world, tmp_path / "dataset", mapping=mapping)
    keep_lines(world / "data" / VIDEOS, 1)  # says nothing, whatever KuaiRand's own number is
    with pytest.raises(UserError, match="give --random-pool"):
        prepare(world, tmp_path / "dataset")
    manifest = prepare(
        world, tmp_path / "dataset", PrepareConfig(random_pool=5_000), mapping=mapping
    )
    assert manifest.random_pool == 5_000


def test_a_dataset_without_random_rows_names_no_pool(world: Path, tmp_path: Path) -> None:
    """Fails if a propensity is claimed that no row has."""
    (world / "data" / RANDOM).unlink()
    assert prepare(world, tmp_path / "dataset").random_pool is None
    with pytest.raises(UserError, match="no uniformly exposed row: leave out --random-pool"):
        prepare(world, tmp_path / "other", PrepareConfig(random_pool=5))


def test_episodes_are_numbered_by_their_own_user_alone(tiny_dataset: Path) -> None:
    """Fails if a user who is added elsewhere changes the bytes of another's rows."""
    dataset = OfflineDataset(tiny_dataset)
    for number, part in enumerate(PARTS):
        rows = dataset.load(part, ["eps_id", "user_id"])
        own = rows["user_id"] * len(PARTS) + number
        np.testing.assert_array_equal(rows["eps_id"] >> EPISODE_ROW_BITS, own)


@pytest.mark.parametrize(
    ("share", "advice"),
    [
        (1e-12, "'judge' would be empty .*larger --held-out-users"),
        (1 - 1e-12, "'train' would be empty .*smaller --held-out-users"),
    ],
)
def test_an_empty_part_comes_with_advice(
    share: float, advice: str, tiny_world: Path, tmp_path: Path
) -> None:
    """Fails if somebody is left alone with a part that their options have emptied."""
    with pytest.raises(UserError, match=advice):
        prepare(tiny_world, tmp_path / "dataset", PrepareConfig(held_out_users=share))


def test_too_many_videos_are_refused_before_the_log_is_read(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if 27K's users wait for an hour of reading to be told that its videos are too many."""
    monkeypatch.setattr("noetik_rllib.offline.writer.MAX_VIDEOS", PRESETS["tiny"].videos - 1)
    (world / "data" / LOG).write_bytes((world / "data" / LOG).read_bytes() + b"broken\n")
    with pytest.raises(UserError, match=r"videos: a state holds video numbers exactly only up to"):
        prepare(world, tmp_path / "dataset")
