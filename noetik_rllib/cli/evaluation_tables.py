"""What a terminal shows of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:  # importing it imports torch
    from noetik_rllib.evaluation.evaluation_result import EvaluationResult
    from noetik_rllib.evaluation.result import Interval, SessionsResult

#: Columns of the table of sessions: metric and heading.
_COLUMNS = (("reward", "mean reward"), ("click", "click rate"), ("watch_ratio", "watch ratio"))
_LABELS = {
    "iql": "IQL (this run)",
    "iql_ranked": "ranked by its Q",
    "rllib_bc": "RLlib BC",
    "rllib_marwil": "RLlib MARWIL",
    "rllib_cql": "RLlib CQL",
}
#: The interval of ours less the baseline's is above, or below, 0.
_WORSE, _BETTER = "▼", "▲"
#: With fewer users a percentile bootstrap promises too much: of 20, 95 % intervals hold the truth
#: in 93 % of cases, of 8 in 87, of 3 in 69.
_LEAST_USERS = 20
#: What sections are called in text.
_SECTIONS = {
    "off_policy": "off-policy estimates",
    "candidates": "choices among logged candidates",
    "fitted_q": "fitted Q evaluation",
    "ranking_random": "ranking of random exposures",
    "ranking_test": "ranking of the standard log",
    "interpretability": "measures of explanations",
}


def label(policy: str) -> str:
    """What a policy is called in text."""
    return _LABELS.get(policy, policy.replace("_", " "))


def scoreboard(result: EvaluationResult) -> Table:
    """The mean reward of every policy by every kind of evidence, and how personal it is."""
    table = plain_table("policy", "simulated", "fitted Q", "DR", "of logged", "GAUC", "overlap")
    if result.true_sessions:
        table.add_column("truth", justify="right", no_wrap=True)
    few = result.sessions.users < _LEAST_USERS
    for name in result.sessions.policies:
        cells = [_marked(_sessions(result.sessions, name), few=few)]
        cells.append(_marked(_fitted(result, name)))
        cells.append(_marked(_off_policy(result, name)))
        cells.append(_marked(_candidates(result, name)))
        cells += [_gauc(result, name), _overlap(result, name)]
        if result.true_sessions:
            cells.append(_marked(_sessions(result.true_sessions, name), few=few))
        table.add_row(label(name), *cells, style="bold" if name == result.policy else None)
    return table


_Figure = tuple["Interval | None", "Interval | None"]  # a figure, and ours less it


def _sessions(sessions: SessionsResult, name: str) -> _Figure:
    difference = sessions.differences.get(name)
    return sessions.policies[name]["reward"], difference["reward"] if difference else None


def _fitted(result: EvaluationResult, name: str) -> _Figure:
    found = result.fitted_q.policies.get(name) if result.fitted_q else None
    if found is None:
        return None, None
    return found.metrics.get("reward"), found.differences.get("reward")


def _off_policy(result: EvaluationResult, name: str) -> _Figure:
    if result.off_policy is None:
        return None, None
    figure = result.off_policy.policies[name].estimates["dr"].metrics.get("reward")
    difference = result.off_policy.differences.get(name, {}).get("dr", {}).get("reward")
    return figure, difference


def _candidates(result: EvaluationResult, name: str) -> _Figure:
    if result.candidates is None:
        return None, None
    difference = result.candidates.differences.get(name, {}).get("reward")
    return result.candidates.policies[name].get("reward"), difference


def _gauc(result: EvaluationResult, name: str) -> str:
    ranked = result.ranking_random or result.ranking_test
    found = ranked.scorers[name].metrics.get("gauc_click") if ranked else None
    return f"{found.mean:.3f}" if found else "-"


def _overlap(result: EvaluationResult, name: str) -> str:
    found = result.exposure[name].top.overlap if result.exposure else None
    return "-" if found is None else f"{found:.2f}"


def _marked(figure: _Figure, *, few: bool = False) -> str:
    """A mean, and whether ours is above or below it; not told by few users."""
    value, difference = figure
    # Not a plain space: trailing ones are cut off, and numbers would not stand in line.
    blank = "\N{NO-BREAK SPACE}"
    if value is None:
        return f"-{blank}{blank}"
    mark = blank
    if difference is not None and not few:
        mark = _WORSE if difference.low > 0 else _BETTER if difference.high < 0 else blank
    return f"{value.mean:.3f} {mark}"


def comparison(result: EvaluationResult) -> Table:
    """The policies in simulated sessions, side by side; ``noetik demo`` prints the same."""
    sessions = result.sessions
    table = plain_table("policy", *(heading for _, heading in _COLUMNS), "videos")
    for name, metrics in sessions.policies.items():
        table.add_row(
            label(name),
            *(_interval(metrics[metric]) for metric, _ in _COLUMNS),
            f"{sessions.distinct_videos[name]:,}",
            style="bold" if name == result.policy else None,
        )
    logged = (f"{result.judge.logged[metric]:.3f}        " for metric, _ in _COLUMNS)
    table.add_row("logged (real answers)", *logged, "", style="dim")
    return table


def groups(result: EvaluationResult) -> Table | None:
    """The reward in sessions by the users' activity; None where no group has enough users."""
    if result.groups is None:
        return None
    activity = result.groups.activity
    names = list(next(iter(activity.values())))
    users = {name: next(iter(activity.values()))[name].users for name in names}
    if max(users.values()) < _LEAST_USERS:
        return None
    heads = (f"{name} ({users[name]:,})" for name in names)
    table = plain_table("reward by activity", *heads)
    for policy, figures in activity.items():
        cells = [
            figures[name].metrics.get("reward") if users[name] >= _LEAST_USERS else None
            for name in names
        ]
        table.add_row(
            label(policy),
            *("-" if cell is None else _interval(cell) for cell in cells),
            style="bold" if policy == result.policy else None,
        )
    return table


def leaving(result: EvaluationResult) -> Table:
    """The reward of a session, of users who stay to the end or leave by each rule."""
    sessions = result.sessions
    first, *others = sessions.quit_windows
    windows = (f"window {first}", *map(str, others))
    table = plain_table("reward of a session", "to the end", "patience", *windows)
    for name, metrics in sessions.policies.items():
        rules = (sessions.patience, *sessions.quit_windows.values())
        table.add_row(
            label(name),
            f"{metrics['reward'].mean * sessions.steps:.2f}",
            *(f"{rule.reward[name].mean:.2f}" for rule in rules),
            style="bold" if name == result.policy else None,
        )
    return table


def plain_table(first: str, *others: str) -> Table:
    """A table without lines: a column of names, then columns of figures."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def legend(result: EvaluationResult) -> str:
    """How to read the scoreboard, and what the dataset lacks for the rest of it."""
    log = "random" if result.ranking_random else "standard"
    lines = [
        "Mean reward per video: simulated users; fitted Q evaluation and doubly robust (DR) from "
        f"real answers; real answers to a choice among logged candidates. GAUC on the {log} log: "
        "clicks told from non-clicks within a user. Overlap of two users' lists: 1 is the same for "
        f"all. {_WORSE} below this run, {_BETTER} above: the 95 % interval of the difference "
        "excludes 0. -: no figure, metrics.json says why."
    ]
    if result.sessions.users < _LEAST_USERS:
        lines.append(f"Of fewer than {_LEAST_USERS} users, intervals hold less than they promise.")
    lines += [f"No {_SECTIONS.get(name, name)}: {why}." for name, why in result.missing.items()]
    if result.candidates and not result.candidates.policies[result.policy]:
        lines.append(
            f"No choices among logged candidates: {result.candidates.sets} sets of "
            f"{result.candidates.candidates} are too few."
        )
    if result.off_policy:
        reason = result.off_policy.policies[result.policy].estimates["dr"].reason
        if reason:
            lines.append(f"No DR: {reason}.")
        wrong = [found.warning for found in result.off_policy.policies.values() if found.warning]
        # Propensities are wrong for every policy: said once.
        lines += [f"Off-policy: {warning}." for warning in wrong[:1]]
    if result.fitted_q:
        warnings = result.fitted_q.policies[result.policy].warnings
        lines += [f"Fitted Q: {warning}." for warning in warnings]
    return "\n".join(lines)


def remarks(result: EvaluationResult) -> str:
    """What a reader must know to read the table of sessions."""
    sessions = result.sessions
    lines = [
        f"Reward {label(result.policy)} minus {label(name)}: {signed(difference['reward'])}"
        for name, difference in sessions.differences.items()
    ]
    lines += [
        f"Means per video, with 95 % intervals over {sessions.users:,} users held out from "
        f"training, in {len(sessions.seeds)} simulated sessions of {sessions.steps} videos each. "
        "'videos': how many different ones were shown.",
        *_further(result),
        _trust(result),
    ]
    return "\n".join(lines)


def _further(result: EvaluationResult) -> Iterator[str]:
    """What else was found: how robust the order is, what Q knows, which policy was chosen."""
    stability = result.sessions.order_stability
    if stability is not None:
        yield (
            "Patience runs out as in the logs. Windows: users leave after a tag that was shown "
            "within so many videos before. Between the end and the windows, the orders of the "
            f"policies have rank correlations down to {stability:.2f}: the lower, the more the "
            "order is the rule's."
        )
    if result.q_correlation:
        pearson = result.q_correlation.q.pearson
        said = ", ".join(
            f"{name.replace('_', ' ')} {value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]"
            for name, value in pearson.items()
        )
        yield f"Correlation of Q with real answers ({result.q_correlation.rows:,} rows): {said}."
    if result.validation:
        chosen = result.validation
        yield (
            f"Of the {len(chosen.rewards)} policies that the run kept, that of iteration "
            f"{chosen.iteration} did best with training users, and is the run's."
        )


def _trust(result: EvaluationResult) -> str:
    """How far the simulated users can be trusted."""
    judge = result.judge
    text = f"The users' answers are simulated. On {judge.quality.rows:,} later rows of theirs"
    auc, calibration = judge.quality.auc["click"], judge.quality.calibration["click"]
    known = []
    if auc is not None:
        known.append(f"AUC {auc:.3f}")
    if calibration is not None:
        known.append(f"{calibration:.2f} times the real click rate")
    text += f": {', '.join(known)}." if known else " there was no click to check them by."
    if not judge.fitted_on.uniform_rows:
        text += (
            " The log has too few random exposures of these users to learn what they think of "
            "videos that the platform would not show them: such videos are overrated here."
        )
    elif judge.quality_uniform and judge.quality_uniform.calibration["click"] is not None:
        uniform = judge.quality_uniform
        text += (
            f" On {uniform.rows:,} later random exposures: {uniform.calibration['click']:.2f} "
            "times the real click rate."
        )
    return text


def _interval(interval: Interval) -> str:
    """A mean and half the width of its interval, which is near enough symmetric."""
    return f"{interval.mean:.3f} ± {(interval.high - interval.low) / 2:.3f}"


def signed(interval: Interval) -> str:
    """A mean with its sign, and its interval."""
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
