"""How an offline dataset is made: the options of ``noetik data prepare``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from noetik_rllib.data.reader import SHARD_BYTES
from noetik_rllib.errors import UserError
from noetik_rllib.offline.manifest import MAX_POOL
from noetik_rllib.offline.split import Split
from noetik_rllib.state import StateLayout

Format = Literal["parquet", "json"]


@dataclass(frozen=True)
class PrepareConfig:
    """How a dataset is made.

    Attributes:
        history_length: past events in a state; 16 makes a state of 128.
        episode_steps: longest episode; 10, the length of an environment's episode.
        split: "user" cuts each user's own last 20 %, so that every user with some rows is in
            train and in test; "time" cuts at one moment for all.
        split_time_ms: that moment, ms since the Unix epoch; where 80 % of the rows come before it,
            if not given.
        random_in_train: add the uniformly exposed rows before the split, of users that are not
            held out, to train; the part random then lacks them.
        held_out_users: share of users kept from training, to fit and start the evaluation's
            simulator on. A fifth leaves the simulator some thousands of users on KuaiRand-Pure.
        seed: decides which users are held out.
        random_pool: number of videos that the uniformly exposed ones were drawn from; if not
            given, the smaller of the mapping's and the number of rows of the features file.
        format: "json" writes RLlib's SampleBatch lines to ``json/`` beside the Parquet files.
        shard_bytes: CSV bytes of the log that are worked on at a time; a larger log goes through
            a temporary folder.
    """

    history_length: int = 16
    episode_steps: int = 10
    split: Split = "user"
    split_time_ms: int | None = None
    random_in_train: bool = False
    held_out_users: float = 0.2
    seed: int = 0
    random_pool: int | None = None
    format: Format = "parquet"
    shard_bytes: int = SHARD_BYTES

    def __post_init__(self) -> None:
        StateLayout(self.history_length)  # refuses a length that cannot be
        if not 0 < self.held_out_users < 1:
            raise UserError(
                f"held-out users is {self.held_out_users}: expected a share between 0 and 1"
            )
        if self.episode_steps < 1:
            raise UserError(f"episode steps is {self.episode_steps}: expected at least 1")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}: expected 0 or more")
        if self.random_pool is not None and not 1 <= self.random_pool <= MAX_POOL:
            raise UserError(f"random pool is {self.random_pool}: expected 1 to {MAX_POOL:,} videos")
        if self.split_time_ms is not None and self.split != "time":
            raise UserError("a split time needs the split 'time', which cuts at one moment")
