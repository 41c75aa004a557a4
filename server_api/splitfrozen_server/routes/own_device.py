"""What a device may do about itself: look, rotate its token, beat, tell its profile, erase."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen_server.auth import Device as DeviceCaller
from splitfrozen_server.auth import Identity, insert_successor, new_token
from splitfrozen_server.database.tables import BaseModelRow, DatasetRow, DeviceRow
from splitfrozen_server.datasets import find_dataset, read_labels
from splitfrozen_server.erasure import erase_device
from splitfrozen_server.identifiers import now
from splitfrozen_server.routes.devices import Device, Erasure, check_profile, shape, shape_erasure
from splitfrozen_server.routes.shapes import MAX_INTEGER, Input
from splitfrozen_server.services import Use

router = APIRouter(prefix="/v1/devices/self", tags=["devices"])

NEXT_HEARTBEAT = 60  # seconds
RECORD_EVERY = 60  # seconds; heartbeats in between are answered and not stored

Words = Annotated[str, Field(max_length=255)]
Number = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class NewProfile(Input):
    """What a device says about itself; it replaces what it said before."""

    profile: dict[str, Any]


class RotatedToken(BaseModel):
    """The only answer that carries the device's new token."""

    object: Literal["device.token"] = "device.token"
    token: str


class Heartbeat(Input):
    """How a device is, and which datasets it follows."""

    queued_examples: Number = 0
    queued_bytes: Number = 0
    version: Annotated[str, Field(max_length=64)] = ""
    reasons: Annotated[list[Words], Field(max_length=16)] = Field(default_factory=list)
    datasets: Annotated[list[Words], Field(max_length=100)] = Field(default_factory=list)


class FollowedDataset(BaseModel):
    """What a device needs to know of a dataset; one that is gone has `deleted` and `id` only."""

    id: str  # as asked, where there is none
    name: str | None = None
    task: str | None = None
    cut: int | None = None
    base_model: str | None = None
    sealed: bool | None = None
    labels: list[str] | None = None
    open_labels: bool | None = None
    examples: int | None = None
    deleted: bool = False


class HeartbeatAnswer(BaseModel):
    """The server's clock, when to come again, and the datasets in the order asked."""

    object: Literal["device.heartbeat"] = "device.heartbeat"
    now: int
    next_in: int  # seconds
    datasets: list[FollowedDataset]


@router.get("")
async def get_self(caller: DeviceCaller, services: Use) -> Device:
    """This device."""
    device_id = own_id(caller)
    row = await services.database.read(lambda session: session.get_one(DeviceRow, device_id))
    return shape(row)


@router.post("/token", status_code=201)
async def rotate_token(caller: DeviceCaller, services: Use) -> RotatedToken:
    """Make this device's next token. The old one is valid until the new one is first used."""
    own_id(caller)
    secret = new_token("device")
    await services.database.write(
        lambda session: insert_successor(session, secret, caller.token_id)
    )
    return RotatedToken(token=secret)


@router.post("/heartbeat")
async def heartbeat(beat: Heartbeat, caller: DeviceCaller, services: Use) -> HeartbeatAnswer:
    """Tell how this device is and learn how its datasets are; stored at most once a minute."""
    device_id = own_id(caller)

    def look(session: Session) -> tuple[bool, list[FollowedDataset]]:
        keys = dict.fromkeys(beat.datasets)  # a repeated one, with all its labels, only once
        found = [_followed(session, caller.tenant_id, key) for key in keys]
        return _is_due(session.get_one(DeviceRow, device_id)), found

    is_due, found = await services.database.read(look)
    if is_due:
        said = beat.model_dump(exclude={"datasets"})
        await services.database.write(lambda session: _record(session, device_id, said))
    return HeartbeatAnswer(now=now(), next_in=NEXT_HEARTBEAT, datasets=found)


@router.put("/profile")
async def put_profile(new: NewProfile, caller: DeviceCaller, services: Use) -> Device:
    """Replace what the server knows about this device's hardware and speed."""
    device_id = own_id(caller)
    check_profile(new.profile)

    def work(session: Session) -> DeviceRow:
        row = session.get_one(DeviceRow, device_id)
        row.profile = new.profile
        return row

    return shape(await services.database.write(work))


@router.delete("/data")
async def erase_own_data(
    caller: DeviceCaller, services: Use, dataset: str | None = None
) -> Erasure:
    """Erase all that this device pushed, or what it pushed to one dataset (id or name)."""
    device_id = own_id(caller)
    return shape_erasure(await erase_device(services, caller.tenant_id, device_id, dataset))


def own_id(caller: Identity) -> str:
    """The device of a device's token."""
    if caller.device_id is None:
        raise RefusedError("forbidden", "the token belongs to no device")
    return caller.device_id


def _is_due(row: DeviceRow) -> bool:
    last: int = (row.heartbeat or {}).get("at", 0)
    return now() - last >= RECORD_EVERY


def _record(session: Session, device_id: str, said: dict[str, Any]) -> None:
    row = session.get_one(DeviceRow, device_id)
    if _is_due(row):  # another one may have come between
        row.heartbeat = {**said, "at": now()}
        row.last_seen_at = now()


def _followed(session: Session, tenant: str, key: str) -> FollowedDataset:
    try:
        row: DatasetRow = find_dataset(session, tenant, key)
    except RefusedError:
        return FollowedDataset(id=key, deleted=True)
    return FollowedDataset(
        id=row.id,
        name=row.name,
        task=row.task,
        cut=row.cut,
        base_model=session.get_one(BaseModelRow, row.base_model_id).name,
        sealed=row.sealed_at is not None,
        labels=read_labels(session, row.id),
        open_labels=row.open_labels,
        examples=row.examples,
    )
