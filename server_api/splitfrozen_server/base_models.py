"""Base models: look at one, register it, find it again."""

from __future__ import annotations

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen_server.database.tables import BaseModelRow
from splitfrozen_server.identifiers import new_id, now
from splitfrozen_server.inspection import inspect_model
from splitfrozen_server.services import Services


async def register_model(
    services: Services,
    tenant: str,
    name: str,
    source: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    cut: int | None = None,
) -> tuple[BaseModelRow, bool]:
    """Register a Hub id or server-side directory; False with the old row if it is there already.

    A `cut` that is about to be asked for saves a second look at the weights.

    Raises ModelError if the model cannot be found or cut, RefusedError `name_taken` if another
    source has the name, `forbidden` if the operator did not allow remote code.
    """
    if trust_remote_code and not services.config.allow_remote_code:
        raise RefusedError(
            "forbidden",
            "this server runs no code of models: start it with --allow-remote-code",
            param="trust_remote_code",
        )
    known = await services.database.read(
        lambda session: _find_same(session, tenant, name, source, revision)
    )
    if known is not None:
        return known, False
    facts = await inspect_model(
        source, revision=revision, cut=cut, trust_remote_code=trust_remote_code
    )
    if cut is not None and facts.prefix_digest is not None:
        services.prefix_digests.add(facts.path, cut, facts.prefix_digest)
    row = BaseModelRow(
        id=new_id("bm_"),
        tenant_id=tenant,
        name=name,
        source=source,
        revision=facts.revision,
        requested_revision=revision,
        path=facts.path,
        trust_remote_code=trust_remote_code,
        family=facts.family,
        num_layers=facts.num_layers,
        hidden_size=facts.hidden_size,
        vocab_size=facts.vocab_size,
        created_at=now(),
    )
    return await services.database.write(lambda session: _insert(session, row))


def find_base_model(session: Session, tenant: str, key: str) -> BaseModelRow:
    """The base model with this name or id; `not_found` if there is none."""
    query = select(BaseModelRow).where(
        BaseModelRow.tenant_id == tenant, or_(BaseModelRow.name == key, BaseModelRow.id == key)
    )
    row = session.scalar(query)
    if row is None:
        raise RefusedError(
            "not_found",
            f"there is no base model {key[:80]!r}: `splitfrozen-server models add`",
            param="base_model",
        )
    return row


def list_base_models(session: Session, tenant: str) -> list[BaseModelRow]:
    """All base models of a tenant, oldest first."""
    query = (
        select(BaseModelRow)
        .where(BaseModelRow.tenant_id == tenant)
        .order_by(BaseModelRow.created_at, BaseModelRow.name)
    )
    return list(session.scalars(query))


def _insert(session: Session, row: BaseModelRow) -> tuple[BaseModelRow, bool]:
    known = _find_same(session, row.tenant_id, row.name, row.source, row.revision)
    if known is not None:
        return known, False
    session.add(row)
    session.flush()
    return row, True


def _find_same(
    session: Session, tenant: str, name: str, source: str, revision: str | None
) -> BaseModelRow | None:
    """The model of this name if it is this one; `name_taken` if it is another."""
    row = session.scalar(
        select(BaseModelRow).where(BaseModelRow.tenant_id == tenant, BaseModelRow.name == name)
    )
    if row is None:
        return None
    if row.source == source and revision in (None, row.revision, row.requested_revision):
        return row
    held = row.source if row.revision is None else f"{row.source} at {row.revision}"
    raise RefusedError(
        "name_taken", f"base model {name!r} is {held} already; choose another", param="name"
    )
