"""The routes."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from trackrec import __version__
from trackrec.server import schemas
from trackrec.server.answer import source_of
from trackrec.server.errors import ProblemError
from trackrec.server.gate import Gate
from trackrec.server.inference import add_inference
from trackrec.server.metrics import CONTENT_TYPE
from trackrec.server.page import PAGE, PAGE_HEADERS
from trackrec.server.schemas import EventsRequest, RankRequest, RecommendRequest, ScoreRequest
from trackrec.server.service import Service

_JSON = "application/json"
_SHOWN_ERRORS = 20
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem, "description": text}
    for status, text in {
        401: "The token is missing or wrong.",
        413: "The body is too large.",
        422: "The body is invalid.",
        429: "Too many requests a second.",
        503: "Too many requests wait.",
        504: "The deadline has passed.",
    }.items()
}


def make_app(service: Service) -> Gate:
    """The application, behind its gate."""
    app = FastAPI(
        title="trackrec",
        version=__version__,
        description="P(like) of items for users whose taste a language model has described.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        exception_handlers={RequestValidationError: _invalid, HTTPException: _http_error, ProblemError: _problem},
    )
    gate = Gate(app, service.settings, service.metrics)
    router = APIRouter()
    _add_hot(router, service)
    _add_users(router, service)
    _add_operations(router, service, gate)
    add_inference(router, service)
    app.include_router(router)
    return gate


def _answered(model: type[BaseModel]) -> dict[str, Any]:
    """Schemas for OpenAPI; the answer itself isn't validated, which would cost a third of the throughput."""
    return {"responses": {200: {"model": model}, **_PROBLEMS}, "response_class": Response}


def _add_hot(router: APIRouter, service: Service) -> None:
    @router.post("/v1/rank", tags=["answers"], **_answered(schemas.RankAnswer))
    async def rank(asked: RankRequest, request: Request) -> Response:
        """Rank items for a user."""
        body, request.state.log = service.rank(asked)
        return Response(body, media_type=_JSON)

    @router.post("/v1/recommend", tags=["answers"], **_answered(schemas.RecommendAnswer))
    async def recommend(asked: RecommendRequest, request: Request) -> Response:
        """The best items for a user who names none: popular, neighbours of what they rated, near to their text."""
        body, request.state.log = service.recommend(asked)
        return Response(body, media_type=_JSON)

    @router.post("/v1/score", tags=["answers"], **_answered(schemas.ScoreAnswer))
    async def score(asked: ScoreRequest, request: Request) -> Response:
        """Score rows, in their order."""
        answer = service.score([(row.user_id, row.item_id) for row in asked.rows], "rows")
        request.state.log = {"items": len(asked.rows)}
        return JSONResponse(answer)

    @router.post("/v1/events", tags=["events"], **_answered(schemas.EventsAnswer))
    async def events(asked: EventsRequest, request: Request) -> Response:
        """Append ratings; they are on the disk when this is answered, and the users' next requests read them."""
        accepted = await service.append(asked.events)
        request.state.log = {"events": accepted}
        return JSONResponse({"accepted": accepted})


def _add_users(router: APIRouter, service: Service) -> None:
    @router.get("/v1/users/{user_id:path}/reccot", tags=["users"], **_answered(schemas.ReccotAnswer))
    async def reccot(user_id: str) -> Response:
        """The user's stored text."""
        user, whole = service.user(user_id)
        if not whole:
            raise ProblemError(503, "the store can't be reached", retry_after_s=1)
        text = user.stored
        if text is None:
            raise ProblemError(404, "the store holds no text about this user")
        return JSONResponse(
            {
                "user_id": user_id,
                "text": text.text,
                "source": source_of(text),
                "made_at": text.made_at,
                "age_s": max(0, int(time.time()) - text.made_at),
                "generator": text.generator,
                "encoder": text.encoder,
                "tier": text.tier,
                "store_generation": service.loaded.store.info.generation,
            }
        )

    @router.get("/v1/users/{user_id:path}/history", tags=["users"], **_answered(schemas.HistoryAnswer))
    async def history(user_id: str) -> Response:
        """The user's newest ratings, the newest first."""
        user, _ = service.user(user_id)
        titles = service.loaded.titles
        rated = list(zip(user.state.items, user.state.ratings, strict=True))[::-1]
        items = [{"item_id": item, "title": titles.get(item, ""), "rating": rating} for item, rating in rated]
        return JSONResponse({"user_id": user_id, "known": user.known, "items": items})

    @router.get("/v1/users", tags=["users"], response_class=Response, responses=_PROBLEMS)
    async def users(limit: int = Query(50, ge=1, le=500)) -> Response:
        """Some users whom the store knows."""
        return JSONResponse(service.loaded.store.some_users(limit))

    @router.get("/v1/items", tags=["answers"], response_class=Response, responses=_PROBLEMS)
    async def items(limit: int = Query(100, ge=1, le=1000)) -> Response:
        """The items with the most ratings."""
        popular = service.loaded.popular[:limit]
        return JSONResponse([{"item_id": item, "title": title, "ratings": count} for item, title, count in popular])


def _add_operations(router: APIRouter, service: Service, gate: Gate) -> None:
    @router.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(PAGE, headers=PAGE_HEADERS)

    @router.get("/livez", tags=["operations"])
    @router.get("/v2/health/live", tags=["open inference"])
    async def live() -> JSONResponse:
        """Whether the process answers."""
        return JSONResponse({"live": True})

    @router.get("/readyz", tags=["operations"], responses={503: {"model": schemas.Problem}})
    @router.get("/v2/health/ready", tags=["open inference"], responses={503: {"model": schemas.Problem}})
    async def ready() -> JSONResponse:
        """Whether requests should be sent here: not while it drains, nor while the store is away."""
        if gate.draining:
            raise ProblemError(503, "the server is stopping", retry_after_s=5)
        if not service.is_ready():
            raise ProblemError(503, "the store can't be reached", retry_after_s=1)
        return JSONResponse({"ready": True})

    @router.get("/metrics", tags=["operations"], response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @router.post("/admin/reload", tags=["operations"], **_answered(schemas.ReloadAnswer))
    async def reload() -> Response:
        """Open bundle and store again; on failure (409) the old ones stay."""
        loaded = await service.reload()
        return JSONResponse(
            {"model_version": loaded.bundle.model_version, "store_generation": loaded.store.info.generation}
        )


async def _problem(_: Request, error: ProblemError) -> Response:
    return error.response()


async def _http_error(_: Request, error: HTTPException) -> Response:
    return ProblemError(error.status_code, str(error.detail)).response()


async def _invalid(_: Request, error: RequestValidationError) -> Response:
    """422 with what is wrong and where; what was sent isn't repeated."""
    found = [
        {"where": ".".join(str(step) for step in one["loc"][1:])[:200], "what": one["msg"]}
        for one in error.errors()[:_SHOWN_ERRORS]
    ]
    first = f"{found[0]['where'] or 'body'}: {found[0]['what']}" if found else "the body is invalid"
    return ProblemError(422, first, more={"errors": found}).response()
