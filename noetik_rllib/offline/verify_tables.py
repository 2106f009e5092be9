"""Whether the catalogue, the users and the manifest agree with themselves and with each other."""

from __future__ import annotations

import numpy as np

from noetik_rllib.data.forms import LogNumber, Number
from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.errors import UserError
from noetik_rllib.offline.catalog import CATALOG_NAME, NUMERIC_NAMES, Catalog
from noetik_rllib.offline.dataset import KEYS_NAME, USERS_NAME, OfflineDataset
from noetik_rllib.offline.features import CLIP, fit_normaliser
from noetik_rllib.offline.findings import TOLERANCE, Findings
from noetik_rllib.offline.manifest import MANIFEST_NAME, Manifest, Normaliser
from noetik_rllib.offline.split import PARTS, held_out
from noetik_rllib.offline.verify_rows import Expected

#: A duration is stored in whole ms, and was normalised before it was rounded.
_ROUNDING_MS = 0.5


class TableCheck:
    """Checks what is not rows.

    Args:
        dataset: whose manifest, catalogue and users can be read.
        expected: the same, as the rows are held to it.
        findings: where faults go.
    """

    def __init__(self, dataset: OfflineDataset, expected: Expected, findings: Findings) -> None:
        self.dataset = dataset
        self.manifest = dataset.manifest
        self.catalog = dataset.catalog
        self.users = dataset.users
        self.num_videos = expected.num_videos
        self.findings = findings

    def run(self, *, keys: bool) -> None:
        """Check the catalogue and the users against the manifest; ``keys`` says to read those."""
        manifest, users = self.manifest, self.users
        self.findings.equal("num_videos", manifest.num_videos, self.num_videos)
        self.findings.equal("num_users", manifest.num_users, len(users.user_id))
        self.findings.count("tables", 2)
        if (np.diff(users.user_id) <= 0).any():
            self._add("tables", f"{USERS_NAME}: column 'user_id' does not ascend; expected it to")
        drawn = held_out(users.user_id, manifest.held_out_users, manifest.seed)
        self._rows(
            USERS_NAME,
            "held_out",
            users.held_out,
            drawn,
            f"for seed {manifest.seed} and a share of {manifest.held_out_users}",
        )
        if manifest.split_time_ms is not None:
            wanted = np.full(len(users.split_ms), manifest.split_time_ms)
            self._rows(USERS_NAME, "split_ms", users.split_ms, wanted, "the manifest's")
        held = users.features
        self._rows(USERS_NAME, "features", held, held.clip(-CLIP, CLIP), f"within +-{CLIP:g}")
        self._catalog()
        self._repairs()
        if keys:
            self._keys()

    def _add(self, check: str, message: str, where: str = "") -> None:
        self.findings.add(check, where, message)

    def _rows(
        self,
        table: str,
        column: str,
        found: np.ndarray,
        expected: np.ndarray,
        why: str,
        tolerance: np.ndarray | float = 0.0,
    ) -> None:
        """Report the first row of a table whose value is another than expected."""
        self.findings.count(f"values of {table}", len(found))
        number = found.dtype.kind == "f"
        ok = np.abs(found - expected) <= tolerance if number else found == expected
        if ok.ndim == 2:
            ok = ok.all(axis=1)
        if not ok.all():
            row = int((~ok).argmax())
            self._add(
                f"{table} {column}",
                f"{table}: row {row}: column '{column}' is {found[row]}; expected "
                f"{expected[row]}, {why}",
            )

    def _catalog(self) -> None:
        """Check the videos' ids, and every code and number that others make."""
        catalog, vocabulary = self.catalog, self.manifest.vocabulary
        if len(np.unique(catalog.video_id)) != self.num_videos:
            self._add("tables", f"{CATALOG_NAME}: column 'video_id' repeats; expected one row each")
        if catalog.numeric.shape[1:] != (len(NUMERIC_NAMES),):
            self._add(
                "tables",
                f"{CATALOG_NAME}: column 'numeric' is {catalog.numeric.shape[1:]} numbers wide; "
                f"expected {', '.join(NUMERIC_NAMES)}",
            )
            return
        known = np.array([-1, *vocabulary.tags], dtype=np.int64)
        order = np.argsort(known, kind="stable")
        place = np.minimum(np.searchsorted(known, catalog.tags, sorter=order), len(known) - 1)
        codes = np.where(known[order[place]] == catalog.tags, order[place], 0)
        why = "by the video's tags and the manifest's vocabulary"
        self._rows(CATALOG_NAME, "tag_codes", catalog.tag_codes, codes, why)
        for column, names in (
            ("video_type_code", vocabulary.video_types),
            ("upload_type_code", vocabulary.upload_types),
        ):
            code = getattr(catalog, column)
            why = f"one of 0 to {len(names)}: the manifest's vocabulary has {len(names)} types"
            self._rows(CATALOG_NAME, column, code, code.clip(0, len(names)), why)
        self._numbers(catalog)

    def _numbers(self, catalog: Catalog) -> None:
        log_duration, unknown, portrait, no_features = catalog.numeric.T
        duration = catalog.duration_ms
        self._rows(CATALOG_NAME, "duration_ms", duration, duration.clip(0), "0 or more")
        self._rows(
            CATALOG_NAME,
            "numeric, duration_unknown",
            unknown,
            (duration == 0).astype(np.float32),
            "1 where duration_ms is 0",
        )
        normaliser = self.manifest.video_duration
        if _fits(normaliser, 1):
            known_ms = np.maximum(duration, 1).astype(np.float64)
            scaled = (np.log(known_ms) - normaliser.mean[0]) / normaliser.std[0]
            scaled = np.where(duration > 0, scaled, 0.0).clip(-CLIP, CLIP)
            tolerance = TOLERANCE * CLIP + _ROUNDING_MS / known_ms / normaliser.std[0]
            why = "by duration_ms and the manifest's video_duration"
            column = "numeric, log_duration"
            self._rows(CATALOG_NAME, column, log_duration, scaled, why, tolerance)
        for column, flags in (("portrait", portrait), ("features_unknown", no_features)):
            rounded = (flags > 0).astype(np.float32)
            self._rows(CATALOG_NAME, f"numeric, {column}", flags, rounded, "0 or 1")
        blank = no_features == 1
        for column, values, empty in (
            ("author_id", catalog.author_id, -1),
            ("duration_ms", duration, 0),
            ("tags", catalog.tags, -1),
            ("numeric, portrait", portrait, 0),
        ):
            mask = blank if values.ndim == 1 else blank[:, None]
            wanted = np.where(mask, empty, values)
            self._rows(CATALOG_NAME, column, values, wanted, "blank where features_unknown is 1")

    def _repairs(self) -> None:
        """Check the counts that the catalogue and the users show; the others need the source."""
        catalog, items = self.catalog, self.manifest.mapping.items
        if catalog.numeric.shape[1:] != (len(NUMERIC_NAMES),):
            return
        featured = catalog.numeric[:, 3] == 0
        counts = {
            "users_without_features": self.users.features[:, -1] == 0,
            "videos_without_features": ~featured,
        }
        if items is not None and items.duration_ms is not None:
            counts["videos_without_duration"] = featured & (catalog.duration_ms == 0)
        if items is not None and items.tags is not None:
            counts["videos_without_tag"] = featured & (catalog.tags[:, 0] < 0)
            counts["videos_with_several_tags"] = featured & (catalog.tags[:, 1] >= 0)
        for name, rows in counts.items():
            found = self.manifest.repairs.get(name)
            self.findings.equal(f"repairs.{name}", found, int(np.count_nonzero(rows)))

    def _keys(self) -> None:
        """Check that every id stands for a text."""
        self.findings.count("tables")
        try:
            keys = self.dataset.keys
        except UserError as error:
            self._add("tables", str(error), KEYS_NAME)
            return
        ids = {"users": self.users.user_id, "items": self.catalog.video_id}
        for name, texts in keys.items():
            missing = [number for number in ids[name].tolist() if number not in texts]
            if missing:
                self._add(
                    "tables",
                    f"{KEYS_NAME}: {name} lacks {missing[0]}; expected a text for every id",
                    name,
                )

    def learnt(self, shown: np.ndarray) -> None:
        """Check what was learnt from the videos of the training part.

        Args:
            shown: whether a row of train shows the video, (videos,) bool.
        """
        catalog, vocabulary = self.catalog, self.manifest.vocabulary
        by = "the videos that train/ shows"
        tags = np.unique(catalog.tags[shown])
        self.findings.equal("vocabulary.tags", vocabulary.tags, tags[tags >= 0].tolist(), by)
        for name, names, codes in (
            ("video_types", vocabulary.video_types, catalog.video_type_code),
            ("upload_types", vocabulary.upload_types, catalog.upload_type_code),
        ):
            self.findings.equal(f"vocabulary.{name}", names, sorted(set(names)), "their order")
            used = np.unique(codes[shown])
            every = list(range(1, len(names) + 1))
            self.findings.equal(f"vocabulary.{name}, by code,", every, used[used > 0].tolist(), by)
        duration = catalog.duration_ms[shown & (catalog.duration_ms > 0)].astype(np.float64)
        fitted = fit_normaliser(np.log(duration)[:, None])
        rounding = np.sqrt(np.mean((_ROUNDING_MS / duration) ** 2)) if len(duration) else 0.0
        for name in ("mean", "std"):
            [found] = getattr(self.manifest.video_duration, name) or [float("nan")]
            [expected] = getattr(fitted, name)
            self.findings.count("figures of the manifest")
            if not abs(found - expected) <= TOLERANCE + rounding:
                self._add(
                    f"video_duration {name}",
                    f"{MANIFEST_NAME}: video_duration.{name} is {found}; expected {expected} by "
                    f"{by}",
                )


def check_manifest(manifest: Manifest, num_videos: int, findings: Findings) -> bool:
    """Check what a manifest says against itself; return whether its lists are of their lengths."""
    equal = findings.equal
    by_time = manifest.split_time_ms is not None
    equal("split", manifest.split, "time" if by_time else "user", "split_time_ms")
    names = list(manifest.mapping.user_names)
    equal("user_names", manifest.user_names, names, "the mapping")
    equal("parts", sorted(manifest.parts), sorted(PARTS), "the format")
    filled = sorted(name for name, part in manifest.parts.items() if part.rows)
    equal("logged_reward's parts", sorted(manifest.logged_reward), filled, "parts")
    texts = bool(manifest.mapping.log.text_ids)
    equal(f"files with {KEYS_NAME}", KEYS_NAME in manifest.files, texts, "the mapping's text_ids")
    bounds = {
        "episode_steps": (manifest.episode_steps, 1, None),
        "held_out_users": (manifest.held_out_users, 0, 1),
    }
    for name, (value, low, high) in bounds.items():
        findings.count("figures of the manifest")
        if value is not None and not (low <= value and (high is None or value <= high)):
            upper = "or more" if high is None else f"to {high}"
            findings.add(name, "", f"{MANIFEST_NAME}: {name} is {value}; expected {low} {upper}")
    n = len(SIGNALS)
    features = manifest.mapping.users.features if manifest.mapping.users else ()
    numeric = sum(isinstance(feature, LogNumber | Number) for feature in features)
    whole = True
    for name, found, width in (
        ("signals.mean", len(manifest.signals.mean), n),
        ("signals.covariance", [len(row) for row in manifest.signals.covariance], [n] * n),
        ("user_numeric.mean", len(manifest.user_numeric.mean), numeric),
        ("video_duration.mean", len(manifest.video_duration.mean), 1),
    ):
        equal(f"numbers of {name}", found, width, "the format")
        whole &= found == width
    for name, normaliser in (
        ("user_numeric", manifest.user_numeric),
        ("video_duration", manifest.video_duration),
    ):
        fits = _fits(normaliser, len(normaliser.mean))
        whole &= fits
        equal(f"{name}.std above 0, one for each mean,", fits, True, "the format")
    return whole


def _fits(normaliser: Normaliser, width: int) -> bool:
    return len(normaliser.mean) == len(normaliser.std) == width and all(
        value > 0 for value in normaliser.std
    )
