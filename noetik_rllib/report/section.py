"""The page's building block: a section, made from a run, or left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noetik_rllib.evaluation.evaluation_result import EvaluationResult
from noetik_rllib.interpret.facts import Explanation
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.report.plots import Plot
from noetik_rllib.runs import Run


@dataclass(frozen=True)
class Material:
    """What sections are made of, read once.

    Attributes:
        run: a finished run.
        dataset: what it was trained on.
        progress: rows of its progress.csv.
        result: its evaluation, None if it has not been evaluated.
        explanations: recommendations to explain, any number of users and choices, in the order in
            which they are to be shown.
    """

    run: Run
    dataset: OfflineDataset
    progress: Sequence[dict[str, float]]
    result: EvaluationResult | None
    explanations: Sequence[Explanation]

    @property
    def directory(self) -> Path:
        """The run's folder."""
        return self.run.directory


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        id: its anchor, unique on the page.
        title: its heading, and its name in the navigation.
        template: a file of ``report/sections/``.
        content: what the template shows, as ``content``.
        script: JavaScript that it needs, a file of ``report/``. It has to work by itself, without
            a network and without ``innerHTML``.
    """

    id: str
    title: str
    template: str
    content: Mapping[str, Any]
    script: str | None = None


def plots_section(
    name: str, title: str, plots: Sequence[Plot], said: Sequence[str] = ()
) -> Section | None:
    """Make a section of paragraphs over a grid of plots; None without plots.

    Args:
        name: anchor of the section.
        title: its heading.
        plots: drawn by one of the report's modules, with ids that occur nowhere else.
        said: paragraphs before them, as plain text.
    """
    if not plots:
        return None
    return Section(name, title, "plots.html", {"plots": plots, "said": said})
