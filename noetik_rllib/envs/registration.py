"""Registers ``KuaiRandEnv`` with Gymnasium at once, and with RLlib once Ray's registry is there.

Importing Ray's registry takes most of a second (it imports Ray and pandas), which ``noetik --help``
need not wait for. So the registration with RLlib follows the import of the registry, which every
use of RLlib begins with.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from noetik_rllib.envs.kuairand_env import KuaiRandEnv
    from noetik_rllib.envs.vector_env import KuaiRandVectorEnv

GYMNASIUM_ID = "noetik/KuaiRand-v0"
RLLIB_NAME = "KuaiRand-v0"
_RAY_REGISTRY = "ray.tune.registry"


def make_kuairand_env(config: Mapping[str, Any]) -> KuaiRandEnv | KuaiRandVectorEnv:
    """Make the environment from RLlib's ``env_config``. Pickled by name, so workers need Noetik.

    RLlib adds ``num_envs`` where it wants a vectorised one
    (``gym_env_vectorize_mode="vector_entry_point"``). Its runners have the seeds s + 1, s + 2, ...,
    and the sessions of each count on from there: streams keep them apart. A vectorised one is not
    told its runner, since RLlib then sends a plain dict for its ``EnvContext``
    (single_agent_env_runner.py: ``env_ctx | {...}``), so its streams are the sessions; of single
    ones the stream is the runner.
    """
    if "num_envs" in config:
        from noetik_rllib.envs.vector_env import KuaiRandVectorEnv

        return KuaiRandVectorEnv(**config, streams=True)
    from noetik_rllib.envs.kuairand_env import KuaiRandEnv

    return KuaiRandEnv(config, stream=getattr(config, "worker_index", None) or 0)


class _AfterImport(Loader):
    """Runs a module's own loader, then registers the environment with it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        # From here on it is a module like any other.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.register_env(RLLIB_NAME, make_kuairand_env)


class _RegistryWatch(MetaPathFinder):
    """Finds Ray's registry as Python would, with ``_AfterImport`` around its loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _RAY_REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _AfterImport(spec.loader)
        return spec


def register() -> None:
    """Register the environment under both names; registering again changes nothing."""
    if GYMNASIUM_ID not in gymnasium.registry:
        gymnasium.register(
            id=GYMNASIUM_ID,
            entry_point="noetik_rllib.envs.kuairand_env:KuaiRandEnv",
            vector_entry_point="noetik_rllib.envs.vector_env:KuaiRandVectorEnv",
        )
    if _RAY_REGISTRY in sys.modules:
        sys.modules[_RAY_REGISTRY].register_env(RLLIB_NAME, make_kuairand_env)
    elif not any(isinstance(finder, _RegistryWatch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegistryWatch())
