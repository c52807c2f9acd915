"""The Open Inference Protocol (KServe, Triton) over the same answers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from trackrec.server.errors import ProblemError
from trackrec.server.schemas import InferRequest
from trackrec.server.service import Service

NAME = "trackrec"
_INPUTS = ("user_id", "item_id")


def add_inference(router: APIRouter, service: Service) -> None:
    """Add the protocol's routes except health."""

    @router.get("/v2", tags=["open inference"])
    async def server() -> JSONResponse:
        """The server's name."""
        return JSONResponse({"name": NAME, "version": service.loaded.bundle.model_version, "extensions": []})

    @router.get("/v2/models/trackrec", tags=["open inference"])
    async def model() -> JSONResponse:
        """The model's inputs and outputs."""
        columns = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in _INPUTS]
        return JSONResponse(
            {
                "name": NAME,
                "versions": [service.loaded.bundle.model_version],
                "platform": "onnxruntime",
                "inputs": columns,
                "outputs": [{"name": "p", "datatype": "FP32", "shape": [-1]}],
            }
        )

    @router.get("/v2/models/trackrec/ready", tags=["open inference"])
    async def model_ready() -> JSONResponse:
        """Whether the model is loaded."""
        return JSONResponse({"name": NAME, "ready": True})

    @router.post("/v2/models/trackrec/infer", tags=["open inference"])
    async def infer(asked: InferRequest, request: Request) -> JSONResponse:
        """P(like) of (user_id, item_id) rows."""
        rows = rows_of(asked)
        answer = service.score(rows, "data")
        request.state.log = {"items": len(rows)}
        return JSONResponse(infer_answer(asked, answer))


def rows_of(asked: InferRequest) -> list[tuple[str, str]]:
    """The (user, item) rows of a request.

    Raises:
        ProblemError: an input is missing, is no text, or their lengths differ: 422.
    """
    columns = {tensor.name: tensor for tensor in asked.inputs}
    missing = [name for name in _INPUTS if name not in columns]
    if missing:
        raise ProblemError(422, f"inputs: {missing[0]} is missing; there must be {' and '.join(_INPUTS)}")
    users, items = (columns[name] for name in _INPUTS)
    for tensor in (users, items):
        if tensor.datatype != "BYTES" or not all(isinstance(value, str) for value in tensor.data):
            raise ProblemError(422, f"inputs.{tensor.name}: must be text of datatype BYTES, got {tensor.datatype}")
        if tensor.shape != [len(tensor.data)] or not tensor.data:
            raise ProblemError(422, f"inputs.{tensor.name}: shape {tensor.shape} doesn't fit {len(tensor.data)} values")
        if any("\ud800" <= letter <= "\udfff" for value in tensor.data for letter in value):
            raise ProblemError(422, f"inputs.{tensor.name}: a value isn't Unicode text")
    if users.shape != items.shape:
        raise ProblemError(422, f"inputs: {len(users.data)} users with {len(items.data)} items")
    return list(zip(users.data, items.data, strict=True))


def infer_answer(asked: InferRequest, answer: dict[str, Any]) -> dict[str, Any]:
    """The protocol's form of a `trackrec.server.schemas.ScoreAnswer`."""
    output = {"name": "p", "datatype": "FP32", "shape": [len(answer["p"])], "data": answer["p"]}
    named = {} if asked.id is None else {"id": asked.id}
    return {"model_name": NAME, "model_version": answer["model_version"], **named, "outputs": [output]}
