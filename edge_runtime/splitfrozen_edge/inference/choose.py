"""Which bundle answers for a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from splitfrozen.bundle import Bundle
from splitfrozen.graph import DEVICE_WITH_PAST
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.model.bundles import BundleStore
from splitfrozen_edge.model.cached_session import require_past
from splitfrozen_edge.state import StateError


def choose_model_bundle(
    wanted: str | None, model: str, bundles: BundleStore, client: Client
) -> Bundle:
    """The bundle that was asked for, that the model's base and cut need, or the last used one."""
    if wanted is not None:
        return bundles.open(wanted)
    own = _describe(client, model)
    if isinstance(own.get("base_model"), str) and isinstance(own.get("cut"), int):
        return bundles.find(own["base_model"], own["cut"])
    return _last_used(model, bundles)


def choose_generation_bundle(
    wanted: str | None, model: str, bundles: BundleStore, client: Client
) -> Bundle:
    """As `choose_model_bundle`, but one that can generate; a base model takes any cut.

    Raises StateError that says what to export if there is none.
    """
    if wanted is not None:
        bundle = bundles.open(wanted)
        require_past(bundle)
        return bundle
    own = _describe(client, model)
    if own.get("task") == "classification":
        raise StateError(f"{model} classifies, it does not generate: use predict")
    base, cut = own.get("base_model"), own.get("cut")
    if own.get("kind") == "base_model":
        base = model
    if not isinstance(base, str):
        bundle = _last_used(model, bundles)
        require_past(bundle)
        return bundle
    return _published(base, cut if isinstance(cut, int) else None, bundles, client)


def _published(base: str, cut: int | None, bundles: BundleStore, client: Client) -> Bundle:
    params = {"base_model": base} | ({} if cut is None else {"cut": str(cut)})
    published: list[dict[str, Any]] = client.call("GET", "/v1/bundles", params=params)["data"]
    with_past = [item for item in published if _has_past(client, str(item["id"]))]
    if with_past:
        return bundles.open(_preferred(with_past, bundles))
    what = base if cut is None else f"{base} with cut {cut}"
    if not published:
        raise StateError(f"the server has no bundle of {what}")
    raise StateError(
        f"no bundle of {what} on the server has {DEVICE_WITH_PAST}, which generating needs. "
        f"Export one again, without --no-generation: splitfrozen-export --model {base} --cut "
        f"{'N' if cut is None else cut} --output DIRECTORY, and publish it on the server"
    )


def _has_past(client: Client, bundle: str) -> bool:
    manifest = client.call("GET", f"/v1/bundles/{bundle}").get("manifest") or {}
    return DEVICE_WITH_PAST in manifest.get("files", {})


def _preferred(items: list[dict[str, Any]], bundles: BundleStore) -> str:
    """One that is here, or int8 before the rest, or the newest."""
    ids = {str(item["id"]) for item in items}
    here = next((known for known in bundles.known() if known in ids), None)
    if here is not None:
        return here

    def rank(item: Mapping[str, Any]) -> tuple[bool, float, str]:
        return item.get("precision") == "int8", float(item.get("created_at") or 0), str(item["id"])

    return str(max(items, key=rank)["id"])


def _describe(client: Client, model: str) -> dict[str, Any]:
    found = client.model(model) or {}
    own: dict[str, Any] = found.get("splitfrozen") or found
    return own


def _last_used(model: str, bundles: BundleStore) -> Bundle:
    bundle = bundles.last_used()
    if bundle is None:
        raise StateError(
            f"the server tells this device nothing about a model {model}, and no bundle was used "
            "here yet: check the name, or say --bundle DIRECTORY or ID"
        )
    return bundle
