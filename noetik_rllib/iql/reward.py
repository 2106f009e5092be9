r"""The training reward as a sum of parts, one per signal, which the critics learn apart.

With weights :math:`w_k`, the reward of a row is :math:`r = \sum_k w_k s_k / \sigma`, where
:math:`\sigma` is its standard deviation (1 without normalisation). It is a sum of components

.. math:: r = \sum_k \text{sign}_k\, c_k, \quad c_k = (s_k - m_k) / \text{unit}_k, \quad
          \text{unit}_k = \sigma / |w_k|, \quad \text{sign}_k = \text{sign}(w_k)

so that a critic with one output per component has :math:`Q = \sum_k \text{sign}_k Q_k` exactly
(reward decomposition: van Seijen et al. 2017, Juozapaitis et al. 2019). The unit makes an error of
any component count as much as it counts in the reward. A signal without weight has sign 0, and the
unit of its own standard deviation: its Q is learnt, and enters nothing.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.offline.manifest import SignalMoments


class RewardDecomposition(BaseModel):
    """Turns signals (N, S) into reward components (N, S); the default is one plain reward.

    Attributes:
        names: of the signals, in the order of the critics' outputs.
        weights: of each signal in the reward.
        means: what is subtracted from each signal: 0, or its mean over the training rows.
        units: of a component, in units of the signal; positive.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    names: tuple[str, ...] = ("reward",)
    weights: tuple[float, ...] = (1.0,)
    means: tuple[float, ...] = (0.0,)
    units: tuple[float, ...] = (1.0,)

    @model_validator(mode="after")
    def _one_of_each(self) -> RewardDecomposition:
        lengths = {len(self.names), len(self.weights), len(self.means), len(self.units)}
        if len(lengths) != 1 or not self.names:
            raise ValueError("names, weights, means and units must have one entry per signal")
        if min(self.units) <= 0:
            raise ValueError(f"units must be positive, got {min(self.units)}")
        return self

    @classmethod
    def fit(
        cls,
        moments: SignalMoments,
        weights: RewardWeights,
        *,
        normalise: bool = True,
        subtract_mean: bool = False,
    ) -> RewardDecomposition:
        """Take exact means and standard deviations from the manifest, without a pass over rows.

        Raises:
            UserError: the reward is the same on every row.
        """
        std = moments.reward_std(weights)
        scale = std if normalise else 1.0
        spread = np.sqrt(np.diag(np.array(moments.covariance)))
        w = weights.as_array()
        # A signal that never varies and has no weight: any unit will do.
        own = np.where(spread > 0, spread, 1.0)
        units = np.where(w != 0, scale / np.where(w != 0, np.abs(w), 1.0), own)
        means = np.array(moments.mean) if subtract_mean else np.zeros(len(w))
        return cls(
            names=SIGNALS,
            weights=tuple(w.tolist()),
            means=tuple(means.tolist()),
            units=tuple(units.tolist()),
        )

    @property
    def signs(self) -> tuple[float, ...]:
        """Sign of each component in the reward: 1, -1, or 0 where the signal has no weight."""
        return tuple(float(np.sign(weight)) for weight in self.weights)

    @property
    def weighted(self) -> list[int]:
        """Places of the components that have a weight in the reward."""
        return [place for place, sign in enumerate(self.signs) if sign]

    @property
    def unweighted(self) -> list[int]:
        """Places of the others, whose values are learnt as probes."""
        return [place for place, sign in enumerate(self.signs) if not sign]

    def components(self, signals: np.ndarray) -> np.ndarray:
        """Return the components (N, S) float32 of N rows' signals (N, S)."""
        # In double precision: the manifest's moments are, and a test holds the two equal to 1e-6.
        parts = (signals.astype(np.float64) - self.means) / np.array(self.units)
        return parts.astype(np.float32)
