"""Bodies of requests and answers. Requests are validated; answers are held to these by the tests alone."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Id = Annotated[str, Field(strict=True, max_length=512)]
_HARDEST = 100_000  # items of a body; the server's own limit is lower


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RankRequest(_Request):
    """Items to rank for a user."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user_id": "196", "item_ids": ["242", "302"], "top_k": 1}]}
    )
    user_id: Id
    item_ids: Annotated[list[Id], Field(min_length=1, max_length=_HARDEST)]
    top_k: Annotated[int | None, Field(ge=1)] = None
    explain: Annotated[bool, Field(description="Answer with the text that was read too.")] = False
    use_text: Annotated[bool, Field(description="False: rank as if the user had no text.")] = True


class TextSource(BaseModel):
    """The text that the net read: ``none`` where it read none, ``bundle`` where it is the one of the run."""

    source: Literal["reccot", "profile", "bundle", "none"]
    made_at: int | None
    age_s: int | None
    text: str | None = None


class RankedItem(BaseModel):
    """An item with its P(like)."""

    item_id: str
    p: Annotated[float, Field(ge=0, le=1)]


class RankAnswer(BaseModel):
    """Known items, the best first; the others are listed."""

    model_version: str
    store_generation: str
    answered_by: str
    text: TextSource
    items: list[RankedItem]
    unknown_items: list[str]


class RecommendRequest(_Request):
    """A user who names no items: candidates are retrieved, then ranked."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"user_id": "196", "k": 10}]})
    user_id: Id
    k: Annotated[int, Field(ge=1, description="How many items are answered.")] = 10
    candidates: Annotated[int, Field(ge=1, description="How many are retrieved and ranked; at least k.")] = 300
    without: Annotated[list[Id], Field(max_length=_HARDEST, description="Left out, beside what the user rated.")] = []
    explain: Annotated[bool, Field(description="Answer with the text that was read too.")] = False
    use_text: Annotated[bool, Field(description="False: as if the user had no text.")] = True


class RecommendedItem(RankedItem):
    """An item with its P(like), and which lists found it."""

    found_by: list[Literal["popular", "neighbours", "text"]]


class RecommendAnswer(BaseModel):
    """Items that the user hasn't rated, the best first."""

    model_version: str
    store_generation: str
    answered_by: str
    text: TextSource
    items: list[RecommendedItem]


class ScoreRow(_Request):
    """A user and an item."""

    user_id: Id
    item_id: Id


class ScoreRequest(_Request):
    """Rows to score."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"rows": [{"user_id": "196", "item_id": "242"}]}]}
    )
    rows: Annotated[list[ScoreRow], Field(min_length=1, max_length=_HARDEST)]


class ScoreAnswer(BaseModel):
    """P(like) of each row, in order, and who answered it."""

    model_version: str
    store_generation: str
    p: list[float]
    answered_by: list[str]


class NewEvent(_Request):
    """A rating; ``time`` in seconds since 1970, UTC, is the server's clock where it isn't given."""

    user_id: Id
    item_id: Id
    rating: Annotated[float | None, Field(allow_inf_nan=False)] = None
    time: Annotated[int | None, Field(ge=0, lt=2**40)] = None


class EventsRequest(_Request):
    """Events to append, all or none."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"events": [{"user_id": "196", "item_id": "242", "rating": 4.0}]}]},
    )
    events: Annotated[list[NewEvent], Field(min_length=1, max_length=_HARDEST)]


class EventsAnswer(BaseModel):
    """How many are on the disk now."""

    accepted: int


class ReccotAnswer(BaseModel):
    """A user's stored text."""

    user_id: str
    text: str
    source: Literal["reccot", "profile"]
    made_at: int
    age_s: int
    generator: str
    encoder: str
    tier: str
    store_generation: str


class HistoryItem(BaseModel):
    """A rated item."""

    item_id: str
    title: str
    rating: float | None


class HistoryAnswer(BaseModel):
    """A user's newest ratings, the newest first."""

    user_id: str
    known: bool
    items: list[HistoryItem]


class CatalogueItem(BaseModel):
    """An item of the catalogue."""

    item_id: str
    title: str
    ratings: int


class ReloadAnswer(BaseModel):
    """What answers now."""

    model_version: str
    store_generation: str


class Problem(BaseModel):
    """An error, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


class Tensor(_Request):
    """A column of strings or numbers of the Open Inference Protocol."""

    model_config = ConfigDict(extra="ignore")
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class InferRequest(_Request):
    """The inputs ``user_id`` and ``item_id``, BYTES of one shape."""

    model_config = ConfigDict(extra="ignore")
    id: str | None = None
    inputs: Annotated[list[Tensor], Field(min_length=1, max_length=16)]
