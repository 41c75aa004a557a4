"""Shapes that several routers share."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME, description="Letters, digits, '_', '.', '-'; at most 64")]
Text = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]

MAX_INTEGER = 2**53  # what JSON carries exactly, and well within what the database stores
Count = Annotated[int, Field(ge=1, le=MAX_INTEGER)]

SHARD_BODY: dict[str, Any] = {  # of OpenAPI, for routes that read a shard themselves
    "requestBody": {
        "required": True,
        "description": "A shard (SPEC 2); Content-Encoding zstd, gzip or identity.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class Input(BaseModel):
    """A request body: unknown fields are errors, so that a typing mistake is noticed."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Page(BaseModel, Generic[T]):
    """A list in OpenAI's shape."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool = False


class Deleted(BaseModel):
    """The answer of a DELETE."""

    id: str
    object: str
    deleted: bool = True


class Failure(BaseModel):
    """The body of every refusal."""

    class Error(BaseModel):
        message: str
        type: str
        param: str | None
        code: str
        details: dict[str, Any] | None = None

    error: Error
