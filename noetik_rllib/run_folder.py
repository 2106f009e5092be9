"""The folder that a run trains in: how it is begun, resumed and kept from being lost.

A run trains in ``OUT.unfinished`` and takes the name ``OUT`` when it is whole. A folder appears
under either name with everything in it, in one step, so a process that is killed leaves a run that
can be resumed, or none. One that stops by itself leaves ``OUT.unfinished`` where it holds a
checkpoint.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.baseline_cache import USER_MODEL, cache_path
from noetik_rllib.io import atomic_directory, make_directory, remove_stale, write_json
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.progress import PROGRESS_NAME, VALIDATION_NAME
from noetik_rllib.runs import (
    CHECKPOINT_NAME,
    CONFIG_NAME,
    POLICY_NAME,
    SNAPSHOTS_NAME,
    UNFINISHED_SUFFIX,
    TrainConfig,
    iterations_done,
    unfinished,
)

#: Of a run that goes on from copies of others: which, at which iteration, and what was changed.
LINEAGE_NAME = "lineage.json"
_STARTED_ON = "started_on.json"
#: Settings that a resumed run may change: where it is, how long it trains, how often it is saved,
#: what it puts up with.
_FREE = (
    "out",
    "storage",
    "iterations",
    "stopped_at",
    "checkpoint_seconds",
    "host_wait_minutes",
    "max_restarts",
)


def claim(config: TrainConfig, *, overwrite: bool, resume: bool) -> Path:
    """Make or find the folder to train in, and refuse to lose anything that is there.

    Returns:
        ``OUT.unfinished``, with ``config.yaml`` in it.

    Raises:
        UserError: something is in the way, or there is nothing to resume.
    """
    out, work = config.out, unfinished(config.out)
    if out.exists() and not is_run(out) and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is no run: choose another --out")
    if resume:
        _resume(config, overwrite=overwrite)
    elif overwrite or not (is_run(out) or work.exists()):
        with atomic_directory(work, replace=overwrite) as part:
            fingerprint = OfflineDataset(config.data).fingerprint
            write_json(part / _STARTED_ON, {"dataset_sha256": fingerprint})
            config.save(part)
    elif is_run(out):
        raise UserError(f"{out} holds a finished run: choose another --out, or use --overwrite")
    else:
        raise UserError(
            f"{work} holds an unfinished run ({iterations_done(work)} iterations): continue it "
            f"with '--resume {out}', or replace it with --overwrite"
        )
    # What processes that were killed left: files half written, and folders half removed.
    remove_stale(out)
    for name in (CONFIG_NAME, PROGRESS_NAME, VALIDATION_NAME, CHECKPOINT_NAME, POLICY_NAME):
        remove_stale(work / name)
    for iteration in config.snapshot_iterations:
        remove_stale(work / SNAPSHOTS_NAME / str(iteration))
    return work


def settings_to_resume(out: Path) -> TrainConfig:
    """Return the settings of the run ``out``, unfinished or finished.

    Of a finished one that was stopped early, they are without ``stopped_at``: it goes on to the end
    that it was begun for.

    Args:
        out: the run; ``OUT.unfinished`` means the same.

    Raises:
        UserError: there is none, or its settings are damaged.
    """
    out = out.with_name(out.name.removesuffix(UNFINISHED_SUFFIX))
    for directory, change in ((unfinished(out), {}), (out, {"stopped_at": None})):
        if is_run(directory):
            return TrainConfig.load(directory).model_copy(update={"out": out, **change})
    raise UserError(f"nothing to resume: there is no run {out}, nor {unfinished(out)}")


def is_run(directory: Path) -> bool:
    """Whether a folder is that of a run, finished or not."""
    return (directory / CONFIG_NAME).is_file()


def read_lineage(run: Path) -> list[dict[str, Any]]:
    """Return what ``begin_copy`` was told of the run in a folder; nothing of most runs."""
    path = run / LINEAGE_NAME
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    return found


def begin_copy(run: Path, config: TrainConfig, lineage: list[dict[str, Any]]) -> None:
    """Begin ``config.out`` anew where a finished run has ended, with the settings of ``config``.

    What ``config.out`` has trained on its way is lost; if it is a finished run, it stays until the
    training that goes on from here is whole.

    Args:
        run: the finished run.
        config: settings to go on with: such as each gradient step has for itself alone.
        lineage: of ``config.out`` from now on.
    """
    with atomic_directory(unfinished(config.out)) as part:
        _copy_state(run, part)
        config.save(part)
        write_json(part / LINEAGE_NAME, lineage)


def check_dataset(run: Path, data: Path) -> None:
    """Check that ``data`` is still the dataset that the run in this folder was started on.

    Raises:
        UserError: it was prepared again meanwhile: other users may be held out there.
    """
    started_on = json.loads((run / _STARTED_ON).read_text(encoding="utf-8"))
    if OfflineDataset(data).fingerprint != started_on["dataset_sha256"]:
        raise UserError(
            f"{data} is not the dataset that {run} was started on: it was prepared again "
            "meanwhile; train again with --overwrite"
        )


def _resume(config: TrainConfig, *, overwrite: bool) -> None:
    out, work = config.out, unfinished(config.out)
    before = settings_to_resume(out)
    _check_settings(before, config)
    if not work.exists():
        _reopen(config)
    elif is_run(out) and not overwrite:
        # A longer training of that very run may take its place; anything else is asked for.
        try:
            _check_settings(TrainConfig.load(out), config)
        except UserError:
            raise UserError(
                f"{out} holds a finished run that {work} would replace: resume with --overwrite"
            ) from None
    done = iterations_done(work)
    if done > config.last_iteration:
        raise UserError(f"{work} has {done} iterations already: resume with at least as many")
    check_dataset(work, config.data)
    config.save(work)


def _check_settings(before: TrainConfig, config: TrainConfig) -> None:
    """Refuse to resume with other settings.

    Raises:
        UserError: naming them.
    """
    changed = [
        f"{name} {getattr(before, name)} -> {getattr(config, name)}"
        for name in TrainConfig.model_fields
        if name not in (*_FREE, "data") and getattr(before, name) != getattr(config, name)
    ]
    # Of a copy, the folder is this machine's own.
    if before.data != config.data.resolve() and config.data_source is None:
        changed.append(f"data {before.data} -> {config.data.resolve()}")
    if changed:
        raise UserError(f"a resumed run keeps its settings: {', '.join(changed)}")
    if config.actor_lr_decay and before.iterations != config.iterations:
        raise UserError(
            f"iterations {before.iterations} -> {config.iterations}: the policy's step size falls "
            f"to 0 over the {before.iterations} that this run began with (actor_lr_decay); train a "
            f"new run of {config.iterations}, or one with --no-actor-lr-decay, which can be "
            "lengthened"
        )


def _reopen(config: TrainConfig) -> None:
    """Copy of a finished run what training on needs; the run itself stays until that is done."""
    out = config.out
    done = TrainConfig.load(out).last_iteration
    if config.last_iteration <= done:
        raise UserError(
            f"{out} is finished: it has its {done} iterations; resume with more to train on"
        )
    check_dataset(out, config.data)
    with atomic_directory(unfinished(out), replace=False) as part:
        _copy_state(out, part)


def _copy_state(run: Path, part: Path) -> None:
    """Copy of a finished run what training on needs."""
    shutil.copytree(run / CHECKPOINT_NAME, part / CHECKPOINT_NAME)
    for name in (CONFIG_NAME, _STARTED_ON, LINEAGE_NAME):
        if (run / name).exists():
            shutil.copy2(run / name, part)
    model = cache_path(run, USER_MODEL)
    if model.is_file():
        make_directory(cache_path(part, USER_MODEL).parent)
        shutil.copy2(model, cache_path(part, USER_MODEL))
    for file in run.glob("events.out.tfevents.*"):
        shutil.copy2(file, part)
    if (run / SNAPSHOTS_NAME).is_dir():
        shutil.copytree(run / SNAPSHOTS_NAME, part / SNAPSHOTS_NAME)
    # What was its end is a policy on the way now; one that was stopped there may have it already.
    end = part / SNAPSHOTS_NAME / str(TrainConfig.load(run).last_iteration)
    shutil.copytree(run / POLICY_NAME, end, dirs_exist_ok=True)
