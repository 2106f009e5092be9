"""Do explanations name what drives a recommendation, and how many can be had a second?

On worlds of KuaiRand-Pure's size, of which every cause is known, with the runs that
``pure_world.py --keep FOLDER`` has left there: every measure that ``noetik evaluate`` takes of
explanations, over 500 held-out users, and the speed of attributing many decisions in one call::

    .venv/bin/python benchmarks/pure_world.py --keep worlds
    .venv/bin/python benchmarks/explanations.py --keep worlds
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from noetik_rllib.cli.console import out, progress_bar
from noetik_rllib.cli.errors import run
from noetik_rllib.cli.interpretability_tables import faithfulness_table, interpretability_remarks
from noetik_rllib.envs.rows import load_rows
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.comparison import held_out_starts
from noetik_rllib.interpret.attribution import Attributor
from noetik_rllib.interpret.baseline import Baseline
from noetik_rllib.interpret.decisions import first_choices
from noetik_rllib.interpret.measure import InterpretabilityResult, interpretability
from noetik_rllib.interpret.scores import MarginScore
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.runs import Run

USERS = 500


def speed(networks: IQLNetworks, dataset: OfflineDataset, count: int) -> dict[str, Any]:
    """Time the attributions of the first choices in ``count`` logged states, in one call."""
    rows = load_rows(dataset, "test", ("obs",))["obs"]
    states = np.array(rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)])
    decisions = first_choices(networks, states)
    attributor = Attributor(MarginScore(networks), Baseline.from_dataset(dataset))
    start = time.perf_counter()
    attribution = attributor.attribute(decisions)
    seconds = time.perf_counter() - start
    return {
        "decisions": count,
        "seconds": round(seconds, 1),
        "per_second": round(count / seconds),
        "largest_completeness_error": float(attribution.relative_gap.max()),
        "share_below_1_percent": float((attribution.relative_gap < 0.01).mean()),
    }


@click.command()
@click.option("--keep", type=click.Path(path_type=Path), required=True, help="Of pure_world.py.")
@click.option("--seeds", default=5, show_default=True, help="Worlds.")
@click.option("--first-seed", default=1, show_default=True)
@click.option("--decisions", default=10_000, show_default=True, help="For the speed; 0 for none.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(keep: Path, seeds: int, first_seed: int, decisions: int, *, as_json: bool) -> None:
    """Measure explanations on several worlds."""
    results: dict[int, Any] = {}
    with progress_bar("explanations") as update:
        for place in range(seeds):
            seed = first_seed + place
            folder = keep / f"world-{seed}"
            if not (folder / "run").exists():
                raise UserError(f"{folder} has no run: run benchmarks/pure_world.py --keep {keep}")

            def report(share: float, place: int = place, seed: int = seed) -> None:
                update(f"world {seed}", (place + share) / seeds)

            networks = Run.open(folder / "run").networks().eval()
            dataset = OfflineDataset(folder / "data")
            starts = held_out_starts(dataset, USERS, 1, seed)
            found = interpretability(
                networks,
                dataset,
                starts.states,
                starts.user_id,
                seed=seed,
                world=folder / "world",
                progress=report,
            )
            results[seed] = {"explanations": found.model_dump(mode="json")}
            if decisions:
                results[seed]["speed"] = speed(networks, dataset, decisions)
    if as_json:
        click.echo(json.dumps({"users": USERS, "seeds": results}, indent=2))
        return
    for seed, of in results.items():
        measured = InterpretabilityResult.model_validate(of["explanations"])
        out.print(f"world {seed}", style="bold")
        out.print(faithfulness_table(measured))
        if "speed" in of:
            timed = of["speed"]
            out.print(
                f"{timed['decisions']:,} decisions attributed in {timed['seconds']} s, "
                f"{timed['per_second']:,} a second; completeness error at most "
                f"{timed['largest_completeness_error']:.2%}",
                highlight=False,
            )
    out.print(interpretability_remarks(measured), style="dim", highlight=False, markup=False)


if __name__ == "__main__":
    run(main)
