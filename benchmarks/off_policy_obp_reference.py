"""The Open Bandit Pipeline's estimates of given arrays: the part of ``off_policy_obp.py`` that
needs it. ``off_policy_obp.py`` runs it in an environment of its own, since OBP wants Python 3.11.
"""

from __future__ import annotations

import argparse

import numpy as np
from obp.ope import (
    DirectMethod,
    DoublyRobust,
    InverseProbabilityWeighting,
    SelfNormalizedInverseProbabilityWeighting,
    SwitchDoublyRobust,
)


def main() -> None:
    """Read the arrays of a .npz file, and write the estimates to another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arrays", help=".npz file of the arrays.")
    parser.add_argument("out", help=".npz file that is written.")
    options = parser.parse_args()
    arrays = np.load(options.arrays)
    estimators = {
        "ips": InverseProbabilityWeighting(),
        "snips": SelfNormalizedInverseProbabilityWeighting(),
        "dm": DirectMethod(),
        "dr": DoublyRobust(),
        "switch_dr": SwitchDoublyRobust(tau=float(arrays["threshold"])),
    }
    count, actions, signals = arrays["q"].shape
    estimates = {name: np.empty(signals) for name in estimators}
    for signal in range(signals):
        given = {
            "reward": arrays["signals"][:, signal],
            "action": arrays["action"],
            "pscore": arrays["propensity"],
            "action_dist": arrays["policy"].reshape(count, actions, 1),
            "estimated_rewards_by_reg_model": arrays["q"][:, :, [signal]],
            "position": np.zeros(count, dtype=int),
        }
        for name, estimator in estimators.items():
            estimates[name][signal] = estimator.estimate_policy_value(**given)
    np.savez(options.out, **estimates)


if __name__ == "__main__":
    main()
