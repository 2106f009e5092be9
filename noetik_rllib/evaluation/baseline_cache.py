"""Where trained baselines are kept: in the run that they are compared with, under a key of all that
their weights follow from, so that each is trained once and none is ever stale.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from noetik_rllib.io import atomic_path

FOLDER = "baselines"
#: Name of the training simulator's user model, which training with validation fits already.
USER_MODEL = "user_model"


class Kept(NamedTuple):
    """What is kept of a baseline: tensors by name, and a text that says how to read them."""

    tensors: dict[str, Tensor]
    note: str = ""


def cache_path(run_directory: Path, name: str) -> Path:
    """The file of the baseline ``name``."""
    return run_directory / FOLDER / f"{name}.safetensors"


def kept(
    run_directory: Path, name: str, made_from: Mapping[str, Any], make: Callable[[], Kept]
) -> Kept:
    """Return what was kept; where there is none made from the same, or it is damaged, make it.

    Args:
        run_directory: folder of the run.
        name: of the baseline.
        made_from: everything that the tensors follow from, as JSON can hold it.
        make: makes them, which may take minutes.
    """
    content = json.dumps(made_from, sort_keys=True)
    key = hashlib.sha256(content.encode()).hexdigest()
    path = cache_path(run_directory, name)
    found = _read(path, key)
    if found is None:
        found = make()
        metadata = {
            "key": key,
            "made_from": content,
            "note": found.note,
            "checksum": checksum(found.tensors),
        }
        with atomic_path(path) as part:
            save_file({k: v.contiguous() for k, v in found.tensors.items()}, part, metadata)
    return found


def _read(path: Path, key: str) -> Kept | None:
    """Read a file; None where it is missing, damaged, or has another key."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata.get("checksum") != checksum(tensors):
                return None
            return Kept(tensors, metadata["note"])
    except (OSError, SafetensorError):
        return None


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors, in one order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
