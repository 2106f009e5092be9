"""One training run, on this machine or on the Ray cluster that it is submitted to.

``python train.py --data DIR --out RUN`` has the options of ``noetik train`` (see ``--help``);
``ray submit cluster.yaml train.py -- --data DIR --out RUN`` runs it on a cluster.
"""

from noetik_rllib.cli.errors import run
from noetik_rllib.cli.train import train

if __name__ == "__main__":
    run(train)
