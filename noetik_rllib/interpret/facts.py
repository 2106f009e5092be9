"""What an explanation consists of: facts and numbers, as JSON-able models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from noetik_rllib.offline.catalog import Catalog

Source = Literal["history", "profile", "situation"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Video(_Frozen):
    """A video as people know it.

    Attributes:
        index: its dense index, the policy's action.
        tags: its tags; None where the log's items carry none at all.
        author_id, duration_seconds: None where unknown.
        name: its id in the log where ids are texts there.
    """

    index: int
    video_id: int
    tags: list[int] | None
    author_id: int | None
    duration_seconds: float | None
    name: str | None = None

    @property
    def label(self) -> str:
        """Its id as the log writes it."""
        return self.name if self.name is not None else str(self.video_id)

    @classmethod
    def of(
        cls,
        catalog: Catalog,
        index: int,
        *,
        tagged: bool = True,
        keys: Mapping[int, str] | None = None,
    ) -> Video:
        """Look a video up by its dense index.

        Args:
            catalog: the videos.
            index: the dense index.
            tagged: whether the log's items carry tags.
            keys: the texts that ids stand for, where they do.
        """
        author, duration_ms = int(catalog.author_id[index]), int(catalog.duration_ms[index])
        return cls(
            index=index,
            video_id=int(catalog.video_id[index]),
            tags=catalog.tags_of(index) if tagged else None,
            author_id=author if author >= 0 else None,
            duration_seconds=duration_ms / 1000 if duration_ms > 0 else None,
            name=keys[int(catalog.video_id[index])] if keys else None,
        )


class Event(_Frozen):
    """A past event that the policy saw, and what it shares with the recommended video.

    Attributes:
        slot: place in the history, 0 is the newest.
        watch_ratio: watched share, 0 to 1.
        feedback: names of the binary signals that are 1.
        age_seconds: since the event.
        is_random: whether the video was drawn uniformly, not chosen for the user.
        text: what it is, as a noun.
    """

    slot: int
    video: Video
    watch_ratio: float
    feedback: list[str]
    age_seconds: float
    shared_tags: list[int]
    same_author: bool
    is_random: bool
    text: str


class Influence(_Frozen):
    """One thing that moved the recommendation.

    Attributes:
        source: an event of the history, the user's profile, or the situation.
        name: ``event 0`` (the newest) or a name of a group of user or context features.
        attribution: how much it moves the video's margin, in units of the logit.
        share: of the sum of all absolute attributions, 0 to 1.
        direction: whether it raises or lowers the video.
        text: what it is, as a clause.
        event: facts of an event, None for the others.
        alone: of an event, how much the margin changes when it alone is taken out of the history;
            other events then stand in for it, so this is less than its attribution.
    """

    source: Source
    name: str
    attribution: float
    share: float
    direction: Literal["for", "against"]
    text: str
    event: Event | None = None
    alone: float | None = None


class Removal(_Frozen):
    """Past events without which the policy would not make this choice.

    Attributes:
        slots: their places in the history, ascending.
        events: they, newest first. Each is needed: without the others alone, the choice stays.
        becomes: what takes the video's place.
        is_smallest: proved: every smaller set of events was tried.
    """

    slots: list[int]
    events: list[Event]
    becomes: Video
    is_smallest: bool


class Skipped(_Frozen):
    """What the policy would do had the user skipped a video that they watched.

    Attributes:
        event: the watched event that speaks most for the choice, or the newest if none does.
        margin_change: of the recommended video's margin, after minus before.
        probability: of the recommended video then.
        becomes: what takes its place; None where it keeps its rank or a better one.
        text: the condition, as a clause.
    """

    event: Event
    margin_change: float
    probability: float
    becomes: Video | None
    text: str


class Counterfactual(_Frozen):
    """What would have to be otherwise for the policy to choose otherwise; see ``removal.py``.

    The choice of rank r is changed where the video is no longer among the policy's first r, of the
    same candidates.

    Attributes:
        removal: the smallest found; None if no set of events that was tried changes the choice.
        skipped: None if there is no watched event to skip.
        sets_tried: sets of events whose removal was tried; ``2 ** history_events - 1`` are all.
    """

    removal: Removal | None
    skipped: Skipped | None
    sets_tried: int = 0


class Explanation(_Frozen):
    """Why a policy recommends a video to a user, with what the explanation leaves out.

    Candidates are the videos that are not in the user's history slots, or all where the mapping
    says that items repeat; probabilities and the entropy are those of the policy restricted to
    them.

    Attributes:
        user_id: the dataset's id.
        user_name: the user's id in the log where ids are texts there.
        rank: 1 is the policy's first choice.
        video: what is recommended.
        candidates: number of videos that could be recommended.
        probability: of the video under the policy.
        runner_up: the candidate that comes next, None if there is none.
        lead: logit of the video minus that of the runner-up; ``exp(lead)`` is the ratio of their
            probabilities.
        entropy: of the policy, in nats.
        effective_videos: ``exp(entropy)``: as many equally likely videos are as undecided.
        margin: the video's logit minus the mean logit over the catalogue.
        baseline_margin: the same for the average user in the average situation without history.
        history_events: events that the policy saw.
        inert: those of them whose attribution is exactly 0, newest first: they are no influence.
        reasons: the strongest influences, strongest first.
        others: every other influence, strongest first.
        source_shares: share of the total absolute attribution by source.
        unnamed_share: share of it that ``others`` holds.
        gap: sum of the attributions minus (margin - baseline margin): error of the computation.
        relative_gap: ``|gap|`` as a share of the total absolute attribution.
        counterfactual: what would change the choice; None without history.
        sentence: the explanation in words.
    """

    user_id: int
    user_name: str | None = None
    rank: int
    video: Video
    candidates: int
    probability: float
    runner_up: Video | None
    lead: float | None
    entropy: float
    effective_videos: float
    margin: float
    baseline_margin: float
    history_events: int
    inert: list[Event] = []
    reasons: list[Influence]
    others: list[Influence]
    source_shares: dict[Source, float]
    unnamed_share: float
    gap: float
    relative_gap: float
    counterfactual: Counterfactual | None = None
    sentence: str = ""

    @property
    def user_label(self) -> str:
        """The user's id as the log writes it."""
        return self.user_name if self.user_name is not None else str(self.user_id)

    @property
    def influences(self) -> list[Influence]:
        """Every influence, strongest first."""
        return [*self.reasons, *self.others]


class Choice(_Frozen):
    """One of a policy's best candidates, before it is explained; fields as in ``Explanation``."""

    rank: int
    index: int
    candidates: int
    probability: float
    runner_up: int | None
    lead: float | None
    entropy: float
