"""The response model of an environment that names none: fitted in the process, and said so."""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path

from noetik_rllib.envs.response_fit import fit_response_model, remark_on_exposure
from noetik_rllib.envs.response_model import ResponseModel
from noetik_rllib.offline.dataset import OfflineDataset

#: Seconds between two lines of progress; a fit that takes less has none.
_EVERY_SECONDS = 5.0


@functools.lru_cache(maxsize=4)
def default_model(directory: Path, fingerprint: str) -> ResponseModel:
    """Response model of the part ``train``, fitted once per process and state of the dataset.

    Args:
        directory: the dataset.
        fingerprint: of the dataset, so that another one under the same name is not taken for it.

    Raises:
        UserError: as ``fit_response_model``.
    """
    _say(
        f"KuaiRandEnv: no response_model is named, so one is fitted on the part 'train' of "
        f"{directory}, in this process alone; keep one with: noetik user-model fit {directory} "
        "--part train --out FOLDER"
    )
    told = time.monotonic()

    def progress(share: float) -> None:
        nonlocal told
        if time.monotonic() - told >= _EVERY_SECONDS:
            told = time.monotonic()
            _say(f"KuaiRandEnv: fitting, {share:.0%} of the most that it can take")

    model = fit_response_model(OfflineDataset(directory), "train", progress=progress)
    remark = remark_on_exposure(model.record)
    if remark:
        _say(f"KuaiRandEnv: {remark}")
    return model


def _say(line: str) -> None:
    """Print to stderr: a library's stdout is its caller's."""
    print(line, file=sys.stderr, flush=True)
