"""A synthetic world together with its files, read back."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from noetik_rllib.data.world import SyntheticWorld
from noetik_rllib.data.world_files import WorldFiles


@dataclass(frozen=True)
class Written:
    """A written world and its files, read back."""

    world: SyntheticWorld
    files: WorldFiles
    first: pd.DataFrame
    second: pd.DataFrame
    random: pd.DataFrame
    users: pd.DataFrame
    videos: pd.DataFrame

    @property
    def standard(self) -> pd.DataFrame:
        """Both standard logs without the rows that are logged twice."""
        return pd.concat([self.first, self.second]).drop_duplicates()

    @property
    def events(self) -> pd.DataFrame:
        """All three logs in the order of showing."""
        rows = pd.concat([self.standard, self.random])
        return rows.sort_values(["user_id", "time_ms"], ignore_index=True, kind="stable")
