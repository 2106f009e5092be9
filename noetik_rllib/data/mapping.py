"""How the columns of a behavioural log are read: who, what, when, which signals, which features.

A mapping is a YAML file. KuaiRand's own is ``mappings/kuairand.yaml``; another domain needs a file
like it and no code. docs/adapters.md documents every key.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from noetik_rllib.data.forms import Ratio, Scale, Signal, Strict, UserFeature, feature_names
from noetik_rllib.data.signals import BINARY_SIGNALS, SIGNALS
from noetik_rllib.errors import UserError, did_you_mean
from noetik_rllib.state import USER_SIZE

#: Mappings that come with the package, by name: ``<name>.yaml``.
FOLDER = Path(__file__).with_name("mappings")


class Time(Strict):
    """The column that orders a user's rows.

    Attributes:
        column: its name.
        unit: "ms" or "s" since the Unix epoch, or "step": numbers without a clock, such as trials.
        seconds_per_step: what a step lasts, for "step".
        sorted_runs: true where each file is a few runs sorted by user and time, as KuaiRand's are:
            a time that falls within consecutive rows of a user is then an error.
    """

    column: str
    unit: Literal["ms", "s", "step"] = "ms"
    seconds_per_step: float = Field(default=60.0, gt=0)
    sorted_runs: bool = False


class LogFiles(Strict):
    """The log: one row per exposure of an item to a user.

    Attributes:
        standard: glob patterns of files whose items a policy of unknown propensities chose.
        random: patterns of files whose items were drawn uniformly.
        random_pool: number of items that those were drawn from; if not given, or larger, the rows
            of the items file.
        schema_columns: every column of the file, in order, where the layout is fixed; the file's
            first line must then be exactly that.
        user, item: ids: whole numbers, or any text where ``text_ids`` names them.
        text_ids: "users", "items" or both.
        play_time_ms: how long the item was engaged with, in ms; the next state is that much later.
        duration_ms: length of the item, in ms; 0 is unknown.
        tab: where the item was shown, 0 to 14.
        is_random: 0 in standard files, 1 in random ones: checked.
        local_date: YYYYMMDD in UTC+8; only compared with the time, to count days ahead.
        signals: signal -> how it is read; those that are not named are 0.
        meanings: signal -> what the user did, as in "they ...", for explanations.
        repeats: whether an item among the user's last ones may be recommended again.
        ranges: column -> [lowest, highest].
    """

    standard: tuple[str, ...] = Field(min_length=1)
    random: tuple[str, ...] = ()
    random_pool: int | None = Field(default=None, ge=1)
    schema_columns: tuple[str, ...] | None = None
    user: str
    item: str
    text_ids: tuple[Literal["users", "items"], ...] = ()
    time: Time
    play_time_ms: str | None = None
    duration_ms: str | None = None
    tab: str | None = None
    is_random: str | None = None
    local_date: str | None = None
    signals: dict[str, Signal] = Field(min_length=1)
    meanings: dict[str, str] = Field(default_factory=dict)
    repeats: bool = False
    ranges: dict[str, tuple[float, float]] = Field(default_factory=dict)

    @field_validator("signals", mode="before")
    @classmethod
    def _names(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for name in values:
            if name not in SIGNALS:
                raise ValueError(
                    f"unknown signal '{name}'; expected one of {', '.join(SIGNALS)}."
                    f"{did_you_mean(str(name), SIGNALS)}"
                )
        return {
            name: {"column": value} if isinstance(value, str) else value
            for name, value in values.items()
        }

    @model_validator(mode="after")
    def _signals_fit(self) -> LogFiles:
        for name in BINARY_SIGNALS:
            if isinstance(self.signals.get(name), Ratio | Scale):
                raise ValueError(f"signal '{name}' is 0 or 1: give a column or 'at_least'")
        for name in self.meanings:
            if name not in self.signals:
                raise ValueError(
                    f"meanings: '{name}' is not among this mapping's signals."
                    f"{did_you_mean(name, self.signals)}"
                )
        return self

    @property
    def optional_columns(self) -> tuple[str, ...]:
        """Columns of the log beside ids, time and signals that the mapping names."""
        named = (self.play_time_ms, self.duration_ms, self.tab, self.is_random, self.local_date)
        return tuple(name for name in named if name is not None)

    def columns(self) -> tuple[str, ...]:
        """Every column that is read, once each."""
        if self.schema_columns is not None:
            return self.schema_columns
        names = [self.user, self.item, self.time.column, *self.optional_columns]
        for signal in self.signals.values():
            names += signal.columns
        return tuple(dict.fromkeys(names))

    @model_validator(mode="after")
    def _columns_exist(self) -> LogFiles:
        if self.schema_columns is not None:
            names = [self.user, self.item, self.time.column, *self.optional_columns, *self.ranges]
            names += [column for signal in self.signals.values() for column in signal.columns]
            for name in names:
                if name not in self.schema_columns:
                    raise ValueError(
                        f"column '{name}' is not among schema_columns."
                        f"{did_you_mean(name, self.schema_columns)}"
                    )
        return self


class UserFiles(Strict):
    """The users' features: one row per user, at most 31 positions of the state together."""

    files: tuple[str, ...] = Field(min_length=1)
    key: str
    features: tuple[UserFeature, ...]

    @model_validator(mode="after")
    def _fits(self) -> UserFiles:
        names = list(feature_names(self.features))
        if len(names) > USER_SIZE - 1:
            raise ValueError(
                f"{len(names)} user features: a state holds {USER_SIZE - 1} and a flag"
            )
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two features are named '{name}': give each its own name")
        return self


class ItemFiles(Strict):
    """The items' features: one row per item; every column but the key may be left out."""

    files: tuple[str, ...] = Field(min_length=1)
    key: str
    creator: str | None = None
    duration_ms: str | None = None
    type: str | None = None
    upload_type: str | None = None
    width: str | None = None
    height: str | None = None
    tags: str | None = None

    @property
    def numbers(self) -> tuple[str, ...]:
        """Numeric columns that are read, the key apart."""
        named = (self.creator, self.duration_ms, self.width, self.height)
        return tuple(name for name in named if name is not None)

    @property
    def texts(self) -> tuple[str, ...]:
        """Text columns that are read."""
        return tuple(name for name in (self.type, self.upload_type, self.tags) if name is not None)


class Mapping(Strict):
    """A whole mapping; see docs/adapters.md."""

    name: str
    log: LogFiles
    users: UserFiles | None = None
    items: ItemFiles | None = None

    @property
    def user_names(self) -> tuple[str, ...]:
        """Name of each of the 32 positions of a user: the features, unused ones, a flag."""
        names = list(feature_names(self.users.features)) if self.users else []
        unused = [f"unused_{place}" for place in range(len(names), USER_SIZE - 1)]
        return (*names, *unused, "features_known")

    @classmethod
    def find(cls, name_or_path: str | Path) -> Mapping:
        """Read a mapping of the package by its name, or any by the path of its file.

        Raises:
            UserError: neither a known name nor a readable file, or the file makes no sense.
        """
        names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
        path = Path(name_or_path)
        if str(name_or_path) in names:
            path = FOLDER / f"{name_or_path}.yaml"
        elif path == Path(path.stem) and not path.exists():
            raise UserError(
                f"mapping '{name_or_path}': expected {', '.join(names)} or the path of a YAML "
                f"file.{did_you_mean(str(name_or_path), names)}"
            )
        return cls.load(path)

    @classmethod
    def load(cls, path: str | Path) -> Mapping:
        """Read a mapping from its file.

        Raises:
            UserError: unreadable, not YAML, an unknown key or a value that makes no sense.
        """
        path = Path(path)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"mapping {path} cannot be read: {error.strerror}") from None
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"mapping {path} is not YAML: {reason}") from None
        if not isinstance(content, dict):
            raise UserError(f"mapping {path}: expected keys name, log, users, items")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise UserError(f"mapping {path}: {_first(error)}") from None


@cache
def kuairand() -> Mapping:
    """The mapping of KuaiRand's published files, all variants."""
    return Mapping.find("kuairand")


def _first(error: ValidationError) -> str:
    """Say the first thing that is wrong, by its place in the file."""
    problem = error.errors()[0]
    # Members of a union are tagged by their kind, which stands nowhere in the file.
    where = ".".join(str(part) for part in problem["loc"] if not str(part).startswith("<"))
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "unknown key; docs/adapters.md lists those that there are"
    return f"{where}: {message}" if where else message
