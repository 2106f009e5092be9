"""The sections that say what was run: training, data, and how to do it again."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex

from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.interpret import words
from noetik_rllib.report.plots import training_plots
from noetik_rllib.report.section import Material, Section, plots_section
from noetik_rllib.run_folder import read_lineage
from noetik_rllib.runs import TrainConfig

#: Packages whose versions decide a run's numbers.
_PACKAGES = ("noetik-rllib", "ray", "torch", "captum", "numpy", "pandas", "pyarrow")


def training_section(material: Material) -> Section | None:
    """Plot what was measured in training."""
    return plots_section("training", "Training", training_plots(material.progress))


def data_section(material: Material) -> Section:
    """Say what the policy learnt from, and what it was tested on."""
    dataset = material.dataset
    content = {
        "dataset": dataset.directory,
        "manifest": dataset.manifest,
        "held_out": int(dataset.users.held_out.sum()),
    }
    return Section("data", "Data", "data.html", content)


def reproduce_section(material: Material) -> Section:
    """List the commands, settings and versions that make this run again."""
    lineage = read_lineage(material.run.directory)
    content = {
        "commands": _commands(material, train=not lineage),
        "lineage": [
            (copy["trial"], copy["iteration"], _changes(copy["changed"])) for copy in lineage
        ],
        "configuration": _configuration(material.run.config),
        "versions": _versions(),
    }
    return Section("reproduce", "Reproduce", "reproduce.html", content)


def reward_formula(weights: RewardWeights) -> str:
    """A reward as a formula: ``0.5 click + 0.5 watch ratio``."""
    terms = [
        f"{weight:g} {name.replace('_', ' ')}"
        for name, weight in weights.model_dump().items()
        if weight
    ]
    return " + ".join(terms).replace("+ -", "- ")


def train_command(config: TrainConfig) -> str:
    """The shell command that trains this run again: every setting that is not the default."""
    parts = ["noetik", "train"]
    for name, field in TrainConfig.model_fields.items():
        value = getattr(config, name)
        option = f"--{name.replace('_', '-')}"
        if name == "reward":
            if value != field.default:
                weights = value.model_dump().items()
                parts += [
                    option,
                    ",".join(f"{key}={weight:g}" for key, weight in weights if weight),
                ]
        elif field.is_required() or value != field.default:
            if isinstance(value, bool):
                parts.append(option if value else f"--no-{option[2:]}")
            else:
                parts += [option, str(value)]
    return shlex.join(parts)


def _changes(changed: dict[str, tuple[float, float]]) -> str:
    """What a copy went on with, where that differs."""
    texts = [f"{name} {after:.3g} for {before:.3g}" for name, (before, after) in changed.items()]
    return words.listing(texts) if texts else "the same settings"


def _commands(material: Material, *, train: bool) -> list[str]:
    directory = shlex.quote(str(material.directory))
    users = list(dict.fromkeys(shlex.quote(one.user_label) for one in material.explanations))
    most = max((one.rank for one in material.explanations), default=1)
    return [
        *([train_command(material.run.config)] if train else []),
        f"noetik evaluate {directory}",
        *(f"noetik explain {directory} --user {user} --top-k {most}" for user in users[:1]),
        " ".join([f"noetik report {directory}", *(f"--user {user}" for user in users)]),
    ]


def _configuration(config: TrainConfig) -> list[tuple[str, str, str]]:
    """Name, value and meaning of every setting."""
    rows = []
    for name, field in TrainConfig.model_fields.items():
        value = getattr(config, name)
        if isinstance(value, RewardWeights):
            text = reward_formula(value)
        else:
            text = {"True": "yes", "False": "no", "None": "none"}.get(str(value), str(value))
        rows.append((name, text, field.description or ""))
    return rows


def _versions() -> dict[str, str]:
    """Versions of what this page was made with."""
    versions = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
