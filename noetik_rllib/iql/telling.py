"""What a run tells while it trains, to TensorBoard and as Ray metrics."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType

from tensorboardX import SummaryWriter

from noetik_rllib.iql.gauges import RunGauges
from noetik_rllib.progress import VALIDATION_PREFIX, Row

#: Groups of charts, and the columns of ``progress.csv`` that each holds; the rest is "policy".
_GROUPS = {
    "losses": r".*_loss",
    "progress": r"iteration|gradient_steps|seconds|rows_per_second|data_wait_share",
    "values": r"(q|v|advantage)_(mean|std)",
    "values_by_signal": r"(q|v|advantage)_mean_.+",
    "updates": r".*_gradient_norm",
}


def tensorboard_tag(name: str) -> str:
    """Name a chart; TensorBoard groups charts by what stands before the slash.

    Args:
        name: a column of ``progress.csv``, or ``validation/NAME``.
    """
    if name.startswith(VALIDATION_PREFIX):
        return name
    for group, pattern in _GROUPS.items():
        if re.fullmatch(pattern, name):
            return f"{group}/{name}"
    return f"policy/{name}"


class Telling:
    """Tells of one run, until the end of its ``with`` block.

    Args:
        run: its name.
        directory: where TensorBoard finds it.
        done: iterations that were told before; what was told of later ones is taken back.
        iterations: of the whole run.
    """

    def __init__(self, run: str, directory: Path, *, done: int, iterations: int) -> None:
        self._gauges = RunGauges(run)
        self._tensorboard = SummaryWriter(str(directory), purge_step=done + 1)
        self._iterations = iterations

    def tell(self, row: Row) -> None:
        """Tell of an iteration; ``row`` is as ``runs.train`` hands it to ``on_iteration``."""
        for name, value in row.items():
            self._tensorboard.add_scalar(tensorboard_tag(name), value, int(row["iteration"]))
        self._gauges.show(row, self._iterations)

    def __enter__(self) -> Telling:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._tensorboard.close()
