"""The synthetic world: its files are KuaiRand's, its rows are drawn from the truth it tells.

Every test with chance in it has a fixed seed, so it cannot flicker; the error rate that is stated
is that of the same test with a fresh seed and correct code.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.data.world import PRESETS, SyntheticWorld, preset
from noetik_rllib.data.world_config import SECOND_FILE_DAY, TABS, Page
from noetik_rllib.data.world_features import RANGES
from noetik_rllib.data.world_log import DAY_MS, START_MS
from noetik_rllib.errors import UserError
from tests.data.written import Written

TINY = PRESETS["tiny"]
#: Beyond five standard errors: two-sided 6e-7 for one normal comparison.
MAX_Z = 5.0
LOG_HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,"
    "is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,"
    "is_profile_enter,is_rand,tab"
)
HEADERS = {
    "log_standard_4_08_to_4_21_pure.csv": LOG_HEADER,
    "log_standard_4_22_to_5_08_pure.csv": LOG_HEADER,
    "log_random_4_22_to_5_08_pure.csv": LOG_HEADER,
    "user_features_pure.csv": (
        "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,"
        "follow_user_num,follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,"
        "friend_user_num_range,register_days,register_days_range,"
        + ",".join(f"onehot_feat{number}" for number in range(18))
    ),
    "video_features_basic_pure.csv": (
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,"
        "server_width,server_height,music_id,music_type,tag"
    ),
}


def all_pairs(world: SyntheticWorld) -> dict[str, np.ndarray]:
    """True response of every user to every video without history, each (U, V)."""
    shape = world.config.users, world.config.videos
    user, video = (ids.ravel() for ids in np.indices(shape))
    answer = world.response(user, video, np.full((user.size, 1), -1), np.zeros((user.size, 1)))
    return {name: values.reshape(shape) for name, values in answer.items()}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    """A demo whose numbers change between runs cannot be compared with the README's."""
    written = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        SyntheticWorld(replace(TINY, seed=seed)).write(tmp_path / name)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        written[name] = {path.name: path.read_bytes() for path in files}
    assert sorted(written["a"]) == sorted([*HEADERS, "world.json"])
    assert written["a"] == written["b"]
    assert all(written["a"][name] != written["c"][name] for name in written["a"])


def test_parts_do_not_change_each_other() -> None:
    """Otherwise a world with more users has other videos, and two worlds cannot be compared."""
    world = SyntheticWorld(TINY)
    more_users = SyntheticWorld(replace(TINY, users=61))
    np.testing.assert_array_equal(world.duration_ms, more_users.duration_ms)
    more_videos = SyntheticWorld(replace(TINY, videos=81))
    np.testing.assert_array_equal(world.taste, more_videos.taste)


def test_layout_is_the_published_one(demo: Written) -> None:
    """A reader written for the real files would fail, or worse, take one column for another."""
    for name, header in HEADERS.items():
        text = (demo.files.random.parent / name).read_bytes().decode()
        assert text.split("\n", 1)[0] == header, name
        assert "\r" not in text, name
        assert text.endswith("\n"), name
        quoted = re.findall('"([^"]*)"', text)
        assert all("," in value for value in quoted), name
        width = {len(re.sub('"[^"]*"', "", line).split(",")) for line in text.splitlines()}
        assert width == {header.count(",") + 1}, name
        if name.startswith("log_"):
            assert re.fullmatch(r"(\d+(,\d+){18}\n)+", text.split("\n", 1)[1])


def test_feature_formats(demo: Written) -> None:
    """Blanks, floats and codes that a reader of the real features must cope with are there."""
    users = pd.read_csv(demo.files.user_features, dtype=str, keep_default_na=False)
    videos = pd.read_csv(demo.files.video_features, dtype=str, keep_default_na=False)
    assert set(users.is_live_streamer) == {"1", "-124"}
    together = users[[f"onehot_feat{number}" for number in range(12, 18)]]
    assert set(np.unique(together)) == {"", "0.0", "1.0"}
    blank = together == ""
    assert (blank.all(axis=1) == blank.any(axis=1)).all()
    assert 0 < blank.any(axis=1).mean() < 0.05
    for column, most in ((users.onehot_feat4, 0.05), (videos.video_duration, 0.03)):
        assert column.str.fullmatch(r"(\d+\.0)?").all()
        assert 0 < (column == "").mean() < most
    assert 0 < (videos.tag == "").mean() < 0.02
    assert videos.tag.str.fullmatch(r"(\d+(,\d+){0,2})?").all()
    assert videos.tag.str.contains(",").mean() > 0.15


def check_ranges(users: pd.DataFrame) -> None:
    """Every range label is the one of the number beside it."""
    for name, (labels, edges) in RANGES.items():
        expected = np.array(labels.split(";"))[np.searchsorted(edges, users[name])]
        assert (users[f"{name}_range"].to_numpy() == expected).all(), name


def test_ranges_follow_the_numbers(demo: Written) -> None:
    """Range and number would contradict each other, which they never do in the real features."""
    check_ranges(demo.users)
    low = demo.users[["follow_user_num", "fans_user_num"]].min(axis=1)
    assert (demo.users.friend_user_num <= low).all()


@pytest.mark.real
def test_headers_and_ranges_are_those_of_the_real_files(kuairand_pure: Path) -> None:
    """The literals above would be wrong, and all tests with them."""
    for name, header in HEADERS.items():
        with (kuairand_pure / "data" / name).open(encoding="utf-8") as stream:
            assert stream.readline() == f"{header}\n", name
    check_ranges(pd.read_csv(kuairand_pure / "data" / "user_features_pure.csv"))


def test_click_and_long_view_are_the_threshold_rules(demo: Written) -> None:
    """The signals would not mean what the real ones mean on each page of the app."""
    rows = demo.events
    duration = rows.duration_ms.where(rows.duration_ms > 0, np.inf)
    play, page = rows.play_time_ms, np.array([tab.page for tab in TABS])[rows.tab]
    click = np.where(duration <= 7_000, play >= duration, play > 7_000)
    long_view = np.where(duration <= 18_000, play >= duration, play >= 18_000)
    feed, grid = page == Page.FEED, page == Page.GRID
    assert (rows.is_click[feed] == click[feed]).all()
    assert (rows.long_view == long_view).all()
    assert (rows.play_time_ms[grid & (rows.is_click == 0)] == 0).all()
    assert 0.9 < (rows.play_time_ms[grid & (rows.is_click == 1)] > 0).mean() < 1
    assert (rows.is_click[page == Page.TAPPED] == 1).all()
    assert (rows.is_click[page == Page.MUTE] == 0).all()
    assert set(page) == set(Page), "a page without a row to test"
    assert (rows.duration_ms == 0).any(), "no row of unknown duration to test"
    assert (duration <= 7_000).any(), "no short video to test"
    known = demo.videos.set_index("video_id").video_duration.fillna(0)
    assert (rows.duration_ms == known.loc[rows.video_id].to_numpy()).all()


def test_dates_are_those_of_the_partition(demo: Written) -> None:
    """17 % of the hours are one ahead, some on the next day: a reader that believes them would
    place events wrongly. Error rate of the share, over seeds 0.171 +- 0.002: below 1e-4.
    """
    assert (demo.first.date.min(), demo.first.date.max()) == (20220408, 20220421)
    for rows in (demo.second, demo.random):
        assert (rows.date.min(), rows.date.max()) == (20220422, 20220508)
    rows = demo.events
    minutes = (rows.time_ms + 8 * 3_600_000) // 60_000
    midnight = pd.to_datetime(rows.date.astype(str)).to_numpy().astype("datetime64[h]")
    ahead = midnight.astype(np.int64) + rows.hourmin // 100 - minutes // 60
    assert (rows.hourmin % 100 == 0).all()
    assert set(ahead) == {0, 1}
    assert (ahead[minutes % 60 >= 53] == 1).all()
    assert 0.16 < ahead.mean() < 0.18
    own_date = pd.to_datetime(minutes, unit="m").dt.strftime("%Y%m%d").astype(int)
    assert 0 < (own_date != rows.date).mean() < 0.02


def test_files_hold_two_sorted_runs_and_duplicates(demo: Written) -> None:
    """The reader's sorting and deduplication would go untested by every test on a world."""
    for rows, runs in ((demo.first, 2), (demo.second, 2), (demo.random, 1)):
        order = rows[["user_id", "time_ms"]].to_numpy()
        step = np.diff(order, axis=0)
        back = (step[:, 0] < 0) | ((step[:, 0] == 0) & (step[:, 1] < 0))
        assert back.sum() == runs - 1
    twice = pd.concat([demo.first, demo.second])
    twice = twice[twice.duplicated()]
    assert len(twice) / demo.files.standard_rows == pytest.approx(0.015, abs=0.004)
    assert (twice.tab == 6).mean() > 0.9
    assert not demo.random.duplicated().any()
    assert not demo.events.duplicated(["user_id", "time_ms"]).any()
    assert demo.files.standard_rows == len(demo.first) + len(demo.second)
    assert demo.files.random_rows == len(demo.random)
    assert (demo.first.is_rand == 0).all()
    assert (demo.random.is_rand == 1).all()


def test_sessions_are_told_apart_by_the_half_hour_rule(demo: Written) -> None:
    """Episodes would be cut within a session, or run over two."""
    gap_s = demo.events.groupby("user_id").time_ms.diff().dropna() / 1_000
    assert gap_s.min() >= 1
    assert not gap_s.between(25 * 60, 30 * 60, inclusive="neither").any()
    assert 5 < len(demo.events) / ((gap_s > 30 * 60).sum() + demo.world.config.users) < 20
    assert (demo.standard.tab == 1).mean() == pytest.approx(0.84, abs=0.03)


def test_unrewarded_users_leave_as_told(demo: Written) -> None:
    """Sessions would not end by patience, or not by the patience that the truth tells. Two
    comparisons within five standard errors: error rate 1e-6.
    """
    rows, world = demo.events, demo.world
    gap_s = rows.groupby("user_id").time_ms.diff() / 1_000
    session = (gap_s.isna() | (gap_s > 30 * 60)).cumsum()
    clicked = rows.is_click.groupby(session).cumsum()
    shown = rows.groupby(session).cumcount() + 1
    left = (session != session.shift(-1)).to_numpy()
    # Whether the user left after the last row in a file, nobody knows.
    late = rows.time_ms >= START_MS + SECOND_FILE_DAY * DAY_MS
    phase = rows.user_id * 2 + late
    inside = phase == phase.shift(-1)
    share = (1 - clicked / shown).to_numpy()
    told = world.leave_probability(rows.user_id.to_numpy(), share)
    bored, pleased = inside & (share > 0.8), inside & (share < 0.3)
    assert left[bored].mean() > left[pleased].mean() + 0.02
    for mask in (bored, pleased):
        error = np.sqrt((told * (1 - told))[mask].sum())
        assert abs(left[mask].sum() - told[mask].sum()) < MAX_Z * error


@pytest.mark.parametrize("name", ["demo", "tiny"])
def test_taste_pays_more_than_popularity(name: str, tmp_path: Path) -> None:
    """There would be nothing to learn, or nothing that popularity and the standard log miss.

    Chance enters through the drawn world: the margins held in 100 seeds of 'tiny' and 20 of
    'demo', the rates are those of seed 0 (over seeds, 'tiny' spreads by 0.04).
    """
    world = SyntheticWorld(PRESETS[name])
    files = world.write(tmp_path)
    answer = all_pairs(world)
    reward = 0.5 * answer["click"] + 0.5 * answer["watch_ratio"]
    clicked = pd.read_csv(files.standard[0]).groupby("video_id").is_click.sum()
    popular = clicked.nlargest(10).index.to_numpy()
    oracle = np.sort(reward, axis=1)[:, -10:].mean()
    popularity, uniform = reward[:, popular].mean(), reward.mean()
    assert oracle > popularity + 0.15
    assert popularity > uniform + 0.04
    additive = reward.mean(axis=1, keepdims=True) + reward.mean(axis=0) - uniform
    assert (reward - additive).var() / reward.var() > 0.5

    standard = pd.concat(map(pd.read_csv, files.standard))
    assert 0.40 < standard.is_click.mean() < 0.48
    assert 0.18 < pd.read_csv(files.random).is_click.mean() < 0.25
    assert 0.010 < standard.is_like.mean() < 0.040
    assert files.standard_rows == pytest.approx(PRESETS[name].standard_rows, rel=0.03)
    assert files.random_rows == pytest.approx(PRESETS[name].random_rows, rel=0.03)


def test_random_log_is_uniform(demo: Written) -> None:
    """Its propensity, 1 / videos, would be wrong. Chi-square, error rate 1e-6."""
    videos = demo.world.config.videos
    count = np.bincount(demo.random.video_id, minlength=videos)
    expected = len(demo.random) / videos
    assert ((count - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, videos - 1)


def test_standard_log_follows_its_policy(demo: Written) -> None:
    """The standard log's propensity would be wrong. 500 videos, error rate below 1e-5."""
    world, rows = demo.world, demo.standard
    shown = np.bincount(rows.user_id, minlength=world.config.users)
    policy = world.standard_policy(np.arange(world.config.users))
    np.testing.assert_allclose(policy.sum(axis=1), 1.0)
    count = np.bincount(rows.video_id, minlength=world.config.videos)
    z = (count - shown @ policy) / np.sqrt(shown @ (policy * (1 - policy)))
    assert np.abs(z).max() < 6


def test_load_gives_the_same_world(tmp_path: Path) -> None:
    """Estimates would be judged against the truth of another world."""
    world = SyntheticWorld(replace(TINY, seed=5, satiation=1.0))
    world.write(tmp_path)
    expected, actual = all_pairs(world), all_pairs(SyntheticWorld.load(tmp_path))
    for name in SIGNALS:
        np.testing.assert_array_equal(actual[name], expected[name])


def test_progress_and_interruption(tmp_path: Path) -> None:
    """A write that was cut short would pass for a whole world."""
    shares: list[float] = []
    SyntheticWorld(TINY).write(tmp_path, shares.append)
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)

    def interrupt(share: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SyntheticWorld(TINY).write(tmp_path, interrupt)
    with pytest.raises(UserError, match=r"no world\.json"):
        SyntheticWorld.load(tmp_path)


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    """The user would get a traceback, or another world than the one asked for."""
    with pytest.raises(
        UserError, match=r"unknown world 'dmeo': expected tiny, demo, pure, 1k\. Did you"
    ):
        preset("dmeo")
    for change in ({"tags": 3}, {"users": 0}, {"tab_6_twice": 1.5}, {"skip_sigma": np.nan}):
        with pytest.raises(UserError, match=f"{next(iter(change))} is .*: expected"):
            replace(TINY, **change)
    for content, message in (
        ("{", "cannot be read"),
        ("[]", "not a world of version 2"),
        ('{"config": {}}', "not a world of version 2"),
        ('{"version": 2, "config": {"user": 3}}', "damaged: .*'user'"),
    ):
        (tmp_path / "world.json").write_text(content)
        with pytest.raises(UserError, match=message):
            SyntheticWorld.load(tmp_path)
    world = SyntheticWorld(TINY)
    for user, video, past in ((60, 0, 0), (0, -1, 0), (0, 0, -2)):
        with pytest.raises(ValueError, match="expected ids"):
            world.response(*map(np.array, ([user], [video], [[past]], [[0]])))
