"""How often somebody may be wrong.

Nobody is locked out: who was wrong too often waits some seconds for his next try, and only what comes beside one that
waits already is refused. Tries are counted by user and address together, so that a stranger elsewhere costs a user
nothing, and by address alone, whichever names are tried from it. While many addresses try one user, each has fewer
tries at once.
"""

import hashlib
import ipaddress
import math
import time
from collections.abc import Callable

from ..errors import TooManyFailures

_PAIR_FREE, _PAIR_EVERY = 10, 5.0  # tries at once, and then one every so many seconds
_ADDRESS_FREE, _ADDRESS_EVERY = 30, 1.0
_USER_FREE, _USER_EVERY = 50, 2.0
_ATTACKED_FREE = 2
_LONGEST = 5.0  # seconds that a try waits; the client gives an answer up after 10
_TELL_EVERY = 10.0
_MOST = 100_000  # entries of each table


class _Tries:
    """By key, until when what was tried so far would have kept somebody busy who tries every ``every`` seconds."""

    def __init__(self, every: float):
        self._every = every
        self._until: dict[str, float] = {}

    def wait(self, key: str, free: int, now: float) -> float:
        """Seconds until the next try, if ``free`` of them may come at once."""
        return max(0.0, self._until.get(key, now) - now - (free - 1) * self._every)

    def count(self, key: str, now: float) -> None:
        until = max(self._until.pop(key, now), now) + self._every
        if len(self._until) >= _MOST:  # the one that was touched longest ago stands first
            del self._until[next(iter(self._until))]
        self._until[key] = until

    def take_back(self, key: str) -> None:
        if key in self._until:
            self._until[key] -= self._every

    def forget(self, key: str) -> None:
        self._until.pop(key, None)


class Throttle:
    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._pairs = _Tries(_PAIR_EVERY)
        self._addresses = _Tries(_ADDRESS_EVERY)
        self._users = _Tries(_USER_EVERY)
        self._good: dict[str, None] = {}  # pairs that were right once
        self._told: dict[str, float] = {}

    def admit(self, user: str, address: str) -> float:
        """Count a try; the seconds that it has to wait. Raises TooManyFailures if another one waits already."""
        now = self._clock()
        pair, place, name = _keys(user, address)
        attacked = pair not in self._good and self._users.wait(name, _USER_FREE, now) > 0
        wait = max(
            self._pairs.wait(pair, _ATTACKED_FREE if attacked else _PAIR_FREE, now),
            0.0 if pair in self._good else self._addresses.wait(place, _ADDRESS_FREE, now),
        )
        if wait > _LONGEST:
            raise TooManyFailures(math.ceil(wait))
        for tries, key in ((self._pairs, pair), (self._addresses, place), (self._users, name)):
            tries.count(key, now)
        return wait

    def is_known(self, user: str, address: str) -> bool:
        """Whether this user was right from this address before."""
        return _keys(user, address)[0] in self._good

    def take_back(self, user: str, address: str) -> None:
        """The try was not decided."""
        pair, place, name = _keys(user, address)
        for tries, key in ((self._pairs, pair), (self._addresses, place), (self._users, name)):
            tries.take_back(key)

    def succeeded(self, user: str, address: str) -> None:
        """He has it right: what he tried before is forgiven."""
        self.take_back(user, address)
        pair, _, _ = _keys(user, address)
        self._pairs.forget(pair)
        self._good.pop(pair, None)
        if len(self._good) >= _MOST:
            del self._good[next(iter(self._good))]
        self._good[pair] = None

    def shall_tell(self, address: str) -> bool:
        """Whether the log has not heard of this address's refusals for some seconds."""
        now, place = self._clock(), place_of(address)
        if now < self._told.get(place, now):
            return False
        self._told.pop(place, None)
        if len(self._told) >= _MOST:
            del self._told[next(iter(self._told))]
        self._told[place] = now + _TELL_EVERY
        return True


def place_of(address: str) -> str:
    """What counts as one address: of IPv6 a /64, since each of its hosts has as many as it likes; all Unix sockets."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "local"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return str(ipaddress.ip_network((found, 64), strict=False))
        return str(found.ipv4_mapped)
    return str(found)


def _keys(user: str, address: str) -> tuple[str, str, str]:
    """Of the pair, the address and the user. Short, whatever name somebody sends."""
    place = place_of(address)
    name = hashlib.blake2b(user.encode(errors="surrogatepass"), digest_size=12).hexdigest()
    return f"{name}@{place}", place, name
