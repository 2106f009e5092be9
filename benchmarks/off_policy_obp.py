"""Our off-policy estimators beside those of the Open Bandit Pipeline, on the same arrays.

OBP 0.4.1 (Saito et al. 2021) runs on Python 3.11 in an environment of its own::

    python3.11 -m venv obp-venv && obp-venv/bin/pip install obp==0.4.1
    .venv/bin/python benchmarks/off_policy_obp.py --obp-python obp-venv/bin/python

Three kinds of arrays: a random policy with random propensities, one video per state under a uniform
log (as on KuaiRand), and one with rare large weights. OBP 0.4.1 has no MIPS: that is held against
answers worked out by hand, in tests/evaluation/test_estimators.py.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import click
import numpy as np

from noetik_rllib.cli.errors import run
from noetik_rllib.evaluation.estimators import (
    Terms,
    direct,
    doubly_robust,
    inverse_propensity,
    self_normalised,
    switch_doubly_robust,
)

#: Largest relative difference that counts as equal.
TOLERANCE = 1e-6
SIGNALS = 3


def arrays(kind: str, rows: int, videos: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw logged rows, a policy (rows, videos) and a model's expectations (rows, videos, 3)."""
    uniform = np.full((rows, videos), 1.0 / videos)
    logging = uniform if kind == "one video" else rng.dirichlet(np.full(videos, 2.0), rows)
    if kind == "one video":
        policy = np.eye(videos)[rng.integers(videos, size=rows)]
    else:
        policy = rng.dirichlet(np.full(videos, 0.1 if kind == "large weights" else 2.0), rows)
    cumulative = logging.cumsum(axis=1)
    action = (cumulative < rng.random((rows, 1)) * cumulative[:, -1:]).sum(axis=1)
    truth = rng.random((rows, videos, SIGNALS))
    chosen = truth[np.arange(rows), action]
    return {
        "policy": policy,
        "action": action,
        "propensity": logging[np.arange(rows), action],
        "signals": (rng.random(chosen.shape) < chosen).astype(np.float64),
        "q": np.clip(truth + rng.normal(0, 0.2, truth.shape), 0, 1),
        "threshold": np.array(float(videos) if kind == "one video" else 2.0),
    }


def ours(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return our estimates (3,) by estimator."""
    row, action, q = np.arange(len(given["action"])), given["action"], given["q"]
    weights = given["policy"][row, action] / given["propensity"]
    q_policy = np.einsum("rv,rvk->rk", given["policy"], q)
    signals, q_logged = given["signals"], q[row, action]
    terms: dict[str, Terms] = {
        "ips": inverse_propensity(weights, signals),
        "snips": self_normalised(weights, signals),
        "dm": direct(q_policy),
        "dr": doubly_robust(weights, signals, q_logged, q_policy),
        "switch_dr": switch_doubly_robust(
            weights, signals, q_logged, q_policy, float(given["threshold"])
        ),
    }
    return {name: of.value for name, of in terms.items()}


@click.command()
@click.option("--obp-python", type=click.Path(path_type=Path), required=True, help="Has OBP.")
@click.option("--rows", default=20_000, show_default=True)
@click.option("--videos", default=50, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(obp_python: Path, rows: int, videos: int, seed: int, as_json: bool) -> None:
    """Print the largest relative difference by kind and estimator; fail above 1e-6."""
    differences: dict[str, dict[str, float]] = {}
    script = Path(__file__).with_name("off_policy_obp_reference.py")
    for kind in ("random policy", "one video", "large weights"):
        given = arrays(kind, rows, videos, np.random.default_rng(seed))
        with tempfile.TemporaryDirectory() as folder:
            source, out = Path(folder) / "arrays.npz", Path(folder) / "out.npz"
            np.savez(source, **given)
            subprocess.run([str(obp_python), str(script), str(source), str(out)], check=True)
            with np.load(out) as theirs:
                differences[kind] = {
                    name: float(np.max(np.abs(value / theirs[name] - 1)))
                    for name, value in ours(given).items()
                }
    if as_json:
        click.echo(json.dumps(differences, indent=2))
    else:
        for kind, found in differences.items():
            figures = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
            click.echo(f"{kind}: {figures}")
    worst = max(value for found in differences.values() for value in found.values())
    if not worst <= TOLERANCE:  # NaN too
        raise click.ClickException(f"the largest relative difference is {worst:.1e}")


if __name__ == "__main__":
    run(main)
