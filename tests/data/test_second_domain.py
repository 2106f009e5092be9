"""The second data set of docs/adapters.md: purchases of crackers, by a mapping and no code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from noetik_rllib.data.mapping import FOLDER, Mapping
from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.interpret.explanation import Explainer
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.verify import verify
from noetik_rllib.offline.writer import prepare
from noetik_rllib.runs import TrainConfig, train

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adapters.md"


def block(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return str(found[0])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> OfflineDataset:
    """The dataset, made as the page says."""
    folder = tmp_path_factory.mktemp("crackers")
    subprocess.run([sys.executable, "-c", block("python")], cwd=folder, check=True)
    prepare(folder / "data" / "crackers-csv", folder / "out", mapping=Mapping.find("crackers"))
    return OfflineDataset(folder / "out")


def test_the_page_shows_the_mapping_that_is_shipped() -> None:
    """Fails if a reader copies another mapping than the one that is tested."""
    shipped = (FOLDER / "crackers.yaml").read_text()
    assert yaml.safe_load(block("yaml")) == yaml.safe_load(shipped)


def test_the_counts_are_those_of_the_data_set(dataset: OfflineDataset) -> None:
    """Fails if rows, households or offers are lost or invented on the way."""
    manifest = dataset.manifest
    assert {part: size.rows for part, size in manifest.parts.items()} == {
        "train": 8_704,
        "judge": 2_028,
        "test": 2_436,
        "random": 0,
    }
    assert (manifest.num_users, manifest.num_videos) == (136, 16)
    assert {source.name: source.rows for source in manifest.sources} == {
        "offers.csv": 4 * 3_292,
        "catalogue.csv": 16,
    }
    assert manifest.vocabulary.video_types == ["kleebler", "nabisco", "private", "sunshine"]
    assert manifest.vocabulary.upload_types == ["advert", "display", "display+advert", "plain"]
    assert manifest.repairs["duplicate_rows_dropped"] == 0
    means = dict(zip(SIGNALS, manifest.signals.mean, strict=True))
    assert means.pop("click") == pytest.approx(0.25)  # one offer of four
    assert set(means.values()) == {0.0}


def test_the_dataset_holds(dataset: OfflineDataset) -> None:
    """Fails if a dataset without tags, durations or random rows is called wrong."""
    findings = verify(dataset.directory)
    assert findings.lines == []
    assert findings.checked["states rebuilt"] == 8_704 + 2_028 + 2_436


def test_each_brand_is_bought_as_often_as_in_the_data_set(dataset: OfflineDataset) -> None:
    """Fails if an answer is joined to another offer than the one that was made."""
    parts = [dataset.load(part, ("video_id", "click")) for part in ("train", "judge", "test")]
    offer, click = (np.concatenate([part[n] for part in parts]) for n in ("video_id", "click"))
    brand = np.array([dataset.keys["items"][number].split()[0] for number in offer.tolist()])
    assert {name: int(click[brand == name].sum()) for name in np.unique(brand)} == {
        "kleebler": 226,
        "nabisco": 1_792,
        "private": 1_035,
        "sunshine": 239,
    }


def test_the_four_offers_of_a_purchase_do_not_see_each_other(dataset: OfflineDataset) -> None:
    """Fails if a state tells which of the other offers was bought in the same purchase."""
    rows = dataset.load("train", ("user_id", "time_ms", "obs"))
    purchase = rows["user_id"].astype(np.int64) << 32 | (rows["time_ms"] - rows["time_ms"].min())
    first = np.unique(purchase, return_index=True)[1]
    assert len(first) == 8_704 / 4
    np.testing.assert_array_equal(rows["obs"], np.repeat(rows["obs"][np.sort(first)], 4, axis=0))


def test_an_explanation_tells_of_purchases(dataset: OfflineDataset) -> None:
    """Fails if a household is said to watch, to be on a tab, or to act at an hour that is none."""
    torch.manual_seed(0)
    networks = IQLNetworks(NetworkConfig.for_dataset(dataset.manifest), dataset.catalog)
    found = Explainer(dataset, networks).explain(dataset.user_of("1"), top_k=16)
    assert len(found) == 16  # a shelf shows again what it has shown
    names = set(dataset.keys["items"].values())
    assert {one.video.label for one in found} == names
    said = " ".join(influence.text for one in found for influence in one.influences)
    assert "bought it" in said
    assert re.search(r"they were shown video [a-z+ ]+ \d step", said)
    for falsehood in ("watched", "skipped", "tag", "tab ", ":00", "minute", "KuaiRand", "follow "):
        assert falsehood not in said
    assert not any(influence.source == "profile" for one in found for influence in one.influences)
    assert "tag" not in found[0].sentence


def test_it_trains(dataset: OfflineDataset, tmp_path: Path, ray_session: None) -> None:
    """Fails if what was read by another mapping is not what training reads."""
    config = TrainConfig(
        data=dataset.directory,
        out=tmp_path / "run",
        reward=RewardWeights(click=1, watch_ratio=0),
        iterations=1,
        steps_per_iteration=1,
    )
    train(config)
    assert (tmp_path / "run" / "policy").is_dir()
