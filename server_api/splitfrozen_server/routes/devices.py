"""Devices: enrol, list, revoke, erase."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen_server.auth import Admin, Enroller, Identity, insert_token, new_token
from splitfrozen_server.database.tables import DeviceRow, TokenRow
from splitfrozen_server.erased_rows import Erased
from splitfrozen_server.erasure import erase_device
from splitfrozen_server.identifiers import new_id, now
from splitfrozen_server.routes.shapes import Deleted, Input, Page, Text
from splitfrozen_server.services import Use

router = APIRouter(prefix="/v1/devices", tags=["devices"])

MAX_PROFILE = 4096  # bytes as JSON
MAX_DEPTH = 16  # objects and lists within each other


class NewDevice(Input):
    """A device to enrol."""

    name: Text
    profile: dict[str, Any] = Field(default_factory=dict)


class Device(BaseModel):
    """A device; `last_seen_at` is its last accepted shard or recorded heartbeat."""

    id: str
    object: Literal["device"] = "device"
    name: str
    profile: dict[str, Any]
    created_at: int
    last_seen_at: int | None
    revoked_at: int | None
    heartbeat: dict[str, Any] | None  # the last recorded one; `at` is when


class Erasure(BaseModel):
    """What was erased. `adapters` were trained on what this device ever had erased: they stay."""

    object: Literal["device.erasure"] = "device.erasure"
    shards: int
    examples: int
    bytes: int  # uncompressed
    adapters: list[str]
    jobs_stopped: list[str]  # ids; they ended as failed with data_erased


class EnrolledDevice(Device):
    """The only answer that carries the device's token."""

    token: str


@router.post("", status_code=201)
async def enrol_device(new: NewDevice, caller: Enroller, services: Use) -> EnrolledDevice:
    """Turn an enrolment token into a device and its token; takes one use."""
    check_profile(new.profile)
    secret = new_token("device")
    row = await services.database.write(lambda session: _enrol(session, caller, new, secret))
    return EnrolledDevice(**shape(row).model_dump(), token=secret)


@router.get("")
async def list_devices(caller: Admin, services: Use) -> Page[Device]:
    """All devices, oldest first."""
    query = (
        select(DeviceRow)
        .where(DeviceRow.tenant_id == caller.tenant_id)
        .order_by(DeviceRow.created_at, DeviceRow.id)
    )
    rows = await services.database.read(lambda session: session.scalars(query).all())
    return Page(data=[shape(row) for row in rows])


@router.delete("/{device_id}")
async def revoke_device(device_id: str, caller: Admin, services: Use) -> Deleted:
    """Revoke a device's tokens; what it has pushed stays."""
    await services.database.write(lambda session: _revoke(session, caller.tenant_id, device_id))
    return Deleted(id=device_id, object="device")


@router.delete("/{device_id}/data")
async def erase_data(
    device_id: str, caller: Admin, services: Use, dataset: str | None = None
) -> Erasure:
    """Erase all that a device pushed, or what it pushed to one dataset (id or name)."""
    return shape_erasure(await erase_device(services, caller.tenant_id, device_id, dataset))


def check_profile(profile: dict[str, Any]) -> None:
    """Refuse a profile that is too long to be kept, or that no answer could show."""
    if problem := _problem(profile):
        raise RefusedError("invalid_request", f"profile {problem}", param="profile")


def _problem(profile: dict[str, Any]) -> str | None:
    if not _is_shallow(profile, MAX_DEPTH):
        return f"is nested more than {MAX_DEPTH} levels deep"
    if len(json.dumps(profile)) > MAX_PROFILE:
        return f"exceeds {MAX_PROFILE} bytes"
    try:
        json.dumps(profile, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:  # halves of surrogate pairs, NaN
        return "holds text or numbers that JSON cannot carry"
    return None


def _is_shallow(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(one, levels - 1) for one in inner)


def _enrol(session: Session, caller: Identity, new: NewDevice, secret: str) -> DeviceRow:
    """Take one use on the writer thread, where no other enrolment can come between."""
    token = session.get_one(TokenRow, caller.token_id)
    if token.uses_left == 0 or token.revoked_at is not None:
        raise RefusedError("unauthorized", "the enrolment token is used up")
    if token.uses_left is not None:
        token.uses_left -= 1
    row = DeviceRow(
        id=new_id("dev_"),
        tenant_id=caller.tenant_id,
        name=new.name,
        profile=new.profile,
        created_at=now(),
    )
    session.add(row)
    session.flush()
    insert_token(
        session,
        secret,
        "device",
        name=new.name,
        tenant_id=caller.tenant_id,
        device_id=row.id,
    )
    return row


def _revoke(session: Session, tenant: str, device_id: str) -> None:
    row = session.get(DeviceRow, device_id)
    if row is None or row.tenant_id != tenant:
        raise RefusedError("not_found", f"there is no device {device_id[:80]!r}")
    row.revoked_at = row.revoked_at or now()
    session.execute(
        update(TokenRow)
        .where(TokenRow.device_id == device_id, TokenRow.revoked_at.is_(None))
        .values(revoked_at=now())
    )


def shape(row: DeviceRow) -> Device:
    """A device as the API shows it."""
    return Device(
        id=row.id,
        name=row.name,
        profile=row.profile,
        created_at=row.created_at,
        last_seen_at=row.last_seen_at,
        revoked_at=row.revoked_at,
        heartbeat=row.heartbeat,
    )


def shape_erasure(erased: Erased) -> Erasure:
    """An erasure as the API shows it."""
    return Erasure(**asdict(erased))
