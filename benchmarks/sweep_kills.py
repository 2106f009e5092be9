"""Random kills over a sweep on a cluster: is every trial's result there at the end, once, the same?

Three hosts on this machine (``tests/cluster``: Linux, root) run a sweep undisturbed, and then again
while somebody is killed ``--kills`` times, each after a random time, in a random order:

- the driver, by SIGKILL, which is then started again with ``--resume``;
- the process of a trial, by SIGKILL;
- a worker host that trains a trial: its plug is pulled, so that nobody is told, and it boots again
  at once. Ray's launcher brings it back into the cluster when it has missed it for long enough.

A kill may fall before the first trial and while results are written. From a clone after
``make demo``::

    .venv/bin/python -m benchmarks.sweep_kills --data data/demo
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from noetik_rllib.cli.errors import run
from noetik_rllib.errors import UserError
from noetik_rllib.sweeps.config import SweepConfig
from noetik_rllib.sweeps.folder import SweepFolder
from noetik_rllib.sweeps.results import SweepResult
from noetik_rllib.sweeps.search import is_sweep
from tests.cluster.hosts import why_not
from tests.cluster.ray_cluster import HEAD, WORKERS, RayCluster, running

#: Who is killed, and the hosts on one of which a trial trains then.
PLACES = {"driver": (HEAD, *WORKERS), "trial": (HEAD, *WORKERS), "host": WORKERS}


def sweep(trials: int, iterations: int) -> SweepConfig:
    """Trials of about a second per iteration, with a checkpoint after each."""
    return SweepConfig.model_validate(
        {
            "name": "kills",
            "data": "/srv/data",
            "num_samples": trials,
            "train": {
                "iterations": iterations,
                "steps_per_iteration": 20,
                "embedding_size": 16,
                "num_layers": 1,
                "num_heads": 2,
                "checkpoint_seconds": 0,
            },
            "reward": {"simplex": ["click", "watch_ratio", "like"]},
            "objectives": ["click", "like"],
            "evaluation_users": 50,
            "max_failures": 20,
        }
    )


@dataclass
class Disturbed:
    """A sweep on a cluster, and the means to disturb it.

    Attributes:
        cluster: where it runs.
        name: of its folder in /srv, which all hosts share.
    """

    cluster: RayCluster
    name: str

    @property
    def folder(self) -> Path:
        """The sweep's folder, as seen from here."""
        return self.cluster.hosts.shared / self.name

    @property
    def log(self) -> Path:
        """What its drivers say; a pipe that nobody reads would stop them."""
        return self.folder.with_suffix(".log")

    def start(self) -> subprocess.Popen[bytes]:
        """Begin it, or go on with it, on the head."""
        out = f"/srv/{self.name}"
        words = ["--resume", out] if is_sweep(self.folder) else ["/srv/kills.yaml", "--out", out]
        return subprocess.Popen(
            self.cluster.hosts[HEAD].command(["noetik", "tune", *words]),
            stdout=self.log.open("a"),
            stderr=subprocess.STDOUT,
        )

    def training(self, hosts: tuple[str, ...]) -> list[tuple[str, str]]:
        """Host and process of every trial that trains on one of these hosts now."""
        found = []
        for lock in sorted((self.folder / "trials").glob(".*.lock")):
            with lock.open("a+") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.seek(0)
                    process, _, host = file.readline().strip().partition(" of ")
                    if host in hosts:
                        found.append((host, process))
        return found

    def kill(self, victim: str, rng: np.random.Generator) -> bool:
        """Kill the driver, or the process of a trial, or its host; False where there is none."""
        hosts = self.cluster.hosts
        if victim == "driver":
            return not hosts[HEAD].run("pkill", "-KILL", "-f", "bin/noetik tune").returncode
        trains = self.training(PLACES[victim])
        if not trains:
            return False
        host, process = trains[int(rng.integers(len(trains)))]
        if victim == "trial":
            return not hosts[host].run("kill", "-KILL", process).returncode
        hosts.off(host)
        hosts.boot(host)
        return True


def disturb(sweep: Disturbed, kills: int, mean_seconds: float, seed: int) -> Counter[str]:
    """Run the sweep to its end, killing on the way; return how often whom."""
    rng = np.random.default_rng(seed)
    killed: Counter[str] = Counter()
    driver = sweep.start()
    for victim in rng.permutation(np.resize(list(PLACES), kills)):
        # One driver in four may be killed while it starts, which takes most of the time.
        wait = victim != "driver" or rng.random() < 0.75
        while wait and driver.poll() is None and not sweep.training(PLACES[victim]):
            time.sleep(0.2)
        time.sleep(rng.exponential(mean_seconds))
        while driver.poll() is None:
            if sweep.kill(victim, rng):
                break
            time.sleep(0.2)
        else:
            break  # it is over
        killed[victim] += 1
        if victim == "driver":
            driver.wait()
            driver = sweep.start()
    if driver.wait():
        raise SystemExit(sweep.log.read_text()[-2000:])
    return killed


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Offline dataset.")
@click.option("--trials", default=12, show_default=True, help="Trials of the sweep.")
@click.option("--iterations", default=10, show_default=True, help="Of 20 gradient steps each.")
@click.option("--kills", default=10, show_default=True, help="At most so many.")
@click.option(
    "--seconds", default=5.0, show_default=True, help="Mean time that trials have before a kill."
)
@click.option("--seed", default=0, show_default=True, help="Of the kills.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(
    data: Path, trials: int, iterations: int, kills: int, seconds: float, seed: int, as_json: bool
) -> None:
    """Print what was killed, and what became of the results."""
    if reason := why_not():
        raise UserError(f"no hosts can be made here: {reason}")
    with running(data) as cluster:
        sweep(trials, iterations).save(cluster.hosts.shared / "kills.yaml")
        whole, out = Disturbed(cluster, "whole"), Disturbed(cluster, "sweep")
        took = []
        for one, count in ((whole, 0), (out, kills)):
            begun = time.monotonic()
            killed = disturb(one, count, seconds, seed)
            took.append(round(time.monotonic() - begun))
        expected, found = SweepResult.load(whole.folder), SweepResult.load(out.folder)
        events = SweepFolder(out.folder).events()
    finish = {event.trial: event.time for event in events if event.what == "finish"}
    figures = {
        "drivers_killed": killed["driver"],
        "trials_killed": killed["trial"],
        "hosts_killed": killed["host"],
        "trials": trials,
        "finished": len(found.judged),
        "different_results": sum(
            one.outcomes != other.outcomes
            for one, other in zip(expected.trials, found.trials, strict=True)
        ),
        "run_after_their_end": sum(
            event.what == "start" and event.time > finish.get(event.trial, np.inf)
            for event in events
        ),
        "starts": sum(event.what == "start" for event in events),
        "lost": sum(event.what == "lost" for event in events),
        "seconds_undisturbed": took[0],
        "seconds": took[1],
    }
    if as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        click.echo(f"{name.replace('_', ' '):24} {value:>6,}")


if __name__ == "__main__":
    run(main)
