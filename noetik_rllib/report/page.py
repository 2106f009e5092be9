"""``RUN/report.html``: what was trained, how good it is, why it recommends what it recommends.

One file without any reference to the outside: it can be mailed, archived and opened offline. Its
content security policy allows its own style and the scripts whose hashes it lists, nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from noetik_rllib.data.reader import sha256_of
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.evaluation_result import METRICS_NAME, EvaluationResult
from noetik_rllib.interpret import words
from noetik_rllib.interpret.facts import Explanation
from noetik_rllib.report.evaluation_section import evaluation_section
from noetik_rllib.report.explanations_section import explanations_section
from noetik_rllib.report.html import read, templates, write_page
from noetik_rllib.report.interpretability_sections import (
    behaviour_section,
    faithfulness_section,
)
from noetik_rllib.report.run_sections import (
    data_section,
    reproduce_section,
    reward_formula,
    training_section,
)
from noetik_rllib.report.section import Material, Section
from noetik_rllib.runs import Run

_STYLES = ("style.css", "explorer.css")

#: The page from top to bottom. One that returns None is left out, of the navigation as well.
SECTIONS: tuple[Callable[[Material], Section | None], ...] = (
    evaluation_section,
    explanations_section,
    faithfulness_section,
    behaviour_section,
    training_section,
    data_section,
    reproduce_section,
)


def _material(run: Run, explanations: Sequence[Explanation]) -> Material:
    evaluated = (run.directory / METRICS_NAME).exists()
    result = EvaluationResult.load(run.directory) if evaluated else None
    if result and result.provenance and result.provenance.policy != sha256_of(run.weights_file()):
        raise UserError(
            f"{run.directory / METRICS_NAME} is of another policy than the run's: evaluate again"
        )
    return Material(run, run.dataset(), run.progress(), result, explanations)


def _environment() -> jinja2.Environment:
    environment = templates()
    environment.filters["percent"] = words.percent
    environment.filters["signed"] = words.signed
    environment.filters["error"] = words.error
    environment.filters["plain"] = lambda name: str(name).replace("_", " ")
    return environment


def _security_policy(scripts: Sequence[str]) -> str:
    """Forbid everything but inline style and exactly these inline scripts."""
    hashes = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    ]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )


def render(run: Run, explanations: Sequence[Explanation]) -> str:
    """Return the page of a run as HTML."""
    material = _material(run, explanations)
    sections = [section for make in SECTIONS if (section := make(material)) is not None]
    scripts = [read(section.script) for section in sections if section.script]
    last = material.progress[-1] if material.progress else {}
    return (
        _environment()
        .get_template("page.html")
        .render(
            name=run.directory.resolve().name,
            gradient_steps=last.get("gradient_steps", 0),
            manifest=material.dataset.manifest,
            reward=reward_formula(run.config.reward),
            sections=sections,
            scripts=scripts,
            # In an attribute: autoescape writes the quotes as entities, which parse back.
            policy=_security_policy(scripts),
            style=Markup("\n".join(read(name) for name in _STYLES)),
        )
    )


def write_report(run: Run, explanations: Sequence[Explanation]) -> Path:
    """Write ``RUN/report.html``, whole or not at all.

    Args:
        run: a finished run; its evaluation is shown if there is one.
        explanations: recommendations to explain on the page: every user and choice of the
            explorer.

    Raises:
        UserError: the run's dataset, progress or evaluation is damaged, or the page cannot be
            written.
    """
    return write_page(render(run, explanations), run.directory)
