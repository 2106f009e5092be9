"""The sections of docs/results.md on sweeps."""

from __future__ import annotations

from typing import Any

from results_text import command, plain, table

TRIED = """\
Note by hand, of a run that no command here repeats: with the demo's settings (beta 1, small steps)
and a simplex of four signals, `long_view` too, the sweep's front was behind: 0.0221 against 0.0229
above 0. Its policies stayed near the log's, whatever their reward: clicks ranged over 0.02, and
over as much from seed to seed. The settings above were chosen after single rewards had been trained
with them (clicks alone 0.714, watch ratio alone 0.61, likes alone worse in all three), on this
world."""


def sweep_cost(found: dict[str, Any]) -> str:
    """What a sweep costs beside its training."""
    result = found["result"]
    ideal = result["training_seconds"] / result["side_by_side"]
    return "\n".join(
        [
            "## What does a sweep cost beside its training?",
            "",
            command(found),
            "",
            f"{result['trials']} trials, {result['side_by_side']} side by side: "
            f"{result['sweep_seconds']:.0f} s from start to end, with the fit of the judge and all "
            f"judging. Their training time, added up and divided by {result['side_by_side']}, is "
            f"{ideal:.0f} s: the sweep costs {result['cost']:.2f} times that. The training rows "
            "were destroyed on disk when the first trial had trained an iteration; "
            f"{result['begun_after_the_rows_were_destroyed']} trials began after that, and all "
            f"{result['finished']} finished.",
            "",
        ]
    )


def sweep_hypervolume(found: dict[str, Any]) -> str:
    """Whether the front of swept reward weights beats as many runs with the default reward."""
    result = found["result"]
    objectives = result["objectives"]
    kinds = {"weights": "drawn reward weights", "seeds": "default reward, other seeds"}
    rows = [
        [
            label,
            f"{result[kind]['hypervolume_above_0']:.5f}",
            f"{result[kind]['hypervolume_above_worst']:.3e}",
            str(result[kind]["on_the_front"]),
            *(
                f"{min(values):.3f} to {max(values):.3f}"
                for values in zip(*result[kind]["points"], strict=True)
            ),
        ]
        for kind, label in kinds.items()
    ]
    return "\n".join(
        [
            "## Does it pay to sweep reward weights?",
            "",
            command(found),
            "",
            f"Fronts of {len(result['seeds']['points'])} policies of each kind, by true means of "
            f"{', '.join(plain(name) for name in objectives)} per video in sessions with the "
            "synthetic world's own users. The second hypervolume counts from the worst value of "
            "all policies in each objective:",
            "",
            table(
                [
                    "policies",
                    "hypervolume above 0",
                    "above the worst",
                    "on the front",
                    *(plain(name) for name in objectives),
                ],
                rows,
            ),
            "",
            TRIED,
            "",
        ]
    )


def sweep_kills(found: dict[str, Any]) -> str:
    """What became of a sweep whose processes were killed."""
    rows = [[plain(name), f"{value:,}"] for name, value in found["result"].items()]
    return "\n".join(
        [
            "## Is every trial's result there, whoever is killed?",
            "",
            command(found),
            "",
            "Against the same sweep, undisturbed:",
            "",
            table(["", "number"], rows),
            "",
        ]
    )
