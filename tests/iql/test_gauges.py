"""A run's Ray metrics are those that the Grafana dashboard asks for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from noetik_rllib.iql.gauges import GAUGES, SECONDS_LEFT, VALIDATION_GAUGES
from noetik_rllib.progress import VALIDATION_NAME, read_rows

DASHBOARD = Path(__file__).resolve().parents[2] / "docs" / "grafana_dashboard.json"

#: Trains in a Ray of its own and prints what Prometheus would collect from the node: Ray's agent
#: takes the gauges over after a while, so it is asked until it has the last one.
SCRAPE = """
import re, sys, urllib.request
import ray
from noetik_rllib.runs import TrainConfig, train
ray.init(address="local", num_cpus=1, log_to_driver=False, configure_logging=False)
train(TrainConfig.parse({
    "data": sys.argv[1], "out": sys.argv[2], "iterations": 2, "steps_per_iteration": 2,
    "batch_size": 32, "embedding_size": 16, "num_layers": 1, "num_heads": 2,
    "validation_users": 10,
}))
address = "http://127.0.0.1:%d/metrics" % ray.nodes()[0]["MetricsExportPort"]
text = ""
while not re.search(r"^ray_noetik_seconds_left\\{.*\\} 0.0$", text, re.M):
    text = urllib.request.urlopen(address).read().decode()
print("".join(line + chr(10) for line in text.splitlines() if line.startswith("ray_noetik_")))
"""


def test_prometheus_gets_what_the_dashboard_shows(tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if a panel asks for a metric that no run exports, or a gauge is on no panel."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    text = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    asked = set(re.findall(r"ray_noetik_(\w+)", text))
    assert asked == {*GAUGES, SECONDS_LEFT, *VALIDATION_GAUGES}

    scraped = subprocess.run(
        [sys.executable, "-c", SCRAPE, str(tiny_dataset), str(tmp_path / "run")],
        env=os.environ | {"RAY_metrics_report_interval_ms": "500"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    values = dict(re.findall(r'^ray_noetik_(\w+)\{[^}]*run="run"[^}]*\} (\S+)$', scraped, re.M))
    assert set(values) == asked
    assert float(values["iteration"]) == 2
    assert float(values[SECONDS_LEFT]) == 0
    assert 0 <= float(values["data_wait_share"]) <= 1
    for name, value in read_rows(tmp_path / "run" / VALIDATION_NAME)[-1].items():
        if name != "iteration":
            assert float(values[f"validation_{name}"]) == value
