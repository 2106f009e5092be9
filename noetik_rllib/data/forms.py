"""The forms in which a mapping gives a signal or a user feature: one class each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)


class Strict(BaseModel):
    """A part of a mapping: unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _by_keys(**kinds: type[Strict]) -> Callable[[Any], str | None]:
    """Return what tells the kinds of a union apart: the keys that are given.

    Without it a misspelt key is reported as a key that another kind lacks.
    """

    def kind_of(value: Any) -> str | None:
        for tag, kind in kinds.items():
            if isinstance(value, kind):
                return f"<{tag}>"
            if isinstance(value, dict):
                needed = {n for n, field in kind.model_fields.items() if field.is_required()}
                if needed <= set(value) <= set(kind.model_fields):
                    return f"<{tag}>"
        return None

    return kind_of


class Ratio(Strict):
    """A share of a whole, at most 1: ``column / whole``; wholes of 0 or blank are ``unknown``."""

    column: str
    whole: str
    unknown: float = Field(gt=0)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        return (self.column, self.whole)


class Scale(Strict):
    """A number brought to [0, 1]: ``(column - low) / (high - low)``, cut at both ends."""

    column: str
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Scale:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        return (self.column,)


class AtLeast(Strict):
    """1 where the column is at least ``at_least``, else 0."""

    column: str
    at_least: float

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        return (self.column,)


class Flag(Strict):
    """A column that holds 0 or 1 already; in YAML just its name."""

    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        return (self.column,)


Signal = Annotated[
    Annotated[Ratio, Tag("<ratio>")]
    | Annotated[Scale, Tag("<scale>")]
    | Annotated[AtLeast, Tag("<at_least>")]
    | Annotated[Flag, Tag("<flag>")],
    Discriminator(
        _by_keys(ratio=Ratio, scale=Scale, at_least=AtLeast, flag=Flag),
        custom_error_type="signal",
        custom_error_message="expected a column's name, or the keys column, whole, unknown; "
        "or column, low, high; or column, at_least",
    ),
]


class LogNumber(Strict):
    """A count: its ``log1p``, standardised over the training part; the average where blank."""

    log_number: str
    name: str

    @property
    def column(self) -> str:
        """Column that is read."""
        return self.log_number


class Number(Strict):
    """A number, standardised over the training part; the average where blank."""

    number: str
    name: str

    @property
    def column(self) -> str:
        """Column that is read."""
        return self.number


class Category(Strict):
    """One position per value, 1 where the column holds it."""

    category: str
    name: str
    values: tuple[int | str, ...] = Field(min_length=1)

    @field_validator("values", mode="before")
    @classmethod
    def _no_booleans(cls, values: Any) -> Any:
        if isinstance(values, list | tuple) and any(isinstance(value, bool) for value in values):
            raise ValueError("YAML reads yes, no, on and off as truth values: put them in quotes")
        return values

    @property
    def column(self) -> str:
        """Column that is read."""
        return self.category


class Equals(Strict):
    """1 where the column holds ``equals`` (default 1); rows of value ``unknown`` are counted."""

    flag: str
    name: str
    equals: float = 1.0
    unknown: float | None = None

    @property
    def column(self) -> str:
        """Column that is read."""
        return self.flag


class Blank(Strict):
    """1 where the column is blank though the user has a row."""

    blank: str
    name: str

    @property
    def column(self) -> str:
        """Column that is read."""
        return self.blank


UserFeature = Annotated[
    Annotated[LogNumber, Tag("<log_number>")]
    | Annotated[Number, Tag("<number>")]
    | Annotated[Category, Tag("<category>")]
    | Annotated[Equals, Tag("<flag>")]
    | Annotated[Blank, Tag("<blank>")],
    Discriminator(
        _by_keys(log_number=LogNumber, number=Number, category=Category, flag=Equals, blank=Blank),
        custom_error_type="feature",
        custom_error_message="expected 'name' and one of log_number, number, category (with "
        "values), flag, blank",
    ),
]


def feature_names(features: tuple[UserFeature, ...]) -> Iterator[str]:
    """Yield the name of each position that the features take, in order."""
    for feature in features:
        if isinstance(feature, Category):
            yield from (f"{feature.name}_{value}" for value in feature.values)
        else:
            yield feature.name
