"""``noetik train``: one run of discrete IQL, in this process or on a Ray cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from noetik_rllib.cli.console import err, out, progress_bar
from noetik_rllib.cli.types import PATH
from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.errors import UserError, did_you_mean
from noetik_rllib.iql.network_config import NetworkSizes
from noetik_rllib.iql.settings import IQLSettings
from noetik_rllib.runs import TrainConfig, iterations_done, unfinished
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
        if name == "reward":  # written as text, see parse_reward
            continue
        field = TrainConfig.model_fields[name]
        option = f"--{name.replace('_', '-')}"
        kind: Any = PATH
        flag = option
        if name not in ("data", "out"):
            kind = type(field.default) if field.default is not None else float
            if kind is str:  # one of the names in a Literal
                kind = click.Choice(get_args(field.annotation))
            flag = f"{option}/--no-{option[2:]}" if kind is bool else option
        given: dict[str, Any] = {"required": True}
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
@click.option("--resume", is_flag=True, help="Continue OUT from its last checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print the final metrics as JSON.")
def train(
    *, reward: str | None, overwrite: bool, resume: bool, as_json: bool, **settings: Any
) -> None:
    """Train discrete IQL on an offline dataset, with RLlib.

    Uses the Ray cluster of RAY_ADDRESS or 'ray submit', else this machine.
    """
    weights = parse_reward(reward)
    config = TrainConfig.parse(settings | ({"reward": weights} if weights else {}))
    with progress_bar("train") as update:

        def show(row: dict[str, float]) -> None:
            update(
                f"Q loss {row['q_loss']:.3f}, policy loss {row['actor_loss']:.3f}",
                row["iteration"] / config.iterations,
            )

        try:
            run = train_run(config, show, overwrite=overwrite, resume=resume)
        except KeyboardInterrupt:
            if done := iterations_done(unfinished(config.out)):
                err.print(f"{done} iterations are kept: continue with --resume.")
            raise
    last = run.progress()[-1]
    if as_json:
        click.echo(json.dumps({"run": str(run.directory), **last}))
        return
    err.print(f"{last['seconds']:.0f} s for {last['gradient_steps']:,.0f} gradient steps")
    figures = ", ".join(f"{name} {last[name]:.4g}" for name in SHOWN)
    out.print(figures, highlight=False, soft_wrap=True)
    out.print(f"Run written to {run.directory}", highlight=False, soft_wrap=True)
