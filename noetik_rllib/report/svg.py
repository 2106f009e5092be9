"""A matplotlib figure as inline SVG: text as text, the page's own colours and font, no outside."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

#: Colours to draw with. They are no colours but names: each becomes a variable of the page's style
#: sheet, which holds one value for light and one for dark.
INK = "#010101"
FAINT = "#020202"
COLOURS = ("#030303", "#040404", "#050505", "#060606")
_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    **{colour: f"var(--series-{place})" for place, colour in enumerate(COLOURS, start=1)},
}

# Any: matplotlib types the keys of rcParams as one long list of literals.
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be searched, selected and read aloud
    "font.size": 11.0,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.formatter.useoffset": False,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.facecolor": "none",
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "lines.linewidth": 1.8,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw figures inside this context."""
    with matplotlib.rc_context(_STYLE):
        yield


def to_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """Return a figure as an ``<svg>`` element for an HTML page.

    Args:
        figure: drawn within ``style()``.
        name: unique on the page; every id of the figure begins with it.
        title: short name, for tooltips and screen readers.
        description: what there is to see, in words, for those who cannot see it.
    """
    # The hash salt makes ids the same in every run: same run, same page.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # matplotlib's style sheet would apply to the whole page.
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    # An inline <svg> needs no namespaces, and its size is the page's to decide.
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'<svg([^>]*?)\s+width="[^"]*"', r"<svg\1", text, count=1)
    text = re.sub(r'<svg([^>]*?)\s+height="[^"]*"', r"<svg\1", text, count=1)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    # Fonts are the page's; sizes stay.
    text = re.sub(r"font: ([^;\"]*?)(\d+(?:\.\d+)?px) [^;\"]*", r"font-size: \2", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    label = (
        f'role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(description)}</desc>'
    )
    return re.sub(r"<svg([^>]*)>", lambda found: f"<svg{found[1]} {label}", text, count=1)
