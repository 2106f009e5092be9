"""``noetik data``: make a synthetic world, prepare an offline dataset, describe or verify one."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import click
from rich.table import Table

from noetik_rllib.cli.check import check
from noetik_rllib.cli.console import out as console
from noetik_rllib.cli.console import progress_bar
from noetik_rllib.cli.download import download
from noetik_rllib.cli.errors import clean_end
from noetik_rllib.cli.types import PATH, SEED
from noetik_rllib.cli.verify import verify
from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.data.world_presets import PRESETS
from noetik_rllib.data.world_presets import preset as world_preset
from noetik_rllib.errors import UserError
from noetik_rllib.io import atomic_directory
from noetik_rllib.offline.manifest import Manifest


@click.group()
def data() -> None:
    """Download, make, check, prepare, describe and verify datasets."""


for command in (download, check, verify):
    data.add_command(command)


@data.command(epilog="Example: noetik data synth --preset tiny --out data/tiny-world")
@click.option(
    "--preset", default="demo", show_default=True, help=f"Size of the world: {', '.join(PRESETS)}."
)
@click.option("--out", type=PATH, required=True, help="Folder to write.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Same seed, same files.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def synth(preset: str, out: Path, seed: int, as_json: bool) -> None:
    """Write a synthetic world in KuaiRand's CSV layout, with a known truth."""
    from dataclasses import replace

    from noetik_rllib.data.world import SyntheticWorld

    config = world_preset(preset)
    if seed < 0:
        raise UserError(f"seed is {seed}: expected 0 or more")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already: choose another --out, or remove it")
    world = SyntheticWorld(replace(config, seed=seed))
    with (
        clean_end(),
        progress_bar("synthetic world") as update,
        atomic_directory(out, replace=False) as part,
    ):
        world.write(part, progress=lambda share: update("writing", share))
    if as_json:
        click.echo(json.dumps({"world": str(out), "preset": preset, "seed": seed}))
    else:
        console.print(f"World '{preset}' written to {out}", highlight=False)


@data.command(
    name="prepare",
    epilog="Example: noetik data prepare --source KuaiRand-Pure --out data/pure",
)
@click.option(
    "--source",
    type=PATH,
    required=True,
    help="Folder of CSV files: KuaiRand (Pure, 1K, part of 27K), a synthetic world, another log.",
)
@click.option("--out", type=PATH, required=True, help="Dataset to write.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["parquet", "json"]),
    default="parquet",
    show_default=True,
    help="json: RLlib SampleBatch lines in OUT/json, beside the Parquet files.",
)
@click.option(
    "--mapping",
    default="kuairand",
    show_default=True,
    metavar="NAME|FILE",
    help="What the columns mean: a mapping of the package or a YAML file, see docs/adapters.md.",
)
@click.option(
    "--split",
    type=click.Choice(["user", "time"]),
    default="user",
    show_default=True,
    help="user: each user's last 20 % are test; time: from one moment on, all rows are.",
)
@click.option(
    "--split-at",
    metavar="MOMENT",
    help="With --split time: that moment, such as 2022-05-01T00:00+08:00; by default 80 % of the "
    "rows come before it.",
)
@click.option(
    "--random-in-train",
    is_flag=True,
    help="Add uniformly exposed rows before the split to train.",
)
@click.option(
    "--history-length",
    type=int,
    default=16,
    show_default=True,
    help="Past events in a state; 16 makes a state of 128.",
)
@click.option(
    "--held-out-users",
    type=float,
    default=0.2,
    show_default=True,
    help="Share of users kept from training, for the evaluation.",
)
@click.option(
    "--random-pool",
    type=int,
    help="Videos that uniformly exposed ones were drawn from, if not what the mapping says.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Decides who is held out.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is a dataset.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def prepare_command(
    *,
    source: Path,
    out: Path,
    file_format: str,
    mapping: str,
    split: str,
    split_at: str | None,
    random_in_train: bool,
    history_length: int,
    held_out_users: float,
    random_pool: int | None,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn a folder of CSV files into an offline dataset for RLlib."""
    from noetik_rllib.data.mapping import Mapping
    from noetik_rllib.memory import reuse_freed_memory
    from noetik_rllib.offline.prepare_config import PrepareConfig
    from noetik_rllib.offline.writer import prepare

    reuse_freed_memory()
    config = PrepareConfig(
        split="time" if split == "time" else "user",
        split_time_ms=None if split_at is None else _moment(split_at),
        random_in_train=random_in_train,
        history_length=history_length,
        held_out_users=held_out_users,
        random_pool=random_pool,
        seed=seed,
        format="json" if file_format == "json" else "parquet",
    )
    with clean_end(), progress_bar("prepare") as update:
        manifest = prepare(
            source,
            out,
            config,
            mapping=Mapping.find(mapping),
            overwrite=overwrite,
            progress=update,
        )
    _show(out, manifest, as_json)


def _moment(text: str) -> int:
    """Read a moment with its time zone, as ms since 1970."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UserError(
            f"--split-at {text}: expected a moment with its time zone, such as "
            "2022-05-01T00:00+08:00"
        )
    return round(moment.timestamp() * 1000)


@data.command(epilog="Example: noetik data describe data/pure")
@click.argument("directory", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def describe(directory: Path, as_json: bool) -> None:
    """Say what a dataset holds."""
    _show(directory, Manifest.load(directory), as_json)


def _show(directory: Path, manifest: Manifest, as_json: bool) -> None:
    if as_json:
        click.echo(manifest.model_dump_json(indent=2))
        return
    console.print(f"[bold]{directory}[/bold]", highlight=False)
    console.print(
        f"{manifest.num_users:,} users ({manifest.held_out_users:.0%} held out), "
        f"{manifest.num_videos:,} videos, state of {manifest.layout.size}, "
        f"test: {manifest.split_text}",
        highlight=False,
        soft_wrap=True,
    )
    parts = Table("part", "rows", "users", "episodes", "mean reward", box=None, pad_edge=False)
    for column in parts.columns[1:]:
        column.justify = "right"
    for name, part in manifest.parts.items():
        reward = manifest.logged_reward.get(name)
        parts.add_row(
            name,
            f"{part.rows:,}",
            f"{part.users:,}",
            f"{part.episodes:,}",
            "-" if reward is None else f"{reward:.4f}",
        )
    console.print(parts)
    means = Table("signal", "mean in train", box=None, pad_edge=False)
    means.columns[1].justify = "right"
    for name, mean in zip(SIGNALS, manifest.signals.mean, strict=True):
        means.add_row(name, f"{mean:.5f}")
    console.print(means)
    repairs = Table("repaired or noticed", "count", box=None, pad_edge=False)
    repairs.columns[1].justify = "right"
    for name, count in manifest.repairs.items():
        repairs.add_row(name.replace("_", " "), f"{count:,}")
    console.print(repairs)
