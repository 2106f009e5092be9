"""Several learners: their places on the cluster, and an error at once when one of them is lost.

RLlib's ``LearnerGroup`` waits for all learners, without a limit
(``ray/rllib/utils/actor_manager.py:942``). A learner whose partner is gone waits for it in the
gradient exchange: for torch's half hour where the partner's host was cut off, since no packet tells
it. Ray knows of the loss within seconds.
"""

from __future__ import annotations

import logging
import re
import time
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.utils.actor_manager import FaultTolerantActorManager
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group,
    remove_placement_group,
)

from noetik_rllib.errors import UserError

#: Prints what happens to hosts and learners; the command line shows it.
log = logging.getLogger("noetik_rllib.cluster")

#: How long after a learner's error another one's death may become known: longer than Ray takes for
#: a host that was cut off, 64 s by default.
_DEATH_SECONDS = 90.0


class LearnerLostError(Exception):
    """A learner's process or host is gone; training can go on from the last checkpoint."""


def _lost(error: Exception) -> LearnerLostError:
    """Say in a line which learner is gone; Ray's own text has ten, of which one is the reason."""
    text = str(error)
    address = re.search(r"^\s*ip: (\S+)", text, re.MULTILINE)
    where = f"the learner on {address[1]}" if address else "a learner"
    reason = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    return LearnerLostError(f"{where} is gone: {reason.strip()[:200]}")


class FailFastActorManager(FaultTolerantActorManager):
    """Raises as soon as one actor of a call is dead, where RLlib waits for the others as well."""

    def _fetch_result(
        self, *, remote_calls: list[Any], timeout_seconds: float | None = None, **kwargs: Any
    ) -> Any:
        """Wait for the results of a call (RLlib's own hook of this class).

        Raises:
            LearnerLostError: one of the actors is dead.
            RayTaskError: one of them raised; its cause is the error.
        """
        pending = list(remote_calls) if timeout_seconds is None else []
        while pending:
            (done,), pending = ray.wait(pending, num_returns=1, fetch_local=False)
            try:
                ray.get(done)
            except RayError as error:
                self._raise(error)
        return super()._fetch_result(
            remote_calls=remote_calls, timeout_seconds=timeout_seconds, **kwargs
        )

    def _raise(self, error: RayError) -> None:
        """Raise what a failed call means.

        Where a learner's process dies, the system resets its connections, and the others' exchange
        of gradients fails before Ray knows of the death: an error may be another learner's end.
        """
        if isinstance(error, RayTaskError) and not isinstance(error, RayActorError):
            if isinstance(error.cause, UserError) or not self._has_dead_actor():
                raise error
        elif not isinstance(error, RayActorError):
            raise error
        raise _lost(error) from None

    def _has_dead_actor(self) -> bool:
        pending = [actor.__ray_ready__.remote() for actor in self.actors().values()]
        end = time.monotonic() + _DEATH_SECONDS
        while pending and (left := end - time.monotonic()) > 0:
            done, pending = ray.wait(pending, num_returns=1, timeout=left, fetch_local=False)
            try:
                ray.get(done)
            except RayActorError:
                return True
        return False


class FailFastLearnerGroup(LearnerGroup):
    """A ``LearnerGroup`` whose calls fail when a learner is lost."""

    def __init__(self, *, config: AlgorithmConfig, **kwargs: Any) -> None:
        self._is_shut_down = False
        super().__init__(config=config, **kwargs)
        if self.is_remote:
            self._worker_manager = FailFastActorManager(
                self._workers,
                max_remote_requests_in_flight_per_actor=config.max_requests_in_flight_per_learner,
            )

    def shutdown(self) -> None:
        """End the learners; those of a group that lost one at once, as they may be stuck."""
        if self.is_remote and hasattr(self, "_backend_executor") and not self._is_shut_down:
            manager = self._worker_manager
            whole = manager.num_healthy_actors() == manager.num_actors()
            self._backend_executor.shutdown(graceful_termination=whole)
            self._is_shut_down = True
        else:
            super().shutdown()


def learner_resources(config: AlgorithmConfig) -> dict[str, float]:
    """Return what one learner process takes, as ``LearnerGroup.__init__`` has it."""
    cpus, gpus = config.num_cpus_per_learner, config.num_gpus_per_learner
    if cpus == "auto":
        cpus = 0 if gpus else 1
    resources = {"CPU": cpus, "GPU": gpus, **(config.custom_resources_per_learner or {})}
    return {name: float(amount) for name, amount in resources.items() if amount}


def reserve(config: AlgorithmConfig, wait_seconds: float) -> PlacementGroup | None:
    """Hold what the learners take, together, so that none of them starts alone and waits.

    An autoscaler sees the whole of it at once.

    Returns:
        None where there are no learner processes, or where they are part of a trial's own group.

    Raises:
        UserError: it was not free in time.
    """
    if config.num_learners == 0 or get_current_placement_group() is not None:
        return None
    each = learner_resources(config)
    group = placement_group([each] * config.num_learners, strategy=config.placement_strategy)
    if group.wait(2):
        return group
    amounts = " and ".join(f"{amount:g} {name}" for name, amount in each.items())
    what = f"{config.num_learners} learners of {amounts} each"
    log.warning("Waiting for room for %s, %g minutes at most.", what, wait_seconds / 60)
    if group.wait(wait_seconds):
        return group
    remove_placement_group(group)
    raise UserError(
        f"no room for {what} within {wait_seconds / 60:g} minutes: see 'ray status' for who holds "
        "it and what the autoscaler waits for; or ask for fewer --num-learners"
    )


def build(
    config: AlgorithmConfig, wait_seconds: float, group: PlacementGroup | None, **kwargs: Any
) -> FailFastLearnerGroup:
    """Start the learners.

    Args:
        config: says how many, and what each of them takes.
        wait_seconds: how long to wait for room for them.
        group: where to start them, if that is held already.
        **kwargs: of ``LearnerGroup``.

    Raises:
        LearnerLostError: a host was lost meanwhile.
        UserError: there was no room for them.
    """
    if config.num_learners == 0:
        return FailFastLearnerGroup(config=config, **kwargs)
    group = group or reserve(config, wait_seconds)
    before = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    try:
        return FailFastLearnerGroup(config=config, placement_group=group, **kwargs)
    except Exception as error:
        if group is not None:
            remove_placement_group(group)
        # Ray's own restart of half a group begins other actors than learners
        # (ray/train/_internal/backend_executor.py:795), so the error may be of any type.
        now = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if isinstance(error, RayActorError) or before - now:
            raise _lost(error) from None
        raise
