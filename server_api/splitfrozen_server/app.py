"""The public HTTP application: wiring only."""

from __future__ import annotations

import re

from fastapi import FastAPI
from starlette.types import Scope

from splitfrozen import __version__
from splitfrozen_server.errors import add_error_handlers
from splitfrozen_server.middleware import (
    BodyLimitMiddleware,
    MetricsMiddleware,
    ProtocolMiddleware,
)
from splitfrozen_server.routes import (
    base_models,
    bundles,
    certificate,
    datasets,
    devices,
    files,
    health,
    jobs,
    models,
    own_device,
    shards,
    split,
    split_sessions,
    tokens,
)
from splitfrozen_server.routes.shapes import Failure
from splitfrozen_server.services import Services

_ROUTERS = (
    health,
    certificate,
    tokens,
    own_device,
    devices,
    base_models,
    bundles,
    datasets,
    shards,
)
_TRAINING_ROUTERS = (jobs, files, models, split, split_sessions)
_OWN_BODY = re.compile(
    r"/v1/(activation_datasets/[^/]+/shards/|split/classifications|split/sessions/[^/]+/steps"
    r"|bundles/[^/]+/files/)"
)


def create_app(services: Services) -> FastAPI:
    """The application over open services; whoever opened them closes them."""
    app = FastAPI(
        title="SplitFrozen",
        version=__version__,
        description="Uploads of frozen activations, fine-tuning jobs, adapters, split inference.",
        responses={"4XX": {"model": Failure}, "5XX": {"model": Failure}},
    )
    app.state.services = services
    for module in (*_ROUTERS, *_TRAINING_ROUTERS):
        app.include_router(module.router)
    add_error_handlers(app)
    app.add_middleware(ProtocolMiddleware)
    app.add_middleware(
        BodyLimitMiddleware,
        limit=services.config.max_request,
        timeout=services.config.body_timeout,
        is_exempt=_reads_its_body,
    )
    app.add_middleware(MetricsMiddleware, metrics=services.metrics)
    return app


def _reads_its_body(scope: Scope) -> bool:
    """Routes that read their body themselves, within the limits of shards or of bundles."""
    return _OWN_BODY.match(scope["path"]) is not None
