"""``noetik evaluate``: a run's policy against the baselines, by every means there is."""

from __future__ import annotations

from pathlib import Path

import click

from noetik_rllib.cli.console import out as console
from noetik_rllib.cli.console import progress_bar
from noetik_rllib.cli.types import PATH, SEED


@click.command(epilog="Example: noetik evaluate runs/demo --users 500 --json")
@click.argument("run", type=PATH)
@click.option(
    "--users", type=int, default=1_000, show_default=True, help="The most held-out users."
)
@click.option(
    "--seeds",
    type=int,
    default=5,
    show_default=True,
    help="Sessions of each user, with the seeds SEED, SEED + 1 ...",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Same seed, same result.")
@click.option(
    "--baselines",
    is_flag=True,
    help="Train and evaluate more: greedy on the user model, the best cycle of six videos, RLlib's "
    "BC and MARWIL, discrete CQL.",
)
@click.option(
    "--world",
    type=PATH,
    help="The synthetic world of the dataset: evaluate its log's policy and one that knows the "
    "truth as well, and let the true users answer too.",
)
@click.option(
    "--max-rows",
    type=int,
    help="The most logged rows for off-policy estimates, candidates and fitted Q evaluation.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the content of metrics.json.")
def evaluate(
    *,
    run: Path,
    users: int,
    seeds: int,
    seed: int,
    baselines: bool,
    world: Path | None,
    max_rows: int | None,
    as_json: bool,
) -> None:
    """Evaluate a run's policy against behaviour cloning, popularity, chance and more.

    In sessions with simulated users held out from training, off-policy on the random log, by fitted
    Q evaluation on the standard log, as a ranker of logged videos, by what it shows to whom, and by
    how far explanations of what it recommends can be trusted.
    Writes RUN/metrics.json and RUN/plots.
    """
    from noetik_rllib.cli.evaluation_tables import (
        comparison,
        groups,
        leaving,
        legend,
        remarks,
        scoreboard,
    )
    from noetik_rllib.cli.interpretability_tables import (
        faithfulness_table,
        interpretability_remarks,
    )
    from noetik_rllib.evaluation.evaluate import evaluate as evaluate_run
    from noetik_rllib.report.evaluation_plots import write_plots
    from noetik_rllib.runs import Run

    opened = Run.open(run)
    with progress_bar("evaluate") as update:
        result = evaluate_run(
            opened,
            users=users,
            seeds=seeds,
            seed=seed,
            baselines=baselines,
            world=world,
            max_rows=max_rows,
            progress=update,
        )
    write_plots(result, opened.directory)
    if as_json:
        click.echo(result.model_dump_json(indent=2))
        return
    console.print(scoreboard(result))
    console.print(legend(result), style="dim", highlight=False, markup=False)
    console.print()
    console.print(comparison(result))
    by_group = groups(result)
    if by_group:
        console.print()
        console.print(by_group)
    console.print()
    console.print(leaving(result))
    console.print(remarks(result), style="dim", highlight=False, markup=False)
    explained = result.interpretability
    if explained:
        console.print()
        console.print(faithfulness_table(explained))
        said = interpretability_remarks(explained)
        console.print(said, style="dim", highlight=False, markup=False)
