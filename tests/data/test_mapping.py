"""Mappings: what they read, what they refuse and how it is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from noetik_rllib.data.forms import AtLeast, Flag, Ratio, Scale
from noetik_rllib.data.interactions import signal_values
from noetik_rllib.data.mapping import Mapping, kuairand
from noetik_rllib.data.reader import Source, read_source
from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.errors import UserError
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.prepare_config import PrepareConfig
from noetik_rllib.offline.writer import prepare
from noetik_rllib.state import USER_NAMES

#: 10 people who try 3 arms 8 times each, by steps.
TASK: dict[str, Any] = {
    "name": "task",
    "log": {
        "standard": ["log.csv"],
        "user": "person",
        "item": "arm",
        "time": {"column": "trial", "unit": "step"},
        "signals": {"click": "won"},
    },
}


def changed(**log: Any) -> dict[str, Any]:
    """The task's mapping with other keys in ``log``."""
    return {**TASK, "log": {**TASK["log"], **log}}


def with_features(*features: dict[str, Any]) -> dict[str, Any]:
    return {**TASK, "users": {"files": ["people.csv"], "key": "person", "features": list(features)}}


def load(content: Any, folder: Path) -> Mapping:
    path = folder / "mapping.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return Mapping.load(path)


def write_log(folder: Path, *, arm: str = "{}", person: str = "{}", times: str = "{}") -> None:
    rows = [
        f"{person.format(p)},{arm.format((p + t) % 3)},{times.format(t)},{int((p + t) % 3 == 0)}"
        for p in range(10)
        for t in range(8)
    ]
    (folder / "log.csv").write_text("\n".join(["person,arm,trial,won", *rows]) + "\n")


def read(folder: Path, mapping: dict[str, Any]) -> Source:
    return read_source(folder, load(mapping, folder))


def test_kuairands_mapping_fills_the_user_part_of_the_state() -> None:
    """Fails if KuaiRand's features move: every trained policy would read them wrong."""
    assert kuairand().user_names == USER_NAMES


def test_a_mapping_survives_the_manifest() -> None:
    """Fails if a dataset tells of another mapping than the one it was read by."""
    assert Mapping.model_validate(kuairand().model_dump(mode="json")) == kuairand()


WRONG: dict[str, tuple[Any, str]] = {
    "not YAML": ("name: [", "is not YAML"),
    "no keys": ("just text", "expected keys name, log, users, items"),
    "nothing but a name": ({"name": "task"}, "log: Field required"),
    "unknown key": (changed(uesr="person"), "log.uesr: unknown key; docs/adapters.md lists"),
    "unknown key of time": (
        changed(time={"column": "trial", "unti": "step"}),
        "log.time.unti: unknown key",
    ),
    "unknown unit": (changed(time={"column": "trial", "unit": "days"}), "log.time.unit: "),
    "unknown signal": (
        changed(signals={"clik": "won"}),
        "log.signals: unknown signal 'clik'; expected one of click, ",
    ),
    "no signal": (changed(signals={}), "log.signals: "),
    "misspelt form of a signal": (
        changed(signals={"click": {"column": "won", "at_lest": 1}}),
        "log.signals.click: expected a column's name, or the keys column, whole, unknown; or",
    ),
    "ratio for a binary signal": (
        changed(signals={"like": {"column": "a", "whole": "b", "unknown": 1}}),
        "log: signal 'like' is 0 or 1: give a column or 'at_least'",
    ),
    "scale upside down": (
        changed(signals={"watch_ratio": {"column": "score", "low": 5, "high": 5}}),
        "log.signals.watch_ratio: low 5.0 is not below high 5.0",
    ),
    "unknown whole of 0": (
        changed(signals={"watch_ratio": {"column": "a", "whole": "b", "unknown": 0}}),
        "log.signals.watch_ratio.unknown: ",
    ),
    "text for a number": (
        changed(signals={"click": {"column": "won", "at_least": "much"}}),
        "log.signals.click.at_least: ",
    ),
    "column outside of the layout": (
        changed(schema_columns=["person", "arm", "trail", "won"]),
        "log: column 'trial' is not among schema_columns. Did you mean 'trail'?",
    ),
    "meaning of nothing": (
        changed(meanings={"like": "liked it"}),
        "log: meanings: 'like' is not among this mapping's signals",
    ),
    "text ids of what": (changed(text_ids=["arms"]), "log.text_ids.0: "),
    "too many user features": (
        with_features({"category": "town", "name": "town", "values": list(range(32))}),
        "users: 32 user features: a state holds 31 and a flag",
    ),
    "two features of a name": (
        with_features({"number": "a", "name": "x"}, {"flag": "b", "name": "x"}),
        "users: two features are named 'x'",
    ),
    "unknown form of a feature": (
        with_features({"numbr": "age", "name": "age"}),
        "users.features.0: expected 'name' and one of log_number, number, category",
    ),
    "values that YAML takes for truth values": (
        with_features({"category": "smokes", "name": "smokes", "values": [True, False]}),
        "users.features.0.values: YAML reads yes, no, on and off as truth values",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_mapping_is_named_by_its_key(case: str, tmp_path: Path) -> None:
    """Fails if who writes a mapping must guess which key of it is wrong."""
    content, message = WRONG[case]
    with pytest.raises(UserError) as caught:
        load(content, tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"mapping {tmp_path / 'mapping.yaml'}")
    assert "\n" not in str(caught.value)


def test_mappings_are_found_by_name_or_path(tmp_path: Path) -> None:
    """Fails if a mistyped name is taken for a file, or a file for a name."""
    assert Mapping.find("kuairand") == kuairand()
    task = load(TASK, tmp_path)
    assert Mapping.find(tmp_path / "mapping.yaml") == task
    with pytest.raises(UserError, match=r"'kuairnd': expected crackers, kuairand .* 'kuairand'\?"):
        Mapping.find("kuairnd")
    with pytest.raises(UserError, match=r"none\.yaml cannot be read: No such file"):
        Mapping.find(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("signal", "columns", "expected"),
    [
        (Flag(column="a"), {"a": [0, 1, 1]}, [0, 1, 1]),
        (AtLeast(column="a", at_least=4), {"a": [3.9, 4, 5]}, [0, 1, 1]),
        (Scale(column="a", low=-10, high=30), {"a": [-20, 0, 10, 99]}, [0, 0.25, 0.5, 1]),
        (
            Ratio(column="a", whole="b", unknown=8),
            {"a": [1, 6, 9, 2], "b": [4, 4, 0, 0]},
            [0.25, 1, 1, 0.25],
        ),
    ],
    ids=["flag", "at_least", "scale", "ratio"],
)
def test_each_form_of_a_signal(
    signal: Flag | AtLeast | Scale | Ratio, columns: dict[str, list[float]], expected: list[float]
) -> None:
    """Fails if a column's numbers become another signal than docs/adapters.md says."""
    values = signal_values(signal, {name: np.array(column) for name, column in columns.items()})
    assert values.dtype == np.float32
    assert values.tolist() == expected


@pytest.mark.parametrize(
    ("time", "times", "first_two"),
    [
        ({"unit": "ms"}, "165088238400{}", [1_650_882_384_000, 1_650_882_384_001]),
        ({"unit": "s"}, "165088238{}", [1_650_882_380_000, 1_650_882_381_000]),
        ({"unit": "step"}, "{}", [1_704_038_400_000, 1_704_038_460_000]),
        (
            {"unit": "step", "seconds_per_step": 0.5},
            "{}",
            [1_704_038_400_000, 1_704_038_400_500],
        ),
    ],
    ids=["ms", "s", "step", "half seconds"],
)
def test_each_unit_of_time(
    time: dict[str, Any], times: str, first_two: list[int], tmp_path: Path
) -> None:
    """Fails if ages and sessions are computed in another unit than the log's."""
    write_log(tmp_path, times=times)
    log = read(tmp_path, changed(time={"column": "trial", **time})).log
    assert log.time_ms[:2].tolist() == first_two


def test_a_log_alone_is_enough(tmp_path: Path) -> None:
    """Fails if a log needs files of users and items that its domain does not have."""
    write_log(tmp_path)
    read_back = read(tmp_path, TASK)
    assert (read_back.users, read_back.items, read_back.keys) == (None, None, {})
    manifest = prepare(tmp_path, tmp_path / "out", mapping=read_back.mapping)
    assert (manifest.num_users, manifest.num_videos) == (10, 3)
    assert sum(part.rows for part in manifest.parts.values()) == 80
    assert manifest.user_names == [*(f"unused_{i}" for i in range(31)), "features_known"]
    dataset = OfflineDataset(tmp_path / "out")
    assert dataset.keys == {}
    assert not dataset.users.features.any()
    assert dataset.catalog.numeric[:, 3].all()  # known from the log alone
    assert (dataset.manifest.user_numeric.mean, dataset.manifest.vocabulary.tags) == ([], [])


@pytest.mark.parametrize("text_ids", [["users"], ["items"], ["users", "items"]])
def test_text_ids_are_numbered_and_kept(text_ids: list[str], tmp_path: Path) -> None:
    """Fails if a log of names loses them, or joins features to the wrong ones."""
    ann = "Ann {}" if "users" in text_ids else "{}"
    left = "arm {}" if "items" in text_ids else "{}"
    write_log(tmp_path, person=ann, arm=left)
    ages = [f"{ann.format(p)},{20 + p}" for p in reversed(range(10))]
    (tmp_path / "people.csv").write_text("\n".join(["person,age", *ages]) + "\n")
    mapping = load(
        {**with_features({"number": "age", "name": "age"}), **changed(text_ids=text_ids)}
        | {"users": with_features({"number": "age", "name": "age"})["users"]},
        tmp_path,
    )
    # Ten users: a share of a half leaves some on either side, whatever their numbers.
    config = PrepareConfig(held_out_users=0.5)
    manifest = prepare(tmp_path, tmp_path / "out", config, mapping=mapping)
    dataset = OfflineDataset(tmp_path / "out")
    assert list(dataset.keys) == text_ids
    written = json.loads((tmp_path / "out" / "keys.json").read_text())
    assert {n: list(texts.values()) for n, texts in written.items()} == {
        n: list(texts.values()) for n, texts in dataset.keys.items()
    }
    assert "keys.json" in manifest.files
    mean, std = manifest.user_numeric.mean[0], manifest.user_numeric.std[0]
    for p in range(10):
        user = dataset.user_of(ann.format(p))
        row = dataset.users.user_id.tolist().index(user)
        assert dataset.users.features[row, 0] * std + mean == pytest.approx(20 + p, abs=1e-5)
    if "items" in text_ids:
        assert sorted(dataset.keys["items"].values()) == ["arm 0", "arm 1", "arm 2"]
    if "users" in text_ids:
        with pytest.raises(UserError, match=r"user 'Ann 77' is not in .* Did you mean 'Ann 7'\?"):
            dataset.user_of("Ann 77")


def test_signals_that_are_not_mapped_are_0(tmp_path: Path) -> None:
    """Fails if a column that nobody named is taken for an answer."""
    write_log(tmp_path)
    signals = read(tmp_path, TASK).log.signals
    assert signals[:, SIGNALS.index("click")].sum() == 27
    assert signals.sum() == 27
