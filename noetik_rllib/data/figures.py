"""What a target is made of: figures with a published value and the bounds they must stay within."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Variant = Literal["pure", "1k", "27k"]
VARIANTS: tuple[Variant, ...] = ("pure", "1k", "27k")

#: Where a published value comes from, by the tags of ``Target.source``.
SOURCES: dict[str, str] = {
    "L": "tables of all rows of 27K: github.com/limings02/kuairand, before commit 185281b",
    "K": (
        "all 1,436,609 standard rows of Pure: github.com/Applied-Machine-Learning-Lab/KuaiSim, "
        "code/preprocess/KuaiRandDataset.ipynb"
    ),
    "T": (
        "all standard rows of 1K: github.com/TommyYoungtc/kuairand-longseq-rec, reports/eda_1k.md"
    ),
    "A": (
        "Pure from 22 April on, exact duplicates dropped: github.com/Aylayan/KuaiRand_Pure, "
        "funnel_metrics.csv"
    ),
    "SM": "Pure: github.com/Sham-Moon/KuaiRand-Analysis, tables P5_01 and P5_03",
    "G": (
        "all three variants: github.com/godspeedkil/kuairand_debiased_recommender, "
        "notebooks/02_versions.ipynb"
    ),
    "W": "computed from the 228,329 standard rows of Pure dated 25 April to 8 May",
    "F": "computed from Pure's feature files",
}

#: On which folders a statistic published of some variant is measured. 1K is a random sample of
#: 1,000 users of 27K with all their rows, so what holds per row or per user carries over between
#: the two; Pure is 27K cut down to 7,583 videos, whose rates differ.
_MEASURED_ON: dict[str, tuple[Variant, ...]] = {
    "pure": ("pure",),
    "1k": ("1k", "27k"),
    "27k": ("1k", "27k"),
    "27k,1k": ("1k", "27k"),
    "1k,pure": VARIANTS,
    "all": VARIANTS,
}


@dataclass(frozen=True)
class Figure:
    """One number of a target.

    Attributes:
        key: name of the measure in ``measures.py``.
        label: what it is, for the table.
        target: the published value; None where only a bound was given.
        low, high: the figure holds within these, both included; infinite where open.
        tolerance: the bounds in words.
        judged: False where the value is printed and not held against the target.
        variants: the folders it is measured on, if fewer than the target's.
        not_comparable: why it is measured and not judged on some variant.
    """

    key: str
    label: str
    target: float | None
    low: float = -math.inf
    high: float = math.inf
    tolerance: str = ""
    judged: bool = True
    variants: tuple[Variant, ...] = VARIANTS
    not_comparable: Mapping[Variant, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """One numbered statistic of the real logs.

    Attributes:
        number: 1 to 30.
        name, tolerance, variant: as published with the statistic.
        source: tags of ``SOURCES``, with a slash between several.
        figures: the numbers it consists of, in the published order, then bounds without a value.
    """

    number: int
    name: str
    tolerance: str
    source: str
    variant: str
    figures: tuple[Figure, ...]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The variants on whose folders it is measured."""
        return _MEASURED_ON[self.variant]


def absolute(
    key: str,
    label: str,
    target: float,
    size: float,
    *,
    variants: tuple[Variant, ...] = VARIANTS,
    not_comparable: Mapping[Variant, str] | None = None,
) -> Figure:
    """Return a figure that may differ from its target by ``size``, in its own units."""
    low, high = target - size, target + size
    tolerance = f"±{size:g}"
    return Figure(key, label, target, low, high, tolerance, True, variants, not_comparable or {})


def relative(
    key: str, label: str, target: float, size: float, *, variants: tuple[Variant, ...] = VARIANTS
) -> Figure:
    """Return a figure that may differ from its target by a share of it, ``size``."""
    low, high = target * (1 - size), target * (1 + size)
    return Figure(key, label, target, low, high, f"±{size * 100:g} %", True, variants)


def at_least(key: str, label: str, target: float | None, low: float) -> Figure:
    """Return a figure with a lower bound alone."""
    return Figure(key, label, target, low=low, tolerance=f"at least {low:g}")


def between(key: str, label: str, target: float, low: float, high: float) -> Figure:
    """Return a figure with bounds of its own."""
    return Figure(key, label, target, low, high, f"{low:g} to {high:g}")


def shown(key: str, label: str, target: float) -> Figure:
    """Return a figure that is printed and not held against its target."""
    return Figure(key, label, target, tolerance="not judged", judged=False)
