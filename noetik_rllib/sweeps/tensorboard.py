"""What TensorBoard shows of a sweep: each trial's curves, as a run has them, and a table.

Ray Tune's own logger knows no parameter but those of its own search, so its table of
hyperparameters would be empty; it puts every chart into one group, and a trial that went on after a
kill at the place where its process began.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.logger import TBXLoggerCallback
from ray.tune.result import AUTO_RESULT_KEYS
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from noetik_rllib.iql.telling import tensorboard_tag
from noetik_rllib.sweeps.importance import flat
from noetik_rllib.sweeps.outcomes import OUTCOMES
from noetik_rllib.sweeps.trial import FINISHED, ITERATION, SCORE

#: Group of the charts, and of the table's columns, that judge a finished trial.
OUTCOMES_GROUP = "outcomes"


class TrialBoard(TBXLoggerCallback):
    """Takes the place of Tune's logger for TensorBoard, which is added where there is none.

    Args:
        parameters: what was drawn for every trial, by number.
        objectives: outcomes that stand first in the table.
    """

    def __init__(self, parameters: Sequence[dict[str, Any]], objectives: Sequence[str]) -> None:
        super().__init__()
        drawn = [flat(one) for one in parameters]
        # What all trials have in common tells nothing.
        names = [k for k in drawn[0] if any(one[k] != drawn[0][k] for one in drawn)]
        self._drawn = [{k: _scalar(one[k]) for k in names or one} for one in drawn]
        self._metrics = dict.fromkeys([*objectives, *OUTCOMES])

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks; a resumed sweep makes its own.
        return {}

    def log_trial_start(self, trial: Trial) -> None:
        """A process begins with a trial, or goes on with it (Tune's hook)."""
        self._close(trial)

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """A trial reports (Tune's hook)."""
        if ITERATION not in result:  # a failure's message
            return
        step = int(result[ITERATION])
        if trial not in self._trial_writer:
            # What a process that was killed told of this iteration and later ones is told again.
            self._open(trial, None if result.get(FINISHED) else step)
        for name, value in result.items():
            if name in (*AUTO_RESULT_KEYS, SCORE) or isinstance(value, bool):
                continue
            if isinstance(value, (int, float)):
                judged = result.get(FINISHED) and name in OUTCOMES
                tag = f"{OUTCOMES_GROUP}/{name}" if judged else tensorboard_tag(name)
                self._trial_writer[trial].add_scalar(tag, value, step)
        self._trial_writer[trial].flush()

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """A trial will not go on (Tune's hook)."""
        if trial in self._trial_writer:
            self._trial_writer[trial].file_writer.add_summary(hparams({}, {})[2])
        self._close(trial)

    def _open(self, trial: Trial, purge_step: int | None) -> None:
        trial.init_local_path()
        writer = SummaryWriter(trial.local_path, flush_secs=30, purge_step=purge_step)
        table = {f"{OUTCOMES_GROUP}/{name}": None for name in self._metrics}
        drawn = self._drawn[int(trial.config["trial"])]
        for summary in hparams(drawn, table)[:2]:  # the third says that it has ended
            writer.file_writer.add_summary(summary)
        self._trial_writer[trial] = writer

    def _close(self, trial: Trial) -> None:
        if (writer := self._trial_writer.pop(trial, None)) is not None:
            writer.close()


def _scalar(value: Any) -> bool | float | str:
    return value if isinstance(value, (bool, int, float)) else str(value)
