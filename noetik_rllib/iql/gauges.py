"""A run's progress as Ray metrics, which Prometheus collects from every node of a cluster."""

from __future__ import annotations

from ray.util.metrics import Gauge

from noetik_rllib.evaluation.result import METRICS
from noetik_rllib.progress import VALIDATION_PREFIX, Row

#: Columns of ``progress.csv`` that are gauges, and what each is; the rest is in TensorBoard.
#: Prometheus has them as ``ray_noetik_<name>{run=...}``; docs/grafana_dashboard.json shows them.
GAUGES = {
    "iteration": "Iterations done",
    "gradient_steps": "Gradient steps done",
    "rows_per_second": "Training rows per second, of all learners together",
    "data_wait_share": "Share of an iteration that learners waited for rows",
    "q_loss": "Loss of Q",
    "v_loss": "Loss of V",
    "actor_loss": "Loss of the policy",
    "q_mean": "Mean of Q",
    "v_mean": "Mean of V",
    "effective_sample_size": "Rows of a batch that the policy learns from",
}
SECONDS_LEFT = "seconds_left"
#: What the last validated policy is worth; a run that does not validate never sets them.
VALIDATION_GAUGES = {
    f"validation_{name}": f"Mean {name} per recommended video in sessions with training users"
    for name in METRICS
}


class RunGauges:
    """The gauges of one run.

    Args:
        run: its name.
    """

    def __init__(self, run: str) -> None:
        described = {
            **GAUGES,
            SECONDS_LEFT: "Estimated seconds to the end of the training",
            **VALIDATION_GAUGES,
        }
        self._gauges = {
            name: Gauge(f"noetik_{name}", text, tag_keys=("run",))
            for name, text in described.items()
        }
        self._tags = {"run": run}

    def show(self, row: Row, iterations: int) -> None:
        """Set them.

        Args:
            row: as ``runs.train`` hands it to ``on_iteration``.
            iterations: of the whole run.
        """
        done = row["iteration"]
        values = {name: row[name] for name in GAUGES}
        for name in METRICS:
            if (told := VALIDATION_PREFIX + name) in row:
                values[f"validation_{name}"] = row[told]
        values[SECONDS_LEFT] = (iterations - done) * row["seconds"] / done
        for name, value in values.items():
            self._gauges[name].set(float(value), tags=self._tags)
