"""The ASGI application."""

import sqlite3
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import ScdError
from .admin import Admin
from .answers import JsonAnswer, on_error
from .api import Api, Services
from .guard import Guard
from .peers import Peers, Trusted

_OPENAPI = Path(__file__).with_name("openapi.yaml")


def build(services: Services) -> Starlette:
    description = _OPENAPI.read_bytes()
    server = services.config.server

    async def healthz(_: Request) -> Response:
        await services.store.database.read("SELECT 1")
        return JsonAnswer({"status": "ok"})

    async def openapi(_: Request) -> Response:
        return Response(description, media_type="application/yaml")

    app = Starlette(
        routes=[
            *Api(services).routes(),
            *Admin(services).routes(),
            Route("/healthz", healthz, methods=["GET"]),
            Route("/openapi.yaml", openapi, methods=["GET"]),
        ],
        middleware=[
            Middleware(Peers, trusted=Trusted(server.trusted_proxies), admin_socket=services.config.admin_socket),
            Middleware(Guard, hosts=server.hosts),
        ],
        exception_handlers=dict.fromkeys(
            (ScdError, HTTPException, ClientDisconnect, OSError, sqlite3.Error, Exception), on_error
        ),
    )
    app.router.redirect_slashes = False  # the client would follow it with another method
    return app
