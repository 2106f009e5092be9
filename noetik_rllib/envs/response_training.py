"""Training of a response network: the two stages, and the calibration that ends them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from noetik_rllib.envs.response_answers import CLICK_PLAY, FLAGS, Answers
from noetik_rllib.envs.response_network import ResponseNetwork
from noetik_rllib.errors import UserError

BATCH_SIZE = 256
#: Small datasets get smaller batches, down to 64 rows, for this many steps per epoch.
MIN_STEPS_PER_EPOCH = 128
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.3
MAX_EPOCHS = 15
#: Epochs without a better validation loss after which fitting stops.
PATIENCE = 2
#: The weights that are kept are a running mean over the last 1 / (1 - AVERAGING) steps or so: the
#: noise of single steps is out of it, as after a decayed learning rate, at any time.
AVERAGING = 0.99
#: Prior of the users' vectors, a Gaussian around 0, which is the vector of an unknown user: the
#: weight of a vector's square against the sum of its user's losses.
PERSON_PENALTY = 30.0
#: Standard deviations of the priors of the calibration: how far, in log-odds, the rate of a signal
#: drifts within days, and how far from 1 the slope of its log-odds may be.
DRIFT_PRIOR, SLOPE_PRIOR = 0.05, 1.0
#: Newton's method settles a shift of 2 or 3 log-odds, the most there is, in so many steps.
NEWTON_STEPS = 10
CHUNK = 8_192
DIVERGED = (
    "fitting the response model diverged: its loss or a weight is no finite number; look for "
    "absurd values in the dataset's states"
)


@dataclass(frozen=True)
class Rows:
    """Logged answers: states (R, state size), video (R,), user's place (R,), uniform exposure
    (R,), thresholds of the video (R, 2), and the answers.
    """

    states: Tensor
    videos: Tensor
    users: Tensor
    uniform: Tensor
    limits: Tensor
    answers: Answers

    def __len__(self) -> int:
        return len(self.videos)

    def take(self, index: Tensor) -> Rows:
        """Return the rows of ``index``."""
        parts = {
            field.name: getattr(self, field.name)[index]
            for field in fields(self)
            if field.name != "answers"
        }
        return Rows(**parts, answers=self.answers.take(index))


def start_at_base_rates(network: ResponseNetwork, train: Rows) -> None:
    """Begin at the mean of every signal: a rare one would otherwise take epochs to come down."""
    form = network.form
    labels, counted = form.flags(train.answers, train.limits)
    # Half an event keeps the log-odds of a signal that never occurs finite.
    rate = ((labels * counted).sum(0) + 0.5) / (counted.sum(0) + 1)
    count = torch.zeros(sum(form.bins))
    first = 0
    for segment, size in enumerate(form.bins):
        own = train.answers.bin[train.answers.segment == segment]
        count[first : first + size] = torch.bincount(own, minlength=size)
        first += size
    with torch.no_grad():
        network.output.weight.mul_(0.1)
        network.output.bias.copy_(torch.cat([torch.logit(rate), torch.log(count + 0.5)]))


def _minimise(parameters: list[Tensor], loss: Callable[[], Tensor]) -> None:
    """Minimise a smooth loss of a few parameters by L-BFGS."""
    optimizer = torch.optim.LBFGS(parameters, max_iter=30, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        torch.autograd.backward(value)
        return value.detach()

    optimizer.step(closure)


def _strangers(network: ResponseNetwork, rows: Rows) -> tuple[Tensor, Tensor]:
    """Hidden layer (R, hidden) as if no user had been met, and the videos' embeddings (R, D)."""
    table, past, place = network.video_table(rows.states, rows.videos)
    videos = table[place]
    return network.hidden(rows.states, F.embedding(past, table), videos, rows.uniform), videos


def _mean(loss: Callable[[Tensor], Tensor], count: int) -> float:
    """Mean of ``loss`` over all ``count`` rows, in chunks of their numbers."""
    with torch.no_grad():
        chunks = torch.arange(count).split(CHUNK)
        return sum(float(loss(index)) * len(index) for index in chunks) / count


def train_network(
    network: ResponseNetwork,
    train: Rows,
    validation: Rows,
    seed: int,
    progress: Callable[[float], None],
) -> tuple[int, float]:
    """Fit ``network``: first for users as if none had been met, then what their vectors add.

    Returns:
        Epochs of the first stage up to the weights that were kept, and the final validation loss.

    Raises:
        UserError: the fit diverged.
    """

    def of_strangers(rows: Rows) -> Callable[[Tensor], Tensor]:
        def loss(index: Tensor) -> Tensor:
            batch = rows.take(index)
            outputs = network.head(_strangers(network, batch)[0])
            return network.form.loss(outputs, batch.answers, batch.limits)

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
            chunks = torch.arange(len(rows)).split(CHUNK)
            known = [_strangers(network, rows.take(index)) for index in chunks]
        hidden, videos = (torch.cat(tensors) for tensors in zip(*known, strict=True))
        # Rows of each row's user: the penalty of a vector is spread over them.
        count = torch.bincount(rows.users)[rows.users]

        def loss(index: Tensor) -> Tensor:
            users = rows.users[index]
            added = network.person(users, videos[index])
            square = network.person.vector(users).square().sum(-1)
            prior = penalty * (square / count[index]).mean()
            outputs = network.head(hidden[index] + added)
            likelihood = network.form.loss(outputs, rows.answers.take(index), rows.limits[index])
            return likelihood + prior

        return loss

    network.person.point_at(network.output.weight[CLICK_PLAY])
    later = of_persons(validation, 0.0)
    _, final = _stage(
        network,
        torch.optim.Adam(network.person.parameters(), lr=LEARNING_RATE),
        of_persons(train, PERSON_PENALTY),
        lambda: _mean(later, len(validation)),
        Schedule(len(train), seed, lambda share: progress(0.9 + 0.1 * share)),
    )
    return epochs, final


def calibrate(network: ResponseNetwork, train: Rows, validation: Rows) -> None:
    """Correct the last layer, so that the probabilities of its flags are frequencies.

    A slope of each flag's log-odds around their mean (Platt scaling), from the validation rows,
    since a network is too sure on those that it was fitted on. Then a shift, from all rows: the
    last steps leave the mean of a rare signal 20 % off. Then the drift of the last days, from the
    validation rows again, which are the latest. Slope and drift have priors around 1 and 0: of a
    signal with ten events there nothing is concluded.
    """
    flags = [_outputs(network, rows)[:, :FLAGS] for rows in (train, validation)]
    facts = [network.form.flags(rows.answers, rows.limits) for rows in (train, validation)]
    late, (labels, counted) = flags[1], facts[1]
    every = torch.cat(flags)
    every_label, every_counted = (torch.cat(list(pair)) for pair in zip(*facts, strict=True))
    centre = (late * counted).sum(0) / counted.sum(0).clamp(min=1.0)

    def sloped(logits: Tensor) -> Tensor:
        return (logits - centre) * slope + centre

    slope = torch.ones(FLAGS, requires_grad=True)
    level = torch.zeros(FLAGS, requires_grad=True)

    def loss() -> Tensor:
        prior = ((slope - 1) / SLOPE_PRIOR).square() + (level / DRIFT_PRIOR).square()
        likelihood = _unlikelihood(sloped(late) + level, labels, counted)
        return (likelihood + 0.5 * prior).sum() / len(late)

    _minimise([slope, level], loss)
    with torch.no_grad():
        # Half an event of each kind: a signal that never occurs stays finite.
        shift = _best_shift(sloped(every), every_label, every_counted, events=0.5)
        drift = _best_shift(sloped(late) + shift, labels, counted, prior=DRIFT_PRIOR)
        network.output.weight[:FLAGS] *= slope[:, None]
        network.output.bias[:FLAGS] *= slope
        network.output.bias[:FLAGS] += centre * (1 - slope) + shift + drift


def _best_shift(
    logits: Tensor, labels: Tensor, counted: Tensor, *, events: float = 0.0, prior: float = 1e3
) -> Tensor:
    """Return what must be added to logits to make labels likeliest, (FLAGS,), by Newton's method.

    Args:
        logits: (R, FLAGS).
        labels: 0.0 or 1.0, (R, FLAGS).
        counted: 0.0 where a label says nothing, (R, FLAGS).
        events: so many events of each kind are imagined beside the rows.
        prior: standard deviation of the shift.
    """
    shift = torch.zeros(logits.shape[1])
    found = (labels * counted).sum(0) + events
    total = counted.sum(0)
    scale = (total + 2 * events) / total.clamp(min=1.0)
    for _ in range(NEWTON_STEPS):
        probability = torch.sigmoid(logits + shift)
        slack = found - (probability * counted).sum(0) * scale - shift / prior**2
        curvature = (probability * (1 - probability) * counted).sum(0) * scale + 1 / prior**2
        # The method leaps where the curve is flat, far from the rate: one log-odd at a time.
        shift = shift + (slack / curvature).clamp(-1.0, 1.0)
    return shift


def _unlikelihood(logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """Sum over R rows of the negative log-likelihood of each flag, all (R, FLAGS)."""
    loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (loss * counted).sum(0)


def _outputs(network: ResponseNetwork, rows: Rows) -> Tensor:
    """Outputs (R, size) for all rows, their users known."""
    parts = []
    with torch.no_grad():
        for index in torch.arange(len(rows)).split(CHUNK):
            batch = rows.take(index)
            hidden, videos = _strangers(network, batch)
            parts.append(network.head(hidden + network.person(batch.users, videos)))
    return torch.cat(parts)


@dataclass(frozen=True)
class Schedule:
    """How long a stage may take: rows to shuffle, the seed of the order, and whom to tell."""

    rows: int
    seed: int
    progress: Callable[[float], None]


def _finite(loss: float) -> float:
    """Return a validation loss, which must be finite: NaN is never the best, nor said to be bad."""
    if not math.isfinite(loss):
        raise UserError(DIVERGED)
    return loss


def _stage(
    network: ResponseNetwork,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Tensor], Tensor],
    validate: Callable[[], float],
    schedule: Schedule,
) -> tuple[int, float]:
    """Minimise ``loss`` of batches of row numbers until ``validate`` gets no better.

    The network ends with the best of the averaged weights. Returns their epoch and validation
    loss.

    Raises:
        UserError: a validation loss is not finite.
    """
    batch_size = min(BATCH_SIZE, max(64, schedule.rows // MIN_STEPS_PER_EPOCH))
    shuffle = torch.Generator().manual_seed(schedule.seed)
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    with torch.no_grad():
        average = [weight.clone() for weight in weights]
    best_epoch, best_loss = 0, _finite(validate())
    best_weights = copy.deepcopy(average)
    for epoch in range(1, MAX_EPOCHS + 1):
        batches = torch.randperm(schedule.rows, generator=shuffle).split(batch_size)
        for number, index in enumerate(batches, start=1):
            optimizer.zero_grad(set_to_none=True)
            loss(index).backward()
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, weights, 1 - AVERAGING)
            schedule.progress((epoch - 1 + number / len(batches)) / MAX_EPOCHS)
        with torch.no_grad():
            current = [weight.clone() for weight in weights]
            torch._foreach_copy_(weights, average)
            validation_loss = _finite(validate())
            torch._foreach_copy_(weights, current)
        if validation_loss < best_loss:
            best_epoch, best_loss = epoch, validation_loss
            best_weights = copy.deepcopy(average)
        elif epoch - best_epoch >= PATIENCE:
            break
    with torch.no_grad():
        torch._foreach_copy_(weights, best_weights)
    return best_epoch, best_loss
