"""Discrete IQL on short-video logs with RLlib: offline data, training, evaluation, explanations.

Importing the package registers its environment with Gymnasium (``noetik/KuaiRand-v0``) and with
RLlib (``KuaiRand-v0``).
"""

from __future__ import annotations

import os

# Before torch is imported: its OpenMP threads otherwise spin while they wait. Where another process
# uses the same cores, that costs more than the work: 43 s instead of 5 s for a fit of a response
# model on 2 cores with 4 busy processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from noetik_rllib.envs.registration import register

register()
