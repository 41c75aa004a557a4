"""How the daemon is: for `status`, for systemd, for the server's heartbeat. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import splitfrozen
from splitfrozen_edge.daemon.courier import Contact
from splitfrozen_edge.daemon.follower import Follower
from splitfrozen_edge.policy.rules import Reason

_MOST = {"reasons": 16, "reason": 255, "datasets": 100}  # what a server takes


def heartbeat(
    waiting: Sequence[tuple[str, int, int]],
    followers: Sequence[Follower],
    policy: Sequence[Reason],
) -> dict[str, Any]:
    """What a server hears: counts, reasons in words, the datasets that we ask about.

    `waiting`: (dataset id, examples, bytes).
    Of a dataset only its state: the message may name paths and rows, which stay here.
    """
    told = [reason.message for reason in policy]
    told += [
        f"{follower.joined.dataset}: {follower.now.state}"
        for follower in followers
        if follower.now.message
    ]
    named = [follower.now.id or follower.joined.dataset for follower in followers]
    return {
        "queued_examples": sum(examples for _, examples, _ in waiting),
        "queued_bytes": sum(size for _, _, size in waiting),
        "version": splitfrozen.__version__,
        "reasons": [text[: _MOST["reason"]] for text in told][: _MOST["reasons"]],
        "datasets": named[: _MOST["datasets"]],
    }


def contact_document(contact: Contact) -> dict[str, Any]:
    """How it stands with the server."""
    return {
        "last_heartbeat": contact.last_heartbeat,
        "last_upload": contact.last_upload,
        "server": {
            "reachable": contact.reachable,
            "since": contact.since,
            "message": contact.message,
        },
    }


def follower_document(follower: Follower) -> dict[str, Any]:
    """How it stands with one dataset."""
    now = follower.now
    return {
        "dataset": follower.joined.dataset,
        "id": now.id,
        "path": str(follower.joined.path),
        "state": now.state,
        "message": now.message,
        "waiting_rows": now.waiting,
        "queued_rows": now.queued,
        "problems": dict(now.problems or {}),
        "unread": dict(now.unread or {}),
    }


def reasons(
    policy: Sequence[Reason], followers: Sequence[Follower], contact: Contact
) -> list[dict[str, Any]]:
    """Why anything waits: the policy, a dataset, the server."""
    found = [reason.document() for reason in policy]
    for follower in followers:
        if follower.now.message:
            message = f"{follower.joined.dataset}: {follower.now.message}"
            found.append(_reason(f"dataset_{follower.now.state}", message, []))
    if contact.reachable is False:
        found.append(_reason("server", contact.message, ["upload"]))
    if contact.disk:
        found.append(_reason("disk", contact.disk, ["upload"]))
    return found


def summary(document: Mapping[str, Any]) -> str:
    """One line of the status."""
    if document["reasons"]:
        return "; ".join(str(item["message"]) for item in document["reasons"])
    count = len(document["datasets"])
    return f"follows {count} dataset{'' if count == 1 else 's'}"


def _reason(code: str, message: str, blocks: list[str]) -> dict[str, Any]:
    return {"code": code, "message": message, "blocks": blocks, "until": None}
