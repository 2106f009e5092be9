"""`ray submit` of train.py to three hosts, one of which is cut off while it trains."""

from __future__ import annotations

import csv
import re
import shutil
import time
from pathlib import Path

import pytest

from noetik_rllib.runs import CLOCKS
from tests.cluster.conftest import HEAD, RayCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ITERATIONS = 12
#: The last iteration before a host is cut off, and when the run before it has begun to save.
CUT_AFTER = 4
SETTINGS = (
    f"--data file:///srv/data --num-learners 2 --iterations {ITERATIONS} "
    "--steps-per-iteration 60 --batch-size 64 --embedding-size 16 --num-layers 1 --num-heads 2 "
    "--checkpoint-seconds 0"
)


def progress(cluster: RayCluster, run: str) -> list[dict[str, float]]:
    """Read the progress of a finished run from the storage."""
    path = cluster.hosts.shared / "runs" / run / "progress.csv"
    with path.open(encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def learner_hosts(cluster: RayCluster) -> set[str]:
    """Return the names of the hosts on which a learner runs."""
    hosts = cluster.hosts.hosts
    return {n for n in hosts if hosts[n].run("pgrep", "-f", "ray::_WrappedExec").returncode == 0}


def test_training_survives_the_loss_of_a_host(cluster: RayCluster, tiny_dataset: Path) -> None:
    """Fails if learners cannot be on several hosts, or a host's loss hangs or changes the run.

    What a resumed run learns is the same bit by bit, so its metrics are compared closely.
    """
    shutil.copytree(tiny_dataset, cluster.hosts.shared / "data")
    begun = time.monotonic()
    submitted = "ray job submit --address http://127.0.0.1:8265 --working-dir job -- "
    with cluster.dashboard():
        cluster.client(
            f"mkdir job && cp train.py job && {submitted} python train.py {SETTINGS} "
            "--storage file:///srv/runs/undisturbed",
            timeout=240,
        )
    print(f"undisturbed, by ray job submit: {time.monotonic() - begun:.0f} s")

    begun = time.monotonic()
    command = f"ray submit cluster.yaml train.py -- {SETTINGS} --storage file:///srv/runs/disturbed"
    train = cluster.start(command)
    said: list[str] = []
    cut = None
    assert train.stdout is not None
    for line in train.stdout:
        # `ray submit` has a terminal on the head, so the bar is drawn ten times a second.
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[━╸╺].*", "", line).strip()
        if plain in said:
            continue
        said.append(plain)
        print(f"{time.monotonic() - begun:6.1f} s  {plain}")
        done = re.search(rf"iteration (\d+) of {ITERATIONS}", line)
        if done and int(done[1]) == CUT_AFTER and cut is None:
            hosts = learner_hosts(cluster)
            assert len(hosts) == 2, f"two learners on {hosts}"
            cut = sorted(hosts - {HEAD})[-1]
            cluster.hosts.cut(cut)
            print(f"{time.monotonic() - begun:6.1f} s  {cut} cut off")
    assert train.wait() == 0, "\n".join(said)
    assert cut is not None
    text = "\n".join(said)
    assert "A learner was lost" in text
    assert re.search(r"Going on from iteration [1-9]", text), "it began anew"
    cluster.hosts.heal(cut)

    before, after = progress(cluster, "undisturbed"), progress(cluster, "disturbed")
    assert len(before) == len(after) == ITERATIONS
    for left, right in zip(before, after, strict=True):
        for name in left.keys() - CLOCKS:
            assert right[name] == pytest.approx(left[name], rel=1e-3, abs=1e-6), name
