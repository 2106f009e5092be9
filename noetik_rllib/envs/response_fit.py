"""Fitting a user response model on the logged answers of one part of a dataset."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.envs.response_answers import Answers, fit_bins, segment_of, thresholds
from noetik_rllib.envs.response_model import FitRecord, ResponseModel
from noetik_rllib.envs.response_network import (
    Family,
    ResponseConfig,
    ResponseNetwork,
    make_network,
)
from noetik_rllib.envs.response_training import (
    DIVERGED,
    Rows,
    calibrate,
    start_at_base_rates,
    train_network,
)
from noetik_rllib.envs.rows import load_rows
from noetik_rllib.envs.threads import one_thread
from noetik_rllib.errors import UserError
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.offline.dataset import OfflineDataset

#: Parts that end before the split time.
FITTING_PARTS = ("train", "judge")
#: Family of the model that answers while a policy is trained, and of the one that judges it. They
#: differ, so that a policy that exploits the first one's errors does not meet them again.
DEFAULT_FAMILY: dict[str, Family] = {"train": "attentive", "judge": "pooled"}
#: Share of the rows, the latest, that decide when to stop.
VALIDATION_SHARE = 0.15
#: The most rows of the part that are fitted on; whole users are left out above. Fitting a million
#: rows takes minutes and no longer improves a model of this size.
MAX_ROWS = 500_000
#: With fewer random exposures, what they differ in would be noise: they are left out.
MIN_UNIFORM_ROWS = 500


def fit_response_model(
    dataset: OfflineDataset,
    part: str,
    *,
    family: Family | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> ResponseModel:
    """Fit a response model on the answers of a part's users before the split time.

    These are the part's own rows, and the same users' rows in the part ``random``. The same
    dataset, part and seed give the same weights.

    Args:
        dataset: offline dataset.
        part: "train" or "judge".
        family: of networks; the part's own of ``DEFAULT_FAMILY`` where not given.
        seed: of the initial weights and the order of the batches.
        progress: called with the share of the longest possible fit that is done, 0 to 1.

    Raises:
        UserError: the part reaches beyond the split time, has fewer than two rows or a row that
            cannot be meant (``load_rows``), or the fit diverged.
    """
    if part not in FITTING_PARTS:
        raise UserError(
            f"a response model is not fitted on part '{part}', which reaches beyond the split "
            f"time: expected {' or '.join(FITTING_PARTS)}"
        )
    progress = progress or (lambda share: None)
    progress(0.0)
    raw = _load(dataset, part, np.random.default_rng(seed))
    if len(raw["time_ms"]) < 2:
        raise UserError(
            f"part '{part}' of {dataset.directory} has {len(raw['time_ms'])} row(s): a response "
            "model needs at least 2, one of them to validate on"
        )
    order = np.argsort(raw["time_ms"], kind="stable")
    count = len(order) - max(1, round(VALIDATION_SHARE * len(order)))
    limits = thresholds(dataset.catalog.duration_ms)[raw["actions"][order[:count]]]
    edges, places = fit_bins(*segment_of(raw["watch_ratio"][order[:count]], limits))
    users = np.unique(raw["user_id"][order[:count]])
    config = ResponseConfig(
        family=family or DEFAULT_FAMILY[part],
        tower=NetworkConfig.for_dataset(dataset.manifest, embedding_size=32),
        places=places,
        num_users=len(users),
    )
    with one_thread():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = make_network(config, dataset.catalog)
        network.user_id.copy_(torch.as_tensor(users))
        network.about.means.copy_(torch.tensor(dataset.manifest.signals.mean))
        rows = _rows(raw, edges, network)
        del raw
        train = rows.take(torch.as_tensor(order[:count]))
        validation = rows.take(torch.as_tensor(order[count:]))
        del rows
        start_at_base_rates(network, train)
        epochs, loss = train_network(network, train, validation, seed, progress)
        calibrate(network, train, validation)
    if not network.is_finite():
        raise UserError(DIVERGED)
    progress(1.0)
    record = FitRecord(
        dataset=dataset.fingerprint,
        part=part,
        family=config.family,
        seed=seed,
        rows=len(train),
        uniform_rows=int(train.uniform.sum()),
        users=len(users),
        validation_rows=len(validation),
        epochs=epochs,
        validation_loss=loss,
    )
    return ResponseModel(network, record)


def remark_on_exposure(record: FitRecord) -> str | None:
    """Say what a model without uniformly exposed rows is no good for; None where it has some."""
    if record.uniform_rows:
        return None
    return (
        f"there are fewer than {MIN_UNIFORM_ROWS} uniformly exposed rows of these users before the "
        "split, so the model has learnt nothing of videos that the platform would not show them, "
        "and overrates those: a policy that strays from the log is paid too much. Prepare the log "
        "with a split after the random exposures began: noetik data prepare --split time "
        "--split-at TIME"
    )


def _load(dataset: OfflineDataset, part: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Read the rows to fit on: the part's, and its users' random exposures before the split."""
    columns = ("user_id", "obs", "actions", "time_ms", "propensity", *SIGNALS)
    users, counts = np.unique(dataset.load(part, ("user_id",))["user_id"], return_counts=True)
    order = rng.permutation(len(users))
    users = users[order[np.cumsum(counts[order]) <= MAX_ROWS]]
    raw = load_rows(dataset, part, columns, users=users)
    # Where training has random exposures too (--random-in-train), their propensity is known.
    raw["uniform"] = (~np.isnan(raw.pop("propensity"))).astype(np.float32)
    if not dataset.manifest.parts["random"].rows:
        return raw
    random = load_rows(dataset, "random", columns, users=users)
    early = dataset.before_split(random["user_id"], random["time_ms"])
    if early.sum() < MIN_UNIFORM_ROWS:
        return raw
    random["uniform"] = np.ones(len(early), dtype=np.float32)
    random.pop("propensity")
    return {name: np.concatenate([raw[name], random[name][early]]) for name in raw}


def _rows(raw: dict[str, np.ndarray], edges: list[np.ndarray], network: ResponseNetwork) -> Rows:
    """Turn columns into tensors."""
    videos = torch.as_tensor(raw["actions"].astype(np.int64))
    limits = network.limits[videos]
    return Rows(
        # Copies: torch warns about memory that NumPy may not write, such as Arrow's.
        states=torch.as_tensor(raw["obs"].astype(np.float32)),
        videos=videos,
        users=network.places(torch.as_tensor(raw["user_id"].astype(np.int64))),
        uniform=torch.as_tensor(raw["uniform"]),
        limits=limits,
        answers=Answers.of(raw, limits.numpy(), edges),
    )
