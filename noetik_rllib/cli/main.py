"""The ``noetik`` command: one subcommand per file of this folder, imported when it is called."""

from __future__ import annotations

import importlib
from typing import NoReturn

import click

from noetik_rllib.cli.errors import run
from noetik_rllib.errors import did_you_mean

#: Subcommand -> (module, attribute, one line of help). Imported on use: torch and Ray take seconds.
_COMMANDS: dict[str, tuple[str, str, str]] = {
    "data": ("noetik_rllib.cli.data", "data", "Make, prepare, describe and verify datasets."),
    "user-model": (
        "noetik_rllib.cli.user_model",
        "user_model",
        "Model what users answer, and test it.",
    ),
    "train": ("noetik_rllib.cli.train", "train", "Train discrete IQL on a dataset with RLlib."),
    "evaluate": ("noetik_rllib.cli.evaluate", "evaluate", "Compare a run with baselines."),
    "explain": ("noetik_rllib.cli.explain", "explain", "Explain what a run recommends to a user."),
    "report": ("noetik_rllib.cli.report", "report", "Write a run's HTML page."),
    "tune": ("noetik_rllib.cli.tune", "tune", "Sweep parameters with Ray Tune."),
    "export": ("noetik_rllib.cli.export", "export", "Write a run's policy for torch alone."),
    "demo": ("noetik_rllib.cli.demo", "demo", "All of it on a synthetic world, in minutes."),
}


class _LazyGroup(click.Group):
    """A group that imports a subcommand's module only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            ctx.fail(
                f"No such command '{args[0]}': expected one of {', '.join(_COMMANDS)}."
                f"{did_you_mean(args[0], _COMMANDS)}"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.command(
    cls=_LazyGroup,
    epilog="Example: noetik demo   (five minutes, no data needed)",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="noetik-rllib", prog_name="noetik")
def cli() -> None:
    """Offline reinforcement learning on short-video logs, with RLlib, and why it recommends."""


def main() -> NoReturn:
    """Entry point of the console script."""
    run(cli)
