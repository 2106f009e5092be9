"""The user model against LightGBM: same rows, same inputs, same run.

Both are fitted on the rows before a moment, stopped by the latest 15 % of them, and tested on the
rows from that moment on. LightGBM gets every number of the state (the history slot by slot), the
video's features, video, author, first tags and types as categories, and, since trees cannot join
the history with the catalogue, how much of the history shares the video's tags or author and how
it was answered. Of several settings, with and without the ids of videos, authors and users, the one
with the best log loss on the stopping rows is kept, signal by signal::

    .venv/bin/python benchmarks/user_model.py --source KuaiRand-Pure
"""

from __future__ import annotations

import json
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import lightgbm
import numpy as np
from rich.table import Table

from noetik_rllib.cli.console import err, out
from noetik_rllib.cli.errors import run
from noetik_rllib.data.signals import BINARY_COLUMNS, BINARY_SIGNALS, SIGNALS
from noetik_rllib.envs.response_answers import thresholds
from noetik_rllib.envs.response_fit import VALIDATION_SHARE, fit_response_model
from noetik_rllib.envs.response_network import Family
from noetik_rllib.envs.response_quality import ResponseQuality, log_loss, measure
from noetik_rllib.envs.simulator import NUM_UNIFORMS, sample_signals
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.prepare_config import PrepareConfig
from noetik_rllib.offline.writer import prepare
from noetik_rllib.state import AGE, WATCH_RATIO

Rows = dict[str, np.ndarray]
#: What LightGBM is told to treat as a category, most general first.
CATEGORIES = ("video_type", "upload_type", "tag_0", "tag_1", "tag_2", "video", "author", "user")
#: How many of them each setting sees, and its parameters.
SETTINGS: dict[str, tuple[int, dict[str, Any]]] = {
    "no ids": (5, {"num_leaves": 15}),
    "no ids, larger trees": (5, {"num_leaves": 31}),
    "video and author": (7, {"num_leaves": 15}),
    "video, author and user": (8, {"num_leaves": 15}),
}
COMMON = {
    "objective": "binary",
    "learning_rate": 0.05,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "cat_smooth": 50.0,
    "cat_l2": 50.0,
    "verbose": -1,
    "num_threads": 1,
}
#: Simulated answers drawn for every test row: the rate of a signal with 50 events is then known to
#: some 4 %.
DRAWS = 10


def table_inputs(dataset: OfflineDataset, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers (R, k) float32 and categories (R, 8) float32 of each row, for LightGBM."""
    parts, catalog, videos = dataset.layout.unpack(rows["obs"]), dataset.catalog, rows["actions"]
    past = parts.video_index.clip(min=0)
    tags = catalog.tag_codes
    # (R, H, tags of the past video, tags of the video shown)
    shared = (tags[past][:, :, :3, None] == tags[videos][:, None, None, :3]) & (
        tags[past][:, :, :3, None] > 0
    )
    author = np.unique(catalog.author_id, return_inverse=True)[1]
    same = {
        "tag": shared.any(axis=(2, 3)) & parts.present,
        "author": (author[past] == author[videos][:, None]) & parts.present,
    }
    watched, clicked = parts.events[..., WATCH_RATIO], parts.feedback[..., 0]
    joined = []
    for match in same.values():
        count = match.sum(1)
        joined += [count, (match * watched).sum(1) / (count + 1), (match * clicked).sum(1)]
    numbers = [
        parts.user,
        parts.context,
        watched,
        parts.events[..., AGE],
        parts.feedback.reshape(len(videos), -1),
        catalog.numeric[videos],
        np.stack(joined, axis=1),
    ]
    users = np.searchsorted(dataset.users.user_id, rows["user_id"])
    categories = [
        catalog.video_type_code[videos],
        catalog.upload_type_code[videos],
        *tags[videos][:, :3].T,
        videos,
        author[videos],
        users,
    ]
    return (
        np.concatenate(numbers, axis=1).astype(np.float32),
        np.stack(categories, axis=1).astype(np.float32),
    )


def fit_trees(
    dataset: OfflineDataset, train: Rows, test: Rows
) -> tuple[np.ndarray, dict[str, str], float]:
    """Fit LightGBM for each signal; return predictions (R, 8), settings chosen, and seconds."""
    start = time.perf_counter()
    order = np.argsort(train["time_ms"], kind="stable")
    count = len(order) - max(1, round(VALIDATION_SHARE * len(order)))
    inputs, tests = table_inputs(dataset, train), table_inputs(dataset, test)
    predicted = np.zeros((len(test["actions"]), len(BINARY_SIGNALS)))
    chosen = {}
    for column, name in enumerate(BINARY_SIGNALS):
        labels, best = train[name], np.inf
        for setting, (categories, parameters) in SETTINGS.items():
            x, later = (
                np.concatenate([numbers, codes[:, :categories]], axis=1)
                for numbers, codes in (inputs, tests)
            )
            places = list(range(x.shape[1] - categories, x.shape[1]))
            fitted = lightgbm.Dataset(
                x[order[:count]], labels[order[:count]], categorical_feature=places
            )
            stopping = lightgbm.Dataset(x[order[count:]], labels[order[count:]], reference=fitted)
            model = lightgbm.train(
                COMMON | parameters,
                fitted,
                2_000,
                valid_sets=[stopping],
                callbacks=[lightgbm.early_stopping(50, verbose=False)],
            )
            loss = log_loss(labels[order[count:]], model.predict(x[order[count:]]))
            err.print(f"LightGBM {name}, {setting}: {loss:.5f}", highlight=False)
            if loss < best:
                best, chosen[name] = loss, setting
                predicted[:, column] = model.predict(later)
    return predicted, chosen, time.perf_counter() - start


def simulated(model: Any, dataset: OfflineDataset, test: Rows) -> dict[str, Any]:
    """Draw answers to the test rows; return their rates and how often they break the play rule."""
    answers = model.distribution(test["obs"], test["actions"], test["user_id"], uniform=False)
    limits = thresholds(dataset.catalog.duration_ms)[test["actions"]]
    rng = np.random.default_rng(0)
    total, broken = np.zeros(len(SIGNALS)), np.zeros(2)
    for _ in range(DRAWS):
        signals = sample_signals(answers, rng.random((len(limits), NUM_UNIFORMS)))
        total += signals.mean(0, dtype=np.float64) / DRAWS
        broken += _broken(signals, limits) / DRAWS
    logged = np.stack([test[name] for name in SIGNALS], axis=1)
    return {
        "rate": dict(zip(SIGNALS, total.tolist(), strict=True)),
        "rule_broken": broken.tolist(),
        "rule_broken_in_log": _broken(logged, limits).tolist(),
    }


def _broken(signals: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Shares (2,) of rows whose click and long view are not what the play time says."""
    played = signals[:, [SIGNALS.index("watch_ratio")]] >= limits - 1e-6
    said = signals[:, [SIGNALS.index("click"), SIGNALS.index("long_view")]] > 0.5
    shares: np.ndarray = (played != said).mean(0)
    return shares


@click.command()
@click.option(
    "--source",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="Folder of CSV files, as for noetik data prepare.",
)
@click.option(
    "--split-at",
    type=datetime.fromisoformat,
    default="2022-05-01T00:00+08:00",
    show_default=True,
    help="Rows before it are fitted on, the others are the test.",
)
@click.option("--part", type=click.Choice(["train", "judge"]), default="train", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(source: Path, split_at: datetime, part: str, seed: int, as_json: bool) -> None:
    """Print the quality of both families of the user model and of LightGBM."""
    moment = round(split_at.timestamp() * 1000)
    columns = ("user_id", "obs", "actions", "time_ms", *SIGNALS)
    quality: dict[str, ResponseQuality] = {}
    seconds: dict[str, float] = {}
    draws: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        folder = Path(scratch) / "dataset"
        prepare(source, folder, PrepareConfig(split="time", split_time_ms=moment))
        dataset = OfflineDataset(folder)
        train, test = dataset.load(part, columns), dataset.load("test", columns)
        families: tuple[Family, ...] = ("pooled", "attentive")
        for family in families:
            start = time.perf_counter()
            model = fit_response_model(dataset, part, family=family, seed=seed)
            seconds[family] = time.perf_counter() - start
            predicted = model.predict(test["obs"], test["actions"], test["user_id"], uniform=False)
            quality[family] = measure(predicted, test, test["user_id"])
            draws[family] = simulated(model, dataset, test)
            err.print(f"{family}: {seconds[family]:.0f} s", highlight=False)
        trees, chosen, seconds["LightGBM"] = fit_trees(dataset, train, test)
        padded = np.zeros((len(trees), len(SIGNALS)))
        padded[:, BINARY_COLUMNS] = trees
        quality["LightGBM"] = measure(padded, test, test["user_id"])
    result = {
        "part": part,
        "seed": seed,
        "split_at": split_at.isoformat(),
        "fitted_rows": len(train["actions"]),
        "seconds": seconds,
        "lightgbm_settings": chosen,
        "quality": {name: found.model_dump(mode="json") for name, found in quality.items()},
        "simulated": draws,
    }
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    headings = ("signal", "events", "model", "AUC", "GAUC", "log loss", "ECE", "simulated / real")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("signal", "model") else "right")
    for name in BINARY_SIGNALS:
        for place, (model_name, found) in enumerate(quality.items()):
            mean = found.logged_mean[name]
            rate = draws[model_name]["rate"][name] / mean if model_name in draws and mean else None
            table.add_row(
                *(("", "") if place else (name, f"{mean * found.rows:,.0f}")),
                model_name,
                *(
                    "-" if value is None else f"{value:.4f}"
                    for value in (found.auc[name], found.gauc[name], found.log_loss[name])
                ),
                f"{found.calibration_error[name]:.4f}",
                "-" if rate is None else f"{rate:.2f}",
            )
    out.print(table)
    rows = next(iter(quality.values())).rows
    out.print(
        f"fitted on {len(train['actions']):,} rows, tested on {rows:,}; "
        + ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()),
        highlight=False,
    )
    for name, drawn in draws.items():
        click_share, long_share = drawn["rule_broken"]
        out.print(
            f"{name}: click {click_share:.2%} and long view {long_share:.2%} of simulated answers "
            "are not what the play time says",
            highlight=False,
        )
    click_share, long_share = next(iter(draws.values()))["rule_broken_in_log"]
    out.print(f"the log: click {click_share:.2%}, long view {long_share:.2%}", highlight=False)


if __name__ == "__main__":
    run(main)
