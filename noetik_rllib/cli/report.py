"""``noetik report``: one HTML page that shows a run, or a sweep."""

from __future__ import annotations

import json
from pathlib import Path

import click

from noetik_rllib.cli.console import err, progress_bar
from noetik_rllib.cli.types import PATH
from noetik_rllib.errors import UserError
from noetik_rllib.sweeps.search import is_sweep

#: Recommendations explained per user: the page lets its reader choose among them.
CHOICES = 3
#: Held-out users on the page unless others are asked for.
USERS = 12


@click.command(epilog="Example: noetik report runs/demo --user 17 --user 42")
@click.argument("run", type=PATH)
@click.option("--user", "names", multiple=True, help="User to explain; repeatable.")
@click.option(
    "--users",
    "count",
    type=click.IntRange(min=1),
    help=f"Explain this many held-out users.  [default: {USERS}, unless --user names some]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the path and the users as JSON.")
def report(run: Path, names: tuple[str, ...], count: int | None, as_json: bool) -> None:
    """Write RUN/report.html: training, evaluation and explained recommendations on one page.

    Of a sweep's folder: its Pareto front, its parameters and all its trials.
    """
    if is_sweep(run):
        if names or count is not None:
            raise UserError(f"{run} is a sweep: users are explained on the page of one of its runs")
        _report_sweep(run, as_json)
        return
    from noetik_rllib.interpret.explanation import Explainer, default_users
    from noetik_rllib.report.page import write_report
    from noetik_rllib.runs import Run

    if names and count is not None:
        raise click.UsageError("--user names the users to explain, --users counts others: give one")
    opened = Run.open(run)
    dataset = opened.dataset()
    users = list(dict.fromkeys(dataset.user_of(name) for name in names))
    if not users:
        users = list(default_users(dataset, count or USERS))
        if count is not None and len(users) < count:
            err.print(f"Only {len(users)} held-out users have events in the test part.")
    explanations = []
    with progress_bar("report") as update:
        explainer = Explainer(dataset, opened.networks())
        for done, user_id in enumerate(users):
            update("explaining", done / (len(users) + 1))
            explanations += explainer.explain(user_id, CHOICES)
        update("writing", len(users) / (len(users) + 1))
        path = write_report(opened, explanations)
    if as_json:
        # A name, not its number, where the log's ids are texts: --user takes it again.
        named = dict.fromkeys(one.user_name or one.user_id for one in explanations)
        click.echo(json.dumps({"report": str(path), "users": list(named)}))
    else:
        click.echo(path)


def _report_sweep(folder: Path, as_json: bool) -> None:
    from noetik_rllib.report.sweep_page import write_sweep_report
    from noetik_rllib.sweeps.sweep import show_sweep

    path = write_sweep_report(show_sweep(folder), folder)
    click.echo(json.dumps({"report": str(path)}) if as_json else path)
