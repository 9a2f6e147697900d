"""The ASGI application."""

import sqlite3
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import ScdError
from .admin import Admin
from .answers import on_error
from .api import Api
from .guard import Guard
from .live import Live
from .monitor import Counted, Monitor
from .pages import Pages
from .peers import Peers, Trusted
from .services import Services
from .sessions import Sessions
from .stream import Audience

_OPENAPI = Path(__file__).with_name("openapi.yaml")


def build(services: Services) -> Starlette:
    description = _OPENAPI.read_bytes()
    config = services.settings.config
    server = config.server

    async def openapi(_: Request) -> Response:
        return Response(description, media_type="application/yaml")

    def credential(user: str) -> str:
        known = services.settings.config.users.get(user)
        return known.password_hash or known.public_key if known is not None else ""

    audience = Audience()
    live = Live(services.board, services.executor, services.progress, audience)
    api = Api(services)
    places = {"state": Path(config.paths.state), "spool": Path(config.paths.spool)}
    monitor = Monitor(services.metrics, services.scheduler, services.health, audience, places, server.metrics)
    app = Starlette(
        routes=[
            *api.routes(),
            *Admin(services).routes(),
            *Pages(services, api, Sessions(credential), live).routes(),
            Route("/healthz", services.health.healthz, methods=["GET"]),
            Route("/metrics", monitor.metrics, methods=["GET"]),
            Route("/openapi.yaml", openapi, methods=["GET"]),
        ],
        middleware=[
            Middleware(Counted, metrics=services.metrics),
            Middleware(Peers, trusted=Trusted(server.trusted_proxies), admin_socket=config.admin_socket),
            Middleware(Rooted, root_path=server.root_path),
            Middleware(Guard, hosts=server.hosts),
        ],
        exception_handlers=dict.fromkeys(
            (ScdError, HTTPException, ClientDisconnect, OSError, sqlite3.Error, Exception), on_error
        ),
    )
    app.router.redirect_slashes = False  # the client would follow it with another method
    return app


class Rooted:
    """Below which path a proxy shows scd, whether or not it takes that off what it passes on."""

    def __init__(self, app: ASGIApp, root_path: str):
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._root_path:
            scope["root_path"] = self._root_path
            if scope["path"] == self._root_path:
                await RedirectResponse(f"{self._root_path}/")(scope, receive, send)
                return
        await self._app(scope, receive, send)
