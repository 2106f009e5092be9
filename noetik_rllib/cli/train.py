"""``noetik train``: one run of discrete IQL, in this process or on a Ray cluster."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any, TypeVar, get_args

import click

from noetik_rllib.cli.console import cluster_messages, err, out, progress_bar
from noetik_rllib.cli.errors import clean_end
from noetik_rllib.cli.types import PATH, PLACE, URI
from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.errors import UserError, did_you_mean
from noetik_rllib.iql.network_config import NetworkSizes
from noetik_rllib.iql.settings import IQLSettings
from noetik_rllib.progress import VALIDATION_PREFIX
from noetik_rllib.remote import RunStorage, cached_dataset
from noetik_rllib.run_folder import settings_to_resume
from noetik_rllib.runs import UNFINISHED_SUFFIX, TrainConfig, iterations_done, unfinished
from noetik_rllib.runs import train as train_run

Command = TypeVar("Command", bound=Callable[..., Any])

#: What the result line and ``--json`` show of the last iteration's line of progress.csv.
SHOWN = ("q_loss", "v_loss", "actor_loss", "q_mean", "v_mean", "effective_sample_size")


def _settings(command: Command) -> Command:
    """Give the command an option for every setting of ``TrainConfig``, as it is described there."""
    # The run's own settings first, then the networks', then the algorithm's.
    groups = [IQLSettings.model_fields, NetworkSizes.model_fields]
    names = sorted(TrainConfig.model_fields, key=lambda name: [name in group for group in groups])
    # Click shows the last decorator first.
    for name in reversed(names):
        if name in ("reward", "data_source"):  # written as text, see parse_reward; part of data
            continue
        field = TrainConfig.model_fields[name]
        option = f"--{name.replace('_', '-')}"
        kind: Any = PLACE if name == "data" else PATH
        flag = option
        if name == "storage":
            kind = URI
        elif name not in ("data", "out"):
            kind = type(field.default) if field.default is not None else float
            if name == "stopped_at":  # it has no default, and is a number of iterations
                kind = int
            if kind is str:  # one of the names in a Literal
                kind = click.Choice(get_args(field.annotation))
            flag = f"{option}/--no-{option[2:]}" if kind is bool else option
        given: dict[str, Any] = {}
        if not field.is_required():
            given = {"default": field.default, "show_default": field.default is not None}
        command = click.option(flag, name, type=kind, help=field.description, **given)(command)
    return command


def parse_reward(text: str | None) -> dict[str, float] | None:
    """Read ``click=0.5,like=2`` as weights; signals that are not named weigh nothing.

    Raises:
        UserError: an unknown signal, or a weight that is no number.
    """
    if text is None:
        return None
    weights = dict.fromkeys(SIGNALS, 0.0)
    for term in text.split(","):
        name, separator, weight = (part.strip() for part in term.partition("="))
        if not separator:
            raise UserError(f"reward '{term}': expected SIGNAL=WEIGHT, e.g. click=0.5,like=2")
        if name not in SIGNALS:
            raise UserError(
                f"reward: unknown signal '{name}'; expected one of {', '.join(SIGNALS)}."
                f"{did_you_mean(name, SIGNALS)}"
            )
        try:
            weights[name] = float(weight)
        except ValueError:
            raise UserError(f"reward: the weight of {name} is '{weight}', no number") from None
    return weights


def _settings_given(
    context: click.Context, run: Path | str | None, reward: str | None
) -> TrainConfig:
    """Return the settings to train with: the options', or those of ``run`` where none is given.

    Raises:
        UserError: one of them is wrong.
        click.UsageError: one is missing, or one too many.
    """
    names = [name for name in TrainConfig.model_fields if name not in ("reward", "data_source")]
    given = {name: context.params[name] for name in names}
    weights = parse_reward(reward)
    values: dict[str, Any] = {}
    if run is None:
        if given["out"] is None and given["storage"] is not None:
            given["out"] = _local_run(given["storage"])
        for name in ("data", "out"):
            if given[name] is None:
                raise click.UsageError(f"Missing option '--{name}'.")
    else:
        if given["out"] is not None:
            raise click.UsageError("--resume RUN says where the run is: leave out --out.")
        if isinstance(run, str):
            values["storage"] = run
            run = _fetched(run)
        values = settings_to_resume(run).model_dump() | values
        default = click.core.ParameterSource.DEFAULT
        given = {
            name: value
            for name, value in given.items()
            if context.get_parameter_source(name) is not default
        }
        given.setdefault("data", values["data_source"] or values["data"])
    if isinstance(given["data"], str):
        given["data_source"] = given["data"]
        given["data"] = cached_dataset(given["data"])
    return TrainConfig.parse(values | given | ({"reward": weights} if weights else {}))


def _local_run(storage: str) -> Path:
    """Return where a run that is kept at a URI is written first."""
    return Path("runs") / PurePosixPath(storage.partition("?")[0]).name


def _fetched(storage: str) -> Path:
    """Return a run that is kept at a URI, with its last checkpoint brought to this machine."""
    out = _local_run(storage)
    kept = RunStorage(storage, UNFINISHED_SUFFIX)
    work = unfinished(out)
    if not work.exists() or iterations_done(work) < max(kept.iterations(), default=0):
        kept.fetch(work)
    return out


def validated(row: dict[str, float]) -> str:
    """Say in a line what a validated policy is worth; ``row`` as ``on_iteration`` has it."""
    figures = ", ".join(
        f"{name.removeprefix(VALIDATION_PREFIX).replace('_', ' ')} {value:.3g}"
        for name, value in row.items()
        if name.startswith(VALIDATION_PREFIX)
    )
    return f"train: validation after iteration {row['iteration']:.0f}: {figures}"


class _StopRequest:
    """Ctrl-C or SIGTERM: lets the iteration end, so that nothing is lost; a second acts at once."""

    def __init__(self) -> None:
        self._number: int | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Put the handlers back at the end that were there before."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def accept(self) -> None:
        """Begin to take requests: after Ray has started, which sets a handler of its own."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def obey(self) -> None:
        """Stop here if that was asked for."""
        if self._number is not None:
            self._stop(self._number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._number is not None:
            self._stop(number)
        self._number = number
        # Not print(): it cannot be interrupted by another print().
        os.write(2, b"\nStopping when this iteration is done; once more stops at once.\n")

    def _stop(self, number: int) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


@click.command(
    epilog="Example: noetik train --data data/pure --out runs/pure --iterations 20",
)
@_settings
@click.option(
    "--reward",
    metavar="SIGNAL=WEIGHT,...",
    help="Reward to train on; by default click=0.5,watch_ratio=0.5.",
)
@click.option("--overwrite", is_flag=True, help="Replace the run OUT if it exists.")
@click.option(
    "--resume",
    type=PLACE,
    metavar="RUN",
    help="Continue RUN, or the one kept at a URI, from its last checkpoint, with its settings.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the final metrics as JSON.")
@click.pass_context
def train(
    context: click.Context,
    /,
    *,
    reward: str | None,
    overwrite: bool,
    resume: Path | str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train discrete IQL on an offline dataset, with RLlib.

    Needs --data and --out (or --storage), or --resume. Uses the Ray cluster of RAY_ADDRESS or 'ray
    submit', else this machine. Ctrl-C stops after the current iteration and keeps it.
    """
    config = _settings_given(context, resume, reward)
    last_iteration = config.last_iteration
    stop = _StopRequest()
    with clean_end(), stop.watching(), progress_bar("train") as update, cluster_messages():

        def start(done: int) -> None:
            doing = f"{last_iteration} iterations of {config.steps_per_iteration} gradient steps"
            if done:
                doing = f"resuming {config.out} at iteration {done} of {last_iteration}"
            update(doing, done / last_iteration)
            stop.accept()

        def show(row: dict[str, float]) -> None:
            done = int(row["iteration"])
            if f"{VALIDATION_PREFIX}reward" in row:
                err.print(validated(row), highlight=False, soft_wrap=True)
            doing = (
                f"iteration {done} of {last_iteration}, {row['rows_per_second']:,.0f} rows/s, "
                f"Q loss {row['q_loss']:.3f}"
            )
            if not err.is_terminal:  # a terminal's line is short, and its bar shows the time left
                left = (last_iteration - done) * row["seconds"] / done
                doing += f", policy loss {row['actor_loss']:.3f}"
                doing += f", waited for rows {row['data_wait_share']:.0%}"
                doing += f", {timedelta(seconds=round(left))} left"
            update(doing, done / last_iteration)
            if done < last_iteration:
                stop.obey()

        try:
            run = train_run(
                config, show, on_start=start, overwrite=overwrite, resume=resume is not None
            )
        except (KeyboardInterrupt, SystemExit):
            if done := iterations_done(unfinished(config.out)):
                err.print(
                    f"{done} of {last_iteration} iterations are kept: continue with "
                    f"'noetik train --resume {config.out}'",
                    highlight=False,
                    soft_wrap=True,
                )
            raise
    last = run.progress()[-1]
    if as_json:
        validation = run.validations()[-1:]
        worth = {"validation": validation[0]} if validation else {}
        click.echo(json.dumps({"run": str(run.directory), **last, **worth}))
        return
    err.print(f"{last['seconds']:.0f} s for {last['gradient_steps']:,.0f} gradient steps")
    figures = ", ".join(f"{name} {last[name]:.4g}" for name in SHOWN)
    out.print(figures, highlight=False, soft_wrap=True)
    out.print(f"Run written to {run.directory}", highlight=False, soft_wrap=True)
