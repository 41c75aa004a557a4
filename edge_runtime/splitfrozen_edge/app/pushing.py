"""One push of an app, over a model that stays loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from splitfrozen.errors import DataError
from splitfrozen_edge.app.bundle import Bundle, BundleLike
from splitfrozen_edge.app.connection import Connection
from splitfrozen_edge.app.loaded import Loaded
from splitfrozen_edge.pushing.pusher import PushOptions, push_rows
from splitfrozen_edge.pushing.report import PushReport
from splitfrozen_edge.state import StateDirectory


def push(
    rows: Iterable[Mapping[str, Any]],
    options: Mapping[str, Any],
    wanted: BundleLike | None,
    state: StateDirectory,
    loaded: Loaded,
    connection: Connection,
    *,
    warn: Callable[[str], None],
    on_bad_row: Callable[[DataError], None] | None,
) -> PushReport:
    """See `Device.push`; `options` are fields of PushOptions."""
    place = None if wanted is None else str(loaded.bundle(wanted).directory)
    with connection.own() as (client, stop):
        return push_rows(
            rows,
            PushOptions(bundle=place, quiet=True, **options),
            state,
            client,
            stop=stop,
            warn=warn,
            on_bad_row=on_bad_row,
            # Its codec is always the bundle's own, as no other is asked for.
            open_session=lambda bundle, _wire: loaded.session(Bundle(bundle)),
        )
