"""What all trials of a sweep have in common: the training rows, and the users who judge.

Both are made once, whatever the number of trials: rows are read and decoded once and then lie in
Ray's object store, one copy on each machine; user models are fitted once and kept in the sweep's
folder, so that a resumed sweep judges as it did before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.envs.response_fit import fit_response_model
from noetik_rllib.envs.response_model import MODEL_NAME, ResponseModel
from noetik_rllib.evaluation.comparison import (
    DEFAULT_SEEDS,
    Course,
    JudgedCourse,
    held_out_starts,
    judged_course,
)
from noetik_rllib.evaluation.validation import validation_course
from noetik_rllib.interpret.baseline import Baseline
from noetik_rllib.iql.data import dataset_spaces
from noetik_rllib.iql.decoded_rows import DecodedRows
from noetik_rllib.iql.row_files import RowFile, RowFormat, open_files
from noetik_rllib.offline.dataset import OfflineDataset

#: Share of a machine's object store that the rows may take: trials' results need little more.
_STORE_SHARE = 0.8


@dataclass(frozen=True)
class Courses:
    """How trials are measured.

    Attributes:
        judged: where they are judged at their end.
        validation: where they are validated on their way, if they are.
        baseline: from which recommendations are explained; it is made of training rows.
    """

    judged: JudgedCourse
    validation: Course | None
    baseline: Baseline


def prepare_courses(
    dataset: OfflineDataset,
    folder: Path,
    *,
    users: int,
    validation_users: int,
    seed: int,
    progress: Callable[[str], None],
) -> Courses:
    """Fit the user models, or load those that the sweep has already.

    Args:
        dataset: of the sweep.
        folder: where the models are kept.
        users: the most users who judge.
        validation_users: training users whose sessions tell on the way what policies are worth; 0
            where nobody asks.
        seed: of models, users and sessions.
        progress: called with what is being done.

    Raises:
        UserError: no held-out user has an episode in ``test``.
    """

    def model(part: Literal["judge", "train"]) -> ResponseModel:
        kept = folder / part
        if not (kept / MODEL_NAME).is_file():
            progress(f"fitting the user model of the part {part}")
            fit_response_model(dataset, part, seed=seed).save(kept)
        found = ResponseModel.load(kept)
        found.check_dataset(dataset)
        return found

    starts = held_out_starts(dataset, users, DEFAULT_SEEDS, seed)
    judged = judged_course(dataset, model("judge"), starts)
    baseline = Baseline.from_dataset(dataset)
    validation = None
    if validation_users:
        # Not who judges in the end: they must not decide which trial gets there.
        validation = validation_course(dataset, model("train"), users=validation_users, seed=seed)
    return Courses(judged, validation, baseline)


def share_rows(dataset: OfflineDataset) -> Any:
    """Read the training rows into Ray's object store; None where they do not fit into it.

    This machine reads them, which has the dataset; the others get them from it when a trial first
    asks. So they are not lost with a machine whose loss the sweep survives.

    Returns:
        Ray's reference to a ``DecodedRows``.

    Raises:
        UserError: a file cannot be read, or holds what training could only misunderstand.
    """
    spaces = dataset_spaces(dataset)
    # Every column that a run may read, whatever its settings.
    form = RowFormat.of_spaces(*spaces, SIGNALS, propensity=dataset.manifest.random_in_train)
    files = open_files(dataset.files("train"), form.names)
    needed = sum(file.rows for file in files) * form.row_bytes
    stores = [
        node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["Alive"]
    ]
    if needed > _STORE_SHARE * min(stores):
        return None
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return _read.options(scheduling_strategy=here).remote(files, form)


@ray.remote(num_cpus=0)
def _read(files: tuple[RowFile, ...], form: RowFormat) -> DecodedRows:
    return DecodedRows.read(files, form)
