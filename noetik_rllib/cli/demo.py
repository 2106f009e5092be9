"""``noetik demo``: the whole way, from a synthetic world to an explained recommendation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from noetik_rllib.cli.console import err, out, progress_bar
from noetik_rllib.cli.types import PATH, SEED
from noetik_rllib.errors import UserError

#: Settings of the demo's run beside the defaults: a small network and larger steps, so that 1,500
#: of them, a minute or two on two cores, are enough for the synthetic world's 500 videos.
DEMO_SETTINGS = {
    "iterations": 15,
    "steps_per_iteration": 100,
    "embedding_size": 32,
    "num_layers": 1,
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "value_lr": 1e-3,
    # Their user model is the one that step 3 needs anyway.
    "validation_users": 200,
    # A target that follows in 50 steps rather than 200: there are 1,500, not a million.
    "target_polyak": 0.02,
}


@click.command(
    epilog="Example: noetik demo --preset tiny --out runs/tiny-demo --data data/tiny-demo"
)
@click.option(
    "--preset", default="demo", show_default=True, help="Size of the world: tiny (quicker), demo."
)
@click.option(
    "--data",
    "data",
    type=PATH,
    default=Path("data/demo"),
    show_default=True,
    help="Dataset to write; its world goes beside it, to DATA-world.",
)
@click.option(
    "--out",
    "out_path",
    type=PATH,
    default=Path("runs/demo"),
    show_default=True,
    help="Run to write.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Same seed, same demo.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier demo wrote.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def demo(
    *, preset: str, data: Path, out_path: Path, seed: int, overwrite: bool, as_json: bool
) -> None:
    """Make a world, train on its logs, compare, explain and report, in minutes.

    Five steps, each the same as its own command: data synth, data prepare, train, evaluate,
    explain and report.
    """
    from noetik_rllib.cli.evaluation_tables import comparison, remarks
    from noetik_rllib.cli.explain import view
    from noetik_rllib.cli.report import CHOICES, USERS
    from noetik_rllib.data.world import SyntheticWorld
    from noetik_rllib.data.world import preset as world_preset
    from noetik_rllib.evaluation.evaluate import evaluate
    from noetik_rllib.interpret.explanation import Explainer, default_users
    from noetik_rllib.io import atomic_directory
    from noetik_rllib.offline.prepare_config import PrepareConfig
    from noetik_rllib.offline.writer import prepare
    from noetik_rllib.report.page import write_report
    from noetik_rllib.runs import TrainConfig, train

    world_path = data.with_name(f"{data.name}-world")
    world_config = replace(world_preset(preset), seed=seed)
    config = TrainConfig.parse({"data": data, "out": out_path, "seed": seed, **DEMO_SETTINGS})
    for path in (world_path, data, out_path):
        if path.exists() and not overwrite:
            raise UserError(f"{path} exists already: use --overwrite to make the demo again")
    if world_path.exists() and not (world_path / "world.json").is_file():
        raise UserError(f"{world_path} is not a synthetic world: choose another --data")

    with progress_bar("1/5 world and dataset") as update:
        with atomic_directory(world_path) as part:
            SyntheticWorld(world_config).write(part, lambda share: update("world", share / 2))
        prepare(
            world_path,
            data,
            PrepareConfig(seed=seed),
            overwrite=overwrite,
            progress=lambda doing, share: update(doing, (1 + share) / 2),
        )
    with progress_bar("2/5 train") as update:
        run = train(
            config,
            lambda row: update("discrete IQL with RLlib", row["iteration"] / config.iterations),
            overwrite=overwrite,
        )
    with progress_bar("3/5 evaluate") as update:
        result = evaluate(run, seed=seed, progress=update)
    with progress_bar("4/5 explain") as update:
        dataset = run.dataset()
        explainer = Explainer(dataset, run.networks())
        users = default_users(dataset, USERS)
        explanations = []
        for done, user_id in enumerate(users):
            update("the first users held out from training", done / len(users))
            explanations += explainer.explain(user_id, CHOICES)
    with progress_bar("5/5 report") as update:
        update("writing", 0.0)
        report = write_report(run, explanations)

    if as_json:
        content = {
            "run": str(out_path),
            "report": str(report),
            "metrics": result.model_dump(mode="json"),
            "explanation": explanations[0].model_dump(mode="json"),
        }
        click.echo(json.dumps(content, indent=2))
        return
    err.print()
    out.print(comparison(result))
    out.print(remarks(result), style="dim", highlight=False, markup=False)
    out.print()
    out.print(view(explanations[:1]))
    out.print(f"The whole report: {report}", highlight=False, soft_wrap=True)
