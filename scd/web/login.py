"""Who sends a request: the credentials in its body, where it comes from, and whether others could read them."""

from starlette.requests import Request

from ..auth import Authenticator, Identity
from ..config import Config, is_loopback
from ..errors import Forbidden
from .peers import client_address
from .schemas import Body


class Login:
    def __init__(self, config: Config):
        """Raises ConfigError."""
        self._authenticator = Authenticator(config)
        self._plain_http = config.auth.plain_http

    def use(self, config: Config) -> None:
        """Take another configuration, all of it or, with ConfigError, nothing."""
        self._authenticator.use(config)
        self._plain_http = config.auth.plain_http

    async def __call__(self, request: Request, asked: Body) -> Identity:
        """Raises Forbidden, Unauthorized, TooManyFailures, Busy."""
        address = client_address(request)
        if asked.key and not self._plain_http and not _is_private(request, address):
            raise Forbidden(
                f"This server takes no password over plain HTTP from {address}: everybody on the way could read it. "
                "Use https, by [server] tls_certificate or by a proxy that sends X-Forwarded-Proto and is one of "
                "[server] trusted_proxies. Where the network itself is trusted, set [auth] plain_http = true."
            )
        return await self._authenticator.authenticate(asked.username, asked.key, address)


def _is_private(request: Request, address: str) -> bool:
    """Whether nobody on the way could read the request."""
    return request.url.scheme == "https" or not address or is_loopback(address)
