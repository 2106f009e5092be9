"""Fitting a user response model on the logged answers of one part of a dataset."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from noetik_rllib.data.signals import BINARY_SIGNALS, SIGNALS
from noetik_rllib.envs.response_model import FitRecord, ResponseModel
from noetik_rllib.envs.response_network import ResponseConfig, ResponseNetwork
from noetik_rllib.errors import UserError
from noetik_rllib.iql.networks import NetworkConfig
from noetik_rllib.offline.dataset import OfflineDataset

#: Parts that end before the split time.
FITTING_PARTS = ("train", "judge")
#: Bins of the watch ratio. They hold equal shares of the rows, not equal ranges: half of the real
#: ratios are below 0.1, and a spike at 1 gets a bin of its own.
WATCH_BINS = 20
#: Share of the rows, the latest, that decide when to stop.
VALIDATION_SHARE = 0.15
BATCH_SIZE = 256
#: Small datasets get smaller batches, down to 64 rows, for this many steps per epoch.
MIN_STEPS_PER_EPOCH = 128
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.3
MAX_EPOCHS = 15
#: Epochs without a better validation loss after which fitting stops.
PATIENCE = 2
#: Prior of the users' vectors, a Gaussian around 0, which is the vector of an unknown user: the
#: weight of a vector's square against the sum of its user's losses.
PERSON_PENALTY = 30.0
#: The most rows of the part that are fitted on; whole users are left out above. Fitting a million
#: rows takes minutes and no longer improves a model of this size.
MAX_ROWS = 500_000
#: With fewer random exposures, what they differ in would be noise: they are left out.
MIN_UNIFORM_ROWS = 500


@dataclass(frozen=True)
class Rows:
    """Logged answers: states (R, state size), video (R,), user's place (R,), uniform exposure
    (R,), binary (R, 8), watch bin (R,).
    """

    states: Tensor
    videos: Tensor
    users: Tensor
    uniform: Tensor
    binary: Tensor
    watch_bin: Tensor

    def __len__(self) -> int:
        return len(self.videos)

    def take(self, index: Tensor) -> Rows:
        """Return the rows of ``index``."""
        return Rows(*(getattr(self, field.name)[index] for field in fields(self)))


def fit_response_model(
    dataset: OfflineDataset,
    part: str,
    *,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> ResponseModel:
    """Fit a response model on the answers of a part's users before the split time.

    These are the part's own rows, and the same users' rows in the part ``random``. The same
    dataset, part and seed give the same weights.

    Args:
        dataset: offline dataset.
        part: "train" or "judge".
        seed: of the initial weights and the order of the batches.
        progress: called with the share of the longest possible fit that is done, 0 to 1.

    Raises:
        UserError: the part reaches beyond the split time, or has fewer than two rows.
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
    edges, values = _watch_bins(raw["watch_ratio"][order[:count]])
    users = np.unique(raw["user_id"][order[:count]])
    config = ResponseConfig(
        tower=NetworkConfig.for_dataset(dataset.manifest, embedding_size=32),
        watch_values=values.tolist(),
        num_users=len(users),
    )
    with _one_thread():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = ResponseNetwork(config, dataset.catalog)
        network.user_id.copy_(torch.as_tensor(users))
        rows = _rows(raw, edges, network)
        del raw
        train = rows.take(torch.as_tensor(order[:count]))
        validation = rows.take(torch.as_tensor(order[count:]))
        _start_at_base_rates(network, train)
        epochs, loss = _train(network, train, validation, seed, progress)
        _settle(network, rows)
        del rows
    progress(1.0)
    record = FitRecord(
        dataset=dataset.fingerprint,
        part=part,
        seed=seed,
        rows=len(train),
        uniform_rows=int(train.uniform.sum()),
        users=len(users),
        validation_rows=len(validation),
        epochs=epochs,
        validation_loss=loss,
    )
    return ResponseModel(network, record)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread, then give it back what it had.

    The batches are small: a second thread saves little where a core is free, and where none is,
    waiting for it took ten times as long as the work. And sums come out the same everywhere.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _load(dataset: OfflineDataset, part: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Read the rows to fit on: the part's, and its users' random exposures before the split."""
    columns = ("user_id", "obs", "actions", "time_ms", *SIGNALS)
    users, counts = np.unique(dataset.load(part, ("user_id",))["user_id"], return_counts=True)
    order = rng.permutation(len(users))
    users = users[order[np.cumsum(counts[order]) <= MAX_ROWS]]
    raw = dataset.load(part, columns, users=users)
    raw["uniform"] = np.zeros(len(raw["user_id"]), dtype=np.float32)
    if not dataset.manifest.parts["random"].rows:
        return raw
    random = dataset.load("random", columns, users=users)
    early = dataset.before_split(random["user_id"], random["time_ms"])
    if early.sum() < MIN_UNIFORM_ROWS:
        return raw
    random["uniform"] = np.ones(len(early), dtype=np.float32)
    return {name: np.concatenate([raw[name], random[name][early]]) for name in raw}


def _watch_bins(ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the upper edges (W - 1,) and the mean value (W,) of bins of about equal counts."""
    edges = np.unique(
        np.quantile(ratios, np.arange(1, WATCH_BINS) / WATCH_BINS, method="inverted_cdf")
    )
    # Edges are observed ratios and belong to the bin below them, so no bin but one above the
    # maximum is empty.
    edges = edges[edges < ratios.max()]
    bins = np.searchsorted(edges, ratios, side="left")
    counts = np.bincount(bins, minlength=len(edges) + 1)
    return edges, np.bincount(bins, weights=ratios, minlength=len(counts)) / counts


def _rows(raw: dict[str, np.ndarray], edges: np.ndarray, network: ResponseNetwork) -> Rows:
    """Turn columns into tensors."""
    binary = np.stack([raw[name] for name in BINARY_SIGNALS], axis=1).astype(np.float32)
    return Rows(
        # Copies: torch warns about memory that NumPy may not write, such as Arrow's.
        states=torch.as_tensor(raw["obs"].astype(np.float32)),
        videos=torch.as_tensor(raw["actions"].astype(np.int64)),
        users=network.places(torch.as_tensor(raw["user_id"].astype(np.int64))),
        uniform=torch.as_tensor(raw["uniform"]),
        binary=torch.as_tensor(binary),
        watch_bin=torch.as_tensor(np.searchsorted(edges, raw["watch_ratio"], side="left")),
    )


def _start_at_base_rates(network: ResponseNetwork, train: Rows) -> None:
    """Begin at the mean of every signal: a rare one would otherwise take epochs to come down."""
    count = len(network.config.watch_values)
    # Half an event keeps the log-odds of a signal that never occurs finite.
    rate = (train.binary.sum(0) + 0.5) / (len(train) + 1)
    share = torch.bincount(train.watch_bin, minlength=count) / len(train)
    with torch.no_grad():
        network.output.weight.mul_(0.1)
        network.output.bias.copy_(torch.cat([torch.logit(rate), torch.log(share)]))


def _loss(output: tuple[Tensor, Tensor], rows: Rows) -> Tensor:
    """Negative log-likelihood of the rows' answers, given the logits of the binary signals (R, 8)
    and of the watch-ratio bins (R, W): sum over signals, mean over rows.
    """
    logits, bins = output
    binary = F.binary_cross_entropy_with_logits(logits, rows.binary, reduction="none").sum(-1)
    return binary.mean() + F.cross_entropy(bins, rows.watch_bin)


def _strangers(network: ResponseNetwork, rows: Rows) -> tuple[Tensor, Tensor]:
    """Hidden layer (R, hidden) as if no user had been met, and the videos' embeddings (R, D)."""
    table, past, place = network.video_table(rows.states, rows.videos)
    videos = table[place]
    return network.hidden(rows.states, F.embedding(past, table), videos, rows.uniform), videos


def _mean(loss: Callable[[Tensor], Tensor], count: int) -> float:
    """Mean of ``loss`` over all ``count`` rows, in chunks of their numbers."""
    with torch.no_grad():
        chunks = torch.arange(count).split(8_192)
        return sum(float(loss(index)) * len(index) for index in chunks) / count


def _train(
    network: ResponseNetwork,
    train: Rows,
    validation: Rows,
    seed: int,
    progress: Callable[[float], None],
) -> tuple[int, float]:
    """Fit ``network``: first for users as if none had been met, then what their vectors add.

    Returns:
        Epochs of the first stage up to the weights that were kept, and the final validation loss.
    """

    def of_strangers(rows: Rows) -> Callable[[Tensor], Tensor]:
        def loss(index: Tensor) -> Tensor:
            batch = rows.take(index)
            return _loss(network.head(_strangers(network, batch)[0]), batch)

        return loss

    common = [p for name, p in network.named_parameters() if not name.startswith("person.")]
    epochs, _ = _stage(
        network,
        torch.optim.AdamW(common, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        of_strangers(train),
        lambda: _mean(of_strangers(validation), len(validation)),
        Schedule(len(train), seed, lambda share: progress(0.9 * share)),
    )

    def of_persons(rows: Rows, penalty: float) -> Callable[[Tensor], Tensor]:
        # The first stage is over: what it says of a row is computed once.
        with torch.no_grad():
            chunks = torch.arange(len(rows)).split(8_192)
            known = [_strangers(network, rows.take(index)) for index in chunks]
        hidden, videos = (torch.cat(tensors) for tensors in zip(*known, strict=True))
        # Rows of each row's user: the penalty of a vector is spread over them.
        count = torch.bincount(rows.users)[rows.users]

        def loss(index: Tensor) -> Tensor:
            users = rows.users[index]
            added = network.person(users, videos[index])
            square = network.person.vector(users).square().sum(-1)
            prior = penalty * (square / count[index]).mean()
            return _loss(network.head(hidden[index] + added), rows.take(index)) + prior

        return loss

    later = of_persons(validation, 0.0)
    _, final = _stage(
        network,
        torch.optim.Adam(network.person.parameters(), lr=LEARNING_RATE),
        of_persons(train, PERSON_PENALTY),
        lambda: _mean(later, len(validation)),
        Schedule(len(train), seed, lambda share: progress(0.9 + 0.1 * share)),
    )
    return epochs, final


def _settle(network: ResponseNetwork, rows: Rows) -> None:
    """Set the last layer's bias to its optimum over all rows.

    The last steps leave the mean of a signal some percent off (rare ones 20 %). At the optimum,
    every predicted mean is the observed one.
    """
    with torch.no_grad():
        parts = []
        for index in torch.arange(len(rows)).split(8_192):
            batch = rows.take(index)
            hidden, videos = _strangers(network, batch)
            parts.append(network.head(hidden + network.person(batch.users, videos)))
    logits, bins = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    shift = torch.zeros_like(network.output.bias, requires_grad=True)
    optimizer = torch.optim.LBFGS([shift], max_iter=30, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        to_logits, to_bins = shift.split([logits.shape[1], bins.shape[1]])
        loss = _loss((logits + to_logits, bins + to_bins), rows)
        # Half an event of each kind, as at the start: a signal that never occurs stays finite.
        loss = loss + (F.softplus(logits + to_logits).mean(0) - 0.5 * to_logits).sum() / len(rows)
        torch.autograd.backward(loss)
        return loss.detach()

    optimizer.step(closure)
    with torch.no_grad():
        network.output.bias.add_(shift)


@dataclass(frozen=True)
class Schedule:
    """How long a stage may take: rows to shuffle, the seed of the order, and whom to tell."""

    rows: int
    seed: int
    progress: Callable[[float], None]


def _stage(
    network: ResponseNetwork,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Tensor], Tensor],
    validate: Callable[[], float],
    schedule: Schedule,
) -> tuple[int, float]:
    """Minimise ``loss`` of batches of row numbers until ``validate`` gets no better.

    The network ends with the best weights. Returns their epoch and validation loss.
    """
    batch_size = min(BATCH_SIZE, max(64, schedule.rows // MIN_STEPS_PER_EPOCH))
    shuffle = torch.Generator().manual_seed(schedule.seed)
    best_epoch, best_loss = 0, validate()
    best_weights = copy.deepcopy(network.state_dict())
    for epoch in range(1, MAX_EPOCHS + 1):
        batches = torch.randperm(schedule.rows, generator=shuffle).split(batch_size)
        for number, index in enumerate(batches, start=1):
            optimizer.zero_grad(set_to_none=True)
            loss(index).backward()
            optimizer.step()
            schedule.progress((epoch - 1 + number / len(batches)) / MAX_EPOCHS)
        validation_loss = validate()
        if validation_loss < best_loss:
            best_epoch, best_loss = epoch, validation_loss
            best_weights = copy.deepcopy(network.state_dict())
        elif epoch - best_epoch >= PATIENCE:
            break
    network.load_state_dict(best_weights)
    return best_epoch, best_loss
