"""`serve --bundle`: register a bundle and the base model that it was made from at once."""

from __future__ import annotations

import re
from pathlib import Path

from splitfrozen.bundle import read_bundle
from splitfrozen.errors import ModelError, RefusedError
from splitfrozen_server.base_models import register_model
from splitfrozen_server.database.tables import DEFAULT_TENANT, BundleRow
from splitfrozen_server.publishing import publish_bundle
from splitfrozen_server.services import Services


async def register_at_start(services: Services, directory: Path, model: str | None) -> BundleRow:
    """Publish the bundle in `directory`, registering its base model if no registered one fits.

    The base model is `model`, or what the manifest names: a Hub id or a directory.
    """
    try:
        row, _ = await publish_bundle(services, DEFAULT_TENANT, directory)
        return row
    except RefusedError as error:
        if error.code != "base_model_mismatch":
            raise
    manifest = read_bundle(directory).manifest
    source = model or manifest.base_model.id
    name = model_name(source)
    try:
        await register_model(services, DEFAULT_TENANT, name, source, cut=manifest.cut)
    except ModelError as error:
        raise ModelError(
            error.code,
            f"the base model of {directory} is not found: {error.message}. Name its "
            "directory with --model; or start serve without --bundle, then: splitfrozen-server "
            f"models add NAME MODEL_DIR; splitfrozen-server bundles add {directory}",
            param=error.param,
        ) from None
    row, _ = await publish_bundle(services, DEFAULT_TENANT, directory)
    return row


def model_name(source: str) -> str:
    """`openai-community/gpt2` -> `gpt2`; any character that a name cannot have becomes a dash."""
    last = source.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9_.-]", "-", last).lstrip("_.-")[:64] or "model"
