"""d3rlpy's discrete algorithms on rows of CartPole: the part of ``cartpole.py`` that needs d3rlpy.

``cartpole.py`` runs it in d3rlpy's own environment, whose Gymnasium is another one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys

import d3rlpy
import numpy as np
import structlog
import torch
from cartpole_data import play, returns

#: Steps between copies of Q to its target: 1 / 0.005, the Polyak rate of IQL. The default, 8,000,
#: is made for Atari and would leave the target of a run of 5,000 steps nearly as it began.
TARGET_INTERVAL = 200


def main() -> None:
    """Train each algorithm on the rows of a .npz file; print their evaluation returns as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", help=".npz file of the rows.")
    for name in ("steps", "batch_size", "width", "seed", "episodes"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, required=True)
    for name in ("learning_rate", "gamma"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    rows = np.load(options.rows)
    dataset = d3rlpy.dataset.MDPDataset(
        observations=rows["obs"],
        actions=rows["actions"],
        rewards=rows["rewards"],
        terminals=rows["terminateds"].astype(np.float32),
        timeouts=rows["truncateds"].astype(np.float32),
    )
    shared = {
        "learning_rate": options.learning_rate,
        "batch_size": options.batch_size,
        "gamma": options.gamma,
        "encoder_factory": d3rlpy.models.encoders.VectorEncoderFactory([options.width] * 2),
    }
    configs = {
        "d3rlpy DiscreteCQL": d3rlpy.algos.DiscreteCQLConfig(
            target_update_interval=TARGET_INTERVAL, **shared
        ),
        "d3rlpy DiscreteBCQ": d3rlpy.algos.DiscreteBCQConfig(
            target_update_interval=TARGET_INTERVAL, **shared
        ),
        "d3rlpy DiscreteBC": d3rlpy.algos.DiscreteBCConfig(**shared),
    }
    result = {}
    for name, config in configs.items():
        d3rlpy.seed(options.seed)
        algorithm = config.create(device="cpu:0")
        with contextlib.redirect_stdout(sys.stderr):
            algorithm.fit(
                dataset,
                n_steps=options.steps,
                n_steps_per_epoch=options.steps,
                show_progress=False,
                logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
            )
        evaluated = returns(play(algorithm.predict, options.episodes, options.seed + 500))
        result[name] = evaluated.tolist()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
