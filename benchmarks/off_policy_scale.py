r"""Time and peak memory of the off-policy estimates and of candidate values on a large random log.

On the synthetic ``pure`` world, which has KuaiRand-Pure's 1,186,059 random rows and 7,583 videos::

    .venv/bin/noetik data synth --preset pure --out data/pure-world
    .venv/bin/noetik data prepare --source data/pure-world --out data/pure \
        --split time --split-at 2022-05-01T00:00+08:00
    .venv/bin/python benchmarks/off_policy_scale.py --world data/pure-world --data data/pure

The policies are an actor that was not trained, which needs as much memory as one that was, one that
knows the users' true tastes through noise, and the most popular video. The peak is that of the
whole process, from the kernel (ru_maxrss), fitting of the model left out.
"""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import click
import numpy as np

from noetik_rllib.cli.console import progress_bar
from noetik_rllib.cli.errors import run
from noetik_rllib.data.world import SyntheticWorld
from noetik_rllib.envs.response_fit import fit_response_model
from noetik_rllib.envs.response_model import ResponseModel
from noetik_rllib.evaluation.candidates import candidate_values
from noetik_rllib.evaluation.off_policy import off_policy_estimates
from noetik_rllib.evaluation.policies import ActorPolicy, Policy, popularity
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import OfflineDataset

SIZES = (2, 5, 10, 20, 40)


class TastePolicy:
    """Shows what a user truly likes apart from habit and satiation, seen through noise.

    It recommends the best of the videos that it has drawn a hundred of, so as to be quick.
    """

    def __init__(self, world: SyntheticWorld, dataset: OfflineDataset, noise: float) -> None:
        self.name = f"taste, noise {noise:g}"
        self._world, self._video_id, self._noise = world, dataset.catalog.video_id, noise
        self._rng = np.random.default_rng(0)

    def recommend(self, states: np.ndarray, user_id: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """Choose the best of 100 random videos, (B,)."""
        return self.top_k(states, user_id, 1)[:, 0]

    def top_k(self, states: np.ndarray, user_id: np.ndarray, k: int) -> np.ndarray:
        """Return the k best of 100 random videos, (B, k)."""
        drawn = self._rng.integers(len(self._video_id), size=(len(user_id), 100))
        users = np.repeat(user_id, 100)
        scores = self.score(states, users, drawn.reshape(-1))
        best = np.argsort(-scores.reshape(drawn.shape), axis=1)[:, :k]
        return np.take_along_axis(drawn, best, axis=1)

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """True utility without history, and noise (B,)."""
        utility = self._world.plain_utility(user_id, self._video_id[videos])
        return np.asarray(utility + self._noise * self._rng.standard_normal(len(utility)))


@click.command()
@click.option("--world", type=click.Path(path_type=Path), required=True)
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Prepared of it.")
@click.option("--model", type=click.Path(path_type=Path), help="Fitted before; else fitted here.")
def main(world: Path, data: Path, model: Path | None) -> None:
    """Print time, peak memory, and candidate values by the number of candidates, as JSON."""
    dataset, truth = OfflineDataset(data), SyntheticWorld.load(world)
    judge = ResponseModel.load(model) if model else fit_response_model(dataset, "judge")
    sizes = NetworkConfig.for_dataset(dataset.manifest)
    actor = ActorPolicy.of(IQLNetworks(sizes, dataset.catalog), "actor")
    taste = TastePolicy(truth, dataset, 1.0)
    policies: list[Policy] = [taste, actor, popularity(dataset)]
    with progress_bar("off-policy") as update:
        begin = time.perf_counter()
        result = off_policy_estimates(
            policies, dataset, judge, progress=lambda share: update("estimates", share)
        )
        seconds = time.perf_counter() - begin
        by_size = {}
        for size in SIZES:
            update(f"{size} candidates", 0.0)
            begin = time.perf_counter()
            found = candidate_values([taste, policies[-1]], dataset, candidates=size)
            by_size[size] = {
                "seconds": time.perf_counter() - begin,
                "sets": found.sets,
                "users": found.users,
                "chance": found.chance["reward"].model_dump(),
                "over chance": {
                    name: metrics["reward"].model_dump()
                    for name, metrics in found.over_chance.items()
                },
            }
    content = {
        "rows": result.rows,
        "users": result.users,
        "videos": dataset.manifest.num_videos,
        "seconds": seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "policies": {
            name: {
                estimator: estimate.reason or estimate.metrics["reward"].model_dump()
                for estimator, estimate in of.estimates.items()
            }
            for name, of in result.policies.items()
        },
        "candidates": by_size,
    }
    click.echo(json.dumps(content, indent=2))


if __name__ == "__main__":
    run(main)
