"""The site's own directory of users: PAM, or a bind to LDAP. Extras, imported where they are configured.

Users are only asked for by names in lower case: a directory may take Alice and alice for one person, and scd's limits
would count two.
"""

import importlib
import logging
import re
from typing import Any, Protocol

from ..config import Auth, Ldap, Pam
from ..errors import Busy, ConfigError
from .base import Credential

log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z_][a-z0-9_.-]{0,63}")
_LDAP_TIMEOUT = 5
_PAM_AUTHINFO_UNAVAIL = 9  # <security/_pam_types.h>
_DOWN = "The directory of users does not answer. Try again."


class Directory(Protocol):
    def credential(self, user: str) -> Credential | None:
        """What ``user`` must show, None for a name that no directory has."""


def directory_of(auth: Auth) -> Directory | None:
    """Raises ConfigError if a library is missing."""
    if auth.pam is not None:
        return _Pam(auth.pam, _required("pamela", "pam"))
    if auth.ldap is not None:
        return _Ldap(auth.ldap, _required("ldap", "ldap"))
    return None


def _required(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # pamela loads libpam itself
        raise ConfigError(f"auth.{extra}: {error}. Install it: pip install 'scd[{extra}]'") from None


class _Pam:
    def __init__(self, config: Pam, pamela: Any):
        self._config, self._pamela = config, pamela

    def credential(self, user: str) -> Credential | None:
        return _PamUser(user, self._config, self._pamela) if _NAME.fullmatch(user) else None


class _PamUser:
    lasting = False

    def __init__(self, user: str, config: Pam, pamela: Any):
        self.stamp = f"pam {config.service}"
        self._user, self._service, self._pamela = user, config.service, pamela

    def matches(self, key: str) -> bool:
        """Account management too: an account that has expired, or may not log in now, is none."""
        if not _can_be_a_password(key):
            return False
        try:
            self._pamela.authenticate(self._user, key, service=self._service, resetcred=0)
            self._pamela.check_account(self._user, service=self._service)
        except self._pamela.PAMError as error:
            if error.errno == _PAM_AUTHINFO_UNAVAIL:
                raise Busy(_DOWN) from None
            return False
        return True


class _Ldap:
    def __init__(self, config: Ldap, ldap: Any):
        self._config, self._ldap = config, ldap

    def credential(self, user: str) -> Credential | None:
        return _LdapUser(user, self._config, self._ldap) if _NAME.fullmatch(user) else None


class _LdapUser:
    lasting = False

    def __init__(self, user: str, config: Ldap, ldap: Any):
        self.stamp = f"ldap {config.uri} {config.dn}"
        self._user, self._config, self._ldap = user, config, ldap

    def matches(self, key: str) -> bool:
        """A bind under the user's own name. With an empty password it would succeed for anybody."""
        ldap = self._ldap
        if not _can_be_a_password(key):
            return False
        try:
            connection = ldap.initialize(self._config.uri)
            connection.set_option(ldap.OPT_PROTOCOL_VERSION, 3)
            connection.set_option(ldap.OPT_NETWORK_TIMEOUT, _LDAP_TIMEOUT)
            connection.set_option(ldap.OPT_TIMEOUT, _LDAP_TIMEOUT)
            connection.set_option(ldap.OPT_REFERRALS, 0)
            if self._config.ca:
                connection.set_option(ldap.OPT_X_TLS_CACERTFILE, self._config.ca)
            connection.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND)
            connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
            if self._config.uri.startswith("ldap://"):
                connection.start_tls_s()
            dn = self._config.dn.replace("{user}", importlib.import_module("ldap.dn").escape_dn_chars(self._user))
            connection.simple_bind_s(dn, key)
            connection.unbind_s()
        except (ldap.SERVER_DOWN, ldap.TIMEOUT, ldap.BUSY, ldap.UNAVAILABLE, ldap.CONNECT_ERROR) as error:
            log.error("auth.ldap: %s", error)
            raise Busy(_DOWN) from None
        except ldap.LDAPError:
            return False
        return True


def _can_be_a_password(key: str) -> bool:
    try:
        return bool(key) and "\0" not in key and len(key.encode()) <= 1024
    except UnicodeEncodeError:
        return False
