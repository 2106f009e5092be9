"""How long 100,000 simulated sessions take, and how much memory.

For a run on data of KuaiRand-Pure's size::

    .venv/bin/noetik train --data data/pure --out runs/pure
    .venv/bin/python benchmarks/evaluation_speed.py --run runs/pure

The judge's user model is fitted first, and not counted.
"""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import click

from noetik_rllib.cli.console import out, progress_bar
from noetik_rllib.cli.errors import run
from noetik_rllib.evaluation.comparison import compare, prepare_course
from noetik_rllib.evaluation.policies import ActorPolicy
from noetik_rllib.runs import Run


@click.command()
@click.option("--run", "path", type=click.Path(path_type=Path), required=True, help="Run.")
@click.option("--sessions", default=100_000, show_default=True, help="At least so many.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(path: Path, sessions: int, *, as_json: bool) -> None:
    """Send the run's policy through many sessions with all held-out users."""
    opened = Run.open(path)
    dataset = opened.dataset()
    with progress_bar("speed") as update:
        held_out = int(dataset.users.held_out.sum())
        course = prepare_course(
            dataset,
            users=held_out,
            seeds=-(-sessions // held_out) + 1,
            progress=lambda share: update("fitting the judge", share / 4),
        )
        policy = ActorPolicy.of(opened.networks())
        start = time.perf_counter()
        compare([policy], course, lambda doing, share: update(doing, 0.25 + 0.75 * share))
        seconds = time.perf_counter() - start
    content = {
        "sessions": len(course.starts.user_id),
        "steps": course.steps,
        "videos": dataset.manifest.num_videos,
        "seconds": round(seconds, 1),
        "sessions_per_second": round(len(course.starts.user_id) / seconds),
        # Linux counts in units of 1,024 bytes. Fitting the judge is in it.
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
    }
    if as_json:
        click.echo(json.dumps(content, indent=2))
        return
    out.print(
        f"{content['sessions']:,} sessions of {content['steps']} videos out of "
        f"{content['videos']:,}: {content['seconds']} s, {content['sessions_per_second']:,} a "
        f"second; at most {content['peak_gb']} GB"
    )


if __name__ == "__main__":
    run(main)
