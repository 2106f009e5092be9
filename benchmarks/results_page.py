"""docs/results.md as text, from the files of docs/results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

INTRODUCTION = """\
# Results

Written by `make results` (`benchmarks/results.py`) from the files in `docs/results/`, which hold
every figure with its command, settings, seeds and checksums. Intervals are of 95 %, by bootstrap
over users.
"""

TRIED = """\
Notes by hand, of runs that no command here repeats. Settings were chosen on world 0, by true
value. There, IQL was worth 0.335 with the defaults and 16 past events, 0.360 with larger steps,
0.437 with 50 events and 0.446 with the sum of events in the encoder, the log's policy 0.402 and
the oracle 0.557. Choosing among the policy's first 5 to 100 videos by Q, or adding Q 1 to 8 times
to the logits, gave 0.41 to 0.448: no gain. What is missing to the oracle is taste, not quality:
of the ten videos recommended first, quality adds 0.86 to the log-odds of engagement (oracle 0.94)
and taste 1.51 (oracle 1.79; the log's policy, which knows tastes, 2.19), though the tags that
fill the history alone would find 2.08."""


def page(folder: Path) -> str:
    """Return the page; an experiment without a file is left out."""
    parts = [INTRODUCTION]
    for name, section in SECTIONS.items():
        path = folder / f"{name}.json"
        if path.exists():
            parts.append(section(json.loads(path.read_text(encoding="utf-8"))))
    return "\n".join(parts)


def pure_world(found: dict[str, Any]) -> str:
    """IQL's true value on synthetic worlds, every seed."""
    result = found["result"]
    seeds: dict[str, Any] = result["seeds"]
    names = list(next(iter(seeds.values()))["reward"])
    rows = [
        [_plain(name), *(f"{of['reward'][name][0]:.3f}" for of in seeds.values())] for name in names
    ]
    against = list(next(iter(seeds.values()))["difference"])
    differences = [
        [_plain(name), *(_signed(of["difference"][name]) for of in seeds.values())]
        for name in against
    ]
    gap = ["share of the gap closed", *(f"{of['gap_closed']:.0%}" for of in seeds.values())]
    below = sorted(
        {
            _plain(name)
            for of in seeds.values()
            for name, (_, low, _) in of["difference"].items()
            if low <= 0
        }
    )
    verdict = (
        "IQL is above every one of them on every world, with intervals that exclude 0."
        if not below
        else f"Not above everywhere: {', '.join(below)}."
    )
    settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
    return "\n".join(
        [
            "## Is IQL worth it? Synthetic worlds of KuaiRand-Pure's size",
            "",
            _command(found),
            "",
            f"Each seed is another world of users with satiation and habits, with its own log and "
            f"training. Mean true reward per video, {result['users']:,} held-out users, "
            f"{result['sessions']} sessions of 10 videos each:",
            "",
            _table(["policy", *(f"world {seed}" for seed in seeds)], [*rows, gap]),
            "",
            "The gap is that from the log's policy to the oracle, who knows every taste. IQL's "
            f"reward minus the others', paired by user; {verdict}",
            "",
            _table(["IQL minus", *(f"world {seed}" for seed in seeds)], differences),
            "",
            f"Settings: {settings}.",
            "",
            TRIED,
            "",
        ]
    )


def off_policy(found: dict[str, Any]) -> str:
    """Coverage of off-policy estimates."""
    result = found["result"]
    rows = []
    for estimator, metrics in result["pooled"].items():
        spearman = result["spearman"].get(estimator)
        rows.append(
            [
                estimator,
                *(f"{value:.3f}" for value in metrics.values()),
                "-" if spearman is None else f"{spearman:.3f}",
            ]
        )
    metrics = [_plain(name) for name in next(iter(result["pooled"].values()))]
    candidates = result["candidates"]
    rows.append(
        [
            "candidates",
            f"{candidates['pooled']:.3f}",
            *("" for _ in metrics[1:]),
            f"{candidates['spearman']:.3f}",
        ]
    )
    return "\n".join(
        [
            "## Do off-policy intervals hold? 200 repetitions on known truth",
            "",
            _command(found),
            "",
            "Share of the intervals that hold the true value, over all policies and repetitions, "
            "and mean rank correlation of the estimates with the truth "
            "([off_policy.md](off_policy.md) says what the estimators are, and why `dm` and `mips` "
            "do not hold):",
            "",
            _table(["estimator", *metrics, "Spearman (reward)"], rows),
            "",
        ]
    )


def fitted_q(found: dict[str, Any]) -> str:
    """Coverage of fitted Q evaluation."""
    result = found["result"]
    rows = [
        [
            name,
            *(
                f"{figures['reward'][key]:.3f}"
                for key in ("truth", "mean_estimate", "half_width", "coverage")
            ),
        ]
        for name, figures in result["policies"].items()
    ]
    coverage = ", ".join(f"{_plain(k)} {v:.3f}" for k, v in result["coverage"].items())
    return "\n".join(
        [
            "## Do intervals of fitted Q evaluation hold?",
            "",
            _command(found),
            "",
            f"Mean reward per video of sessions, {result['repetitions']} repetitions:",
            "",
            _table(["policy", "truth", "mean estimate", "half width", "coverage"], rows),
            "",
            f"Over all policies, the intervals hold the truth in: {coverage}. Mean rank "
            f"correlation with the truth: {result['spearman']:.3f}.",
            "",
        ]
    )


def real_pure(found: dict[str, Any]) -> str:
    """The evaluation of a run on real rows."""
    result = found["result"]
    correlation = result["q_correlation"]
    q_rows = [
        [_plain(name), _interval(value)] for name, value in correlation["q"]["pearson"].items()
    ]
    ranked = [
        (kind, result[f"ranking_{part}"])
        for part, kind in (("random", "random log"), ("test", "standard log, later rows"))
        if result[f"ranking_{part}"]
    ]
    scorers = list(ranked[0][1]["scorers"])
    rank_rows = [
        [
            _plain(name),
            *(_interval(of["scorers"][name]["metrics"].get("gauc_click")) for _, of in ranked),
        ]
        for name in scorers
    ]
    sessions = result["sessions"]["policies"]
    fitted = (result["fitted_q"] or {"policies": {}})["policies"]
    rows = [
        [
            _plain(name),
            _interval(metrics["reward"]),
            _interval(fitted.get(name, {"metrics": {}})["metrics"].get("reward")),
            f"{result['exposure'][name]['top']['overlap']:.2f}",
        ]
        for name, metrics in sessions.items()
    ]
    missing = [f"- {_plain(name)}: {why}." for name, why in result["missing"].items()]
    chosen = result["q_correlation"]["q"]
    top, bottom = (_interval(chosen[name]) for name in ("top_fifth", "bottom_fifth"))
    return "\n".join(
        [
            "## Real rows: a slice of KuaiRand-Pure",
            "",
            _command(found),
            "",
            f"Dataset {result['provenance']['dataset'][:12]}, weights "
            f"{result['provenance']['policy'][:12]}; {found['split']}. Correlation of Q with what "
            f"users answered, on {correlation['rows']:,} later rows:",
            "",
            _table(["Q against", "Pearson"], q_rows),
            "",
            f"Mean reward of the fifth of the rows with the highest Q: {top}; lowest: {bottom}.",
            "",
            "GAUC of clicks, within users:",
            "",
            _table(["scorer", *(kind for kind, _ in ranked)], rank_rows),
            "",
            "Reward per video by evidence; overlap of two users' first ten:",
            "",
            _table(["policy", "simulated sessions", "fitted Q evaluation", "overlap"], rows),
            "",
            *(["Without evidence here:", "", *missing, ""] if missing else []),
        ]
    )


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "pure_world": pure_world,
    "off_policy": off_policy,
    "fitted_q": fitted_q,
    "real_pure": real_pure,
}


def _command(found: dict[str, Any]) -> str:
    seconds = found["seconds"]
    took = "" if seconds is None else f"{seconds / 60:.0f} minutes, "
    return f"`{found['command']}` ({took}release {found['version']})"


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _interval(value: dict[str, float] | None) -> str:
    if value is None:
        return "-"
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _signed(value: list[float]) -> str:
    mean, low, high = value
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def _plain(name: str) -> str:
    return name.replace("_", " ")
