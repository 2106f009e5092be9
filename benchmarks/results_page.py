"""docs/results.md as text, from the files of docs/results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results_sweeps import sweep_cost, sweep_hypervolume, sweep_kills
from results_text import command, interval, plain, signed, table

INTRODUCTION = """\
# Results

Written by `make results` (`benchmarks/results.py`) from the files in `docs/results/`, which hold
every figure with its command, settings, seeds and checksums. Intervals are of 95 %, by bootstrap
over users.
"""

TRIED = """\
Notes by hand, of runs that no command here repeats. Settings and networks were chosen on world 0,
by true value over 400 users (oracle 0.557, the log's policy 0.402). What raised it, step by step:

| | IQL | ranked by its Q |
|---|---|---|
| 16 past events, small steps | 0.335 | |
| 50 past events, large steps, a mean of the history | 0.446 | |
| random exposures marked and not imitated, tags summed, a layer on the mean | 0.459 | 0.479 |
| step sizes of the critics that fall, discount 0.7, expectile 0.5 | 0.474 | 0.483 |
| a bias per video in Q, which knew a third of the videos' quality before | 0.486 | 0.502 |

Random exposures mattered most. From the middle of the month on, half of a user's history is random:
where it is not marked, counting what a history holds predicts the platform's next choice to 5.5
nats, and to 5.0 where it is. And a policy that imitates random rows as well learns when they come
instead of what the user likes: its likelihood of the platform's choices got worse with training
(6.3 to 6.6 nats between steps 50 and 200 of cloning, against 5.7 without those rows, and 5.3 after
600 steps with all of the above).

Without gain: a bias per video in the policy (0.484), beta 8 (0.448: too few rows carry the weight),
expectile 0.7 with discount 0.9 (0.484; ranked 0.497), and learning the policy from 16 videos per
row that a clone of the log draws, weighed by exp(8 Q) (0.487). With that last policy it was found
that what a policy shows in a session must not look like the platform's choice in its next states:
0.487 became 0.495, ranked 0.497 became 0.503. The worlds above ran two at a time; worlds 1 and 2
were trained before that change, which no training sees, and evaluated after it (`--keep`)."""


NETWORKS = """\
These networks have one block, in which the rollout orders events as raw attention does. Gradient
times input is as good as integrated gradients here: most of what an event does goes through the
history's mean, which is linear. It does not add up to the margin."""


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
        [plain(name), *(f"{of['reward'][name][0]:.3f}" for of in seeds.values())] for name in names
    ]
    policies = list(next(iter(seeds.values()))["ours"])
    gaps = [
        [
            f"share of the gap that {plain(ours)} closes",
            *(f"{of['ours'][ours]['gap_closed']:.0%}" for of in seeds.values()),
        ]
        for ours in policies
    ]
    settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
    return "\n".join(
        [
            "## Is IQL worth it? Synthetic worlds of KuaiRand-Pure's size",
            "",
            command(found),
            "",
            f"Each seed is another world of users with satiation and habits, with its own log and "
            f"training. Mean true reward per video, {result['users']:,} held-out users, "
            f"{result['sessions']} sessions of 10 videos each:",
            "",
            table(["policy", *(f"world {seed}" for seed in seeds)], [*rows, *gaps]),
            "",
            "The gap is that from the log's policy to the oracle, who knows every taste. "
            "[baselines.md](baselines.md) says what each policy is; `iql ranked` shows, of the "
            "run's 50 first videos, the one that its critic likes best.",
            "",
            *(line for ours in policies for line in _against(ours, seeds)),
            f"Settings: {settings}.",
            "",
            TRIED,
            "",
        ]
    )


def _against(ours: str, seeds: dict[str, Any]) -> list[str]:
    """Return the lines on one policy's reward minus the others'."""
    found = {seed: of["ours"][ours]["difference"] for seed, of in seeds.items()}
    names = list(next(iter(found.values())))
    below = [plain(name) for name in names if any(of[name][1] <= 0 for of in found.values())]
    verdict = (
        "above every one of them on every world, with intervals that exclude 0."
        if not below
        else f"not above on every world: {', '.join(below)}."
    )
    differences = [[plain(name), *(signed(of[name]) for of in found.values())] for name in names]
    return [
        f"The reward of {plain(ours)} minus the others', paired by user; {verdict}",
        "",
        table([f"{plain(ours)} minus", *(f"world {seed}" for seed in found)], differences),
        "",
    ]


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
    metrics = [plain(name) for name in next(iter(result["pooled"].values()))]
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
            command(found),
            "",
            "Share of the intervals that hold the true value, over all policies and repetitions, "
            "and mean rank correlation of the estimates with the truth "
            "([off_policy.md](off_policy.md) says what the estimators are, and why `dm` and `mips` "
            "do not hold):",
            "",
            table(["estimator", *metrics, "Spearman (reward)"], rows),
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
    coverage = ", ".join(f"{plain(k)} {v:.3f}" for k, v in result["coverage"].items())
    return "\n".join(
        [
            "## Do intervals of fitted Q evaluation hold?",
            "",
            command(found),
            "",
            f"Mean reward per video of sessions, {result['repetitions']} repetitions:",
            "",
            table(["policy", "truth", "mean estimate", "half width", "coverage"], rows),
            "",
            f"Over all policies, the intervals hold the truth in: {coverage}. Mean rank "
            f"correlation with the truth: {result['spearman']:.3f}.",
            "",
        ]
    )


def explanations(found: dict[str, Any]) -> str:
    """Whether explanations name what drives a recommendation, every world."""
    seeds: dict[str, Any] = found["result"]["seeds"]
    measured = {seed: of["explanations"] for seed, of in seeds.items()}
    first = next(iter(measured.values()))
    orders = list(first["faithfulness"]["orders"])
    heads = [f"world {seed}" for seed in seeds]

    def by_order(value: Callable[[dict[str, Any], str], str]) -> list[list[str]]:
        return [[plain(name), *(value(of, name) for of in measured.values())] for name in orders]

    def causes(kind: str) -> str:
        def precision(of: dict[str, Any], name: str) -> str:
            return interval(of["truth"]["causes"][kind]["precision"][name])

        rows = [
            *by_order(precision),
            ["best possible", *(precision(of, "best") for of in measured.values())],
        ]
        return table(["events in order of", *heads], rows)

    def gain(measure: str) -> str:
        def of_order(of: dict[str, Any], name: str) -> str:
            return interval(of["faithfulness"]["orders"][name][f"{measure}_gain"])

        return table(["events in order of", *heads], by_order(of_order)[1:])

    last = list(first["randomisation"]["stages"])[-1]

    def across(name: str, value: Callable[[dict[str, Any]], str]) -> list[str]:
        return [name, *(value(of) for of in measured.values())]

    rows = [
        across(
            "completeness: error of all influence", lambda of: f"{of['completeness']['mean']:.3%}"
        ),
        across("largest", lambda of: f"{of['completeness']['largest']:.3%}"),
        across(
            "error of what effects add up to", lambda of: f"{of['completeness']['of_change']:.3%}"
        ),
        across("infidelity, scaled", lambda of: interval(of["infidelity"]["attribution"])),
        across(
            "the same of gradient times input",
            lambda of: interval(of["infidelity"]["gradient_times_input"]),
        ),
        across(
            "infidelity of effects as they are",
            lambda of: f"{of['unscaled_infidelity']['attribution']:.2f}",
        ),
        across("sensitivity", lambda of: interval(of["sensitivity"])),
        across(
            "size of the rank correlation with random weights",
            lambda of: f"{of['randomisation']['stages'][last]['size']:.2f}",
        ),
        across(
            "the same with signs", lambda of: f"{of['randomisation']['signed'][last]['size']:.2f}"
        ),
        across(
            "rank correlation of attention with effects",
            lambda of: interval(of["behaviour"]["everyone"]["correlation"]),
        ),
        across(
            "share of the three strongest events",
            lambda of: interval(of["concentration"]["top_share"]),
        ),
        [
            "decisions attributed per second",
            *(str(of["speed"]["per_second"]) if "speed" in of else "-" for of in seeds.values()),
        ],
    ]
    decisions = max((of["speed"]["decisions"] for of in seeds.values() if "speed" in of), default=0)
    return "\n".join(
        [
            "## Do explanations name what drives a recommendation?",
            "",
            command(found),
            "",
            f"The runs of the first section; the first choice for {first['decisions']} held-out "
            "users of each world. [faithfulness.md](faithfulness.md) says what is measured. Share "
            "of true causes among the three events named first, where a cause is an event of the "
            "same taste (`random`: its share in the history):",
            "",
            causes("same_taste"),
            "",
            "Where it is a recent event that the user reacts to directly:",
            "",
            causes("reactions"),
            "",
            "Comprehensiveness above random orders, in log-odds:",
            "",
            gain("comprehensiveness"),
            "",
            "Sufficiency below random orders, in log-odds:",
            "",
            gain("sufficiency"),
            "",
            f"The rest; speed is of {decisions:,} decisions in one call, on two cores:",
            "",
            table(["", *heads], rows),
            "",
            NETWORKS,
            "",
        ]
    )


def real_pure(found: dict[str, Any]) -> str:
    """The evaluation of a run on real rows."""
    result = found["result"]
    correlation = result["q_correlation"]
    q_rows = [[plain(name), interval(value)] for name, value in correlation["q"]["pearson"].items()]
    ranked = [
        (kind, result[f"ranking_{part}"])
        for part, kind in (("random", "random log"), ("test", "standard log, later rows"))
        if result[f"ranking_{part}"]
    ]
    scorers = list(ranked[0][1]["scorers"])
    rank_rows = [
        [
            plain(name),
            *(interval(of["scorers"][name]["metrics"].get("gauc_click")) for _, of in ranked),
        ]
        for name in scorers
    ]
    sessions = result["sessions"]["policies"]
    fitted = (result["fitted_q"] or {"policies": {}})["policies"]
    rows = [
        [
            plain(name),
            interval(metrics["reward"]),
            interval(fitted.get(name, {"metrics": {}})["metrics"].get("reward")),
            f"{result['exposure'][name]['top']['overlap']:.2f}",
        ]
        for name, metrics in sessions.items()
    ]
    missing = [f"- {plain(name)}: {why}." for name, why in result["missing"].items()]
    chosen = result["q_correlation"]["q"]
    top, bottom = (interval(chosen[name]) for name in ("top_fifth", "bottom_fifth"))
    return "\n".join(
        [
            "## Real rows: a slice of KuaiRand-Pure",
            "",
            command(found),
            "",
            f"Dataset {result['provenance']['dataset'][:12]}, weights "
            f"{result['provenance']['policy'][:12]}; {found['split']}. Correlation of Q with what "
            f"users answered, on {correlation['rows']:,} later rows:",
            "",
            table(["Q against", "Pearson"], q_rows),
            "",
            f"Mean reward of the fifth of the rows with the highest Q: {top}; lowest: {bottom}.",
            "",
            "GAUC of clicks, within users:",
            "",
            table(["scorer", *(kind for kind, _ in ranked)], rank_rows),
            "",
            "Reward per video by evidence; overlap of two users' first ten:",
            "",
            table(["policy", "simulated sessions", "fitted Q evaluation", "overlap"], rows),
            "",
            *(["Without evidence here:", "", *missing, ""] if missing else []),
        ]
    )


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "pure_world": pure_world,
    "off_policy": off_policy,
    "fitted_q": fitted_q,
    "explanations": explanations,
    "real_pure": real_pure,
    "sweep_cost": sweep_cost,
    "sweep_hypervolume": sweep_hypervolume,
    "sweep_kills": sweep_kills,
}
