"""Host names and addresses to what the socket module wants.

The system's resolver blocks, so it runs on threads of `runtime.blocking`, some at a time.
Lookups of one name at the same time are one lookup; it goes on when those who wait for it give
up, but one that has not begun by then never does.  What it found is remembered for a while.

There is no lock.  Who joins a lookup takes it from `_flights` and adds itself to its waiters.
Who would run one that has no waiters takes it out of `_flights`, looks for waiters again, and
only then drops it: a waiter it has not seen finds out, and begins anew.
"""

from __future__ import annotations

import errno
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from runtime import _blocking
from runtime._core import Chan
from runtime._net.addr import AddrError, TCPAddr, from_sockaddr, lookup_port, split_host_port
from runtime._net.waits import io_chan

if TYPE_CHECKING:
    from runtime._core import _Context

_FAMILIES = {
    "tcp": socket.AF_UNSPEC,
    "tcp4": socket.AF_INET,
    "tcp6": socket.AF_INET6,
    "udp": socket.AF_UNSPEC,
    "udp4": socket.AF_INET,
    "udp6": socket.AF_INET6,
}
_MAX_LOOKUPS = 64  # threads at a time that look up names; further lookups wait
_MAX_CACHED = 1024  # names that are remembered
_LONGEST = 600.0  # seconds a lookup may take; both kinds give up sooner


class Target(NamedTuple):
    """A socket address to connect or bind to."""

    family: socket.AddressFamily
    sockaddr: tuple[str, int] | tuple[str, int, int, int]


class _Address(NamedTuple):
    """What a name stands for."""

    family: socket.AddressFamily
    host: str
    scope: int = 0

    def at(self, port: int) -> Target:
        if self.family == socket.AF_INET:
            return Target(self.family, (self.host, port))
        return Target(self.family, (self.host, port, 0, self.scope))

    def text(self) -> str:
        target = from_sockaddr(self.at(0).sockaddr)
        return target.host if isinstance(target, TCPAddr) else self.host


class _Found(NamedTuple):
    addresses: list[_Address]
    ttl: float | None  # seconds, where it is known


class _Lookup:
    """A lookup under way.  found or error is set before done is closed; neither: dropped."""

    __slots__ = ("done", "error", "found", "key", "resolver", "waiters")

    def __init__(self, resolver: Resolver, key: tuple[str, int]) -> None:
        self.resolver, self.key = resolver, key
        self.done: Chan[None] = io_chan()
        self.found: list[_Address] | None = None
        self.error: BaseException | None = None
        self.waiters: list[None] = []

    def wanted(self) -> bool:
        """True if it shall be done; otherwise it ends now."""
        if self.waiters:
            return True
        self.resolver._forget(self)
        if self.waiters:
            return True
        self.end()
        return False

    def settle(self, outcome: _Found | BaseException) -> None:
        try:
            if isinstance(outcome, BaseException):
                self.error = outcome
            else:
                self.found = outcome.addresses
                self.resolver._remember(self.key, outcome)
        finally:
            self.end()

    def end(self) -> None:
        try:
            self.resolver._forget(self)
        finally:
            if not self.done.closed:
                self.done.close()


class _Backend(Protocol):
    def start(self, lookup: _Lookup, /) -> None:
        """See to it that the lookup is settled, without waiting for that."""


# --- the system's resolver ----------------------------------------------------------------------


class _System:
    """getaddrinfo() on the threads of runtime.blocking()."""

    def __init__(self) -> None:
        self._queue: deque[_Lookup] = deque()
        self._running: Chan[None] = io_chan(_MAX_LOOKUPS)  # an item for each thread that is used

    def start(self, lookup: _Lookup) -> None:
        self._queue.append(lookup)
        if self._running.try_send(None):
            try:
                _blocking._submit(_Worker(self))
            except BaseException:
                self._running.try_recv()
                raise

    def _work(self) -> None:
        while True:
            try:
                lookup = self._queue.popleft()
            except IndexError:
                self._running.try_recv()
                # Something may have been queued meanwhile, by somebody who found no room.
                if self._queue and self._running.try_send(None):
                    continue
                return
            try:
                if lookup.wanted():
                    lookup.settle(_getaddrinfo(*lookup.key))
            except BaseException as e:  # no memory
                lookup.settle(e)

    def _resume(self) -> None:
        """A worker has ended in the middle: another one does the rest."""
        self._running.try_recv()
        if self._queue and self._running.try_send(None):
            try:
                _blocking._submit(_Worker(self))
            except BaseException as e:
                self._lost(e)

    def _lost(self, error: BaseException) -> None:
        """A worker could not begin."""
        self._running.try_recv()
        while True:
            try:
                lookup = self._queue.popleft()
            except IndexError:
                return
            lookup.settle(error)


class _Worker(_blocking._Call):
    """Does lookups on a thread."""

    __slots__ = ("_system",)

    def __init__(self, system: _System) -> None:
        super().__init__(system._work, (), {})
        self._system = system

    def run(self) -> None:
        try:
            _blocking._Call.run(self)
        except BaseException as e:  # no memory
            self.error = e
        if self.error is not None:
            self._system._resume()

    def fail(self, error: BaseException) -> None:
        super().fail(error)
        self._system._lost(error)


def _getaddrinfo(host: str, family: int) -> _Found | OSError:
    try:
        infos = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
        return _Found([_address(info[0], info[4]) for info in infos], None)
    except socket.gaierror as e:
        return socket.gaierror(e.errno, e.strerror, host)
    except MemoryError:
        raise
    except Exception as e:  # a name that cannot be encoded
        return OSError(f"lookup {host}: {e}")


def _address(family: int, sockaddr: Any) -> _Address:
    scope = sockaddr[3] if family == socket.AF_INET6 else 0
    return _Address(socket.AddressFamily(family), sockaddr[0].partition("%")[0], scope)


# --- c-ares -------------------------------------------------------------------------------------


class _Cares:
    """c-ares, which asks the name servers itself, on one thread of its own, and knows TTLs."""

    def __init__(self, servers: list[str] | None) -> None:
        import pycares

        self._pycares: Any = pycares
        self._channel: Any = pycares.Channel(timeout=5.0, tries=3)
        if servers is not None:
            self._channel.servers = servers

    def start(self, lookup: _Lookup) -> None:
        host, family = lookup.key

        def callback(result: Any, error: int | None) -> None:  # on c-ares's thread, or right here
            try:
                lookup.settle(self._outcome(host, result, error))
            except BaseException as e:  # no memory
                lookup.settle(e)

        try:
            name = host if host.isascii() else host.encode("idna").decode()
            self._channel.getaddrinfo(
                name, None, family=family, type=socket.SOCK_STREAM, callback=callback
            )
        except (self._pycares.AresError, UnicodeError) as e:
            lookup.settle(OSError(f"lookup {host}: {e}"))

    def _outcome(self, host: str, result: Any, error: int | None) -> _Found | OSError:
        try:
            if error is None:
                return _found_by_cares(result)
            code = self._pycares.errno
            unknown = error in (code.ARES_ENOTFOUND, code.ARES_ENODATA)
            number = socket.EAI_NONAME if unknown else socket.EAI_AGAIN
            return socket.gaierror(number, code.strerror(error), host)
        except Exception as e:
            return OSError(f"lookup {host}: {e}")


def _found_by_cares(result: Any) -> _Found:
    def text(part: Any) -> Any:
        return part.decode() if isinstance(part, bytes) else part

    addresses = [_address(node.family, tuple(map(text, node.addr))) for node in result.nodes]
    ttls = [record.ttl for record in (*result.nodes, *result.cnames)]
    return _Found(addresses, float(min(ttls, default=0)))


# --- a resolver ---------------------------------------------------------------------------------


class Resolver:
    """Looks up host names.

        net.set_default_resolver(net.Resolver("cares"))

    backend is "system": getaddrinfo() on threads of `runtime.blocking`, at most 64 at a time; or
    "cares": c-ares, which asks the name servers itself, on one thread for any number of lookups,
    and needs the package pycares (`pip install gosched[cares]`).  It knows /etc/hosts and DNS,
    but no other sources that the system may have; servers are name servers to ask, "address" or
    "address:port", instead of the system's.

    Answers are used again for cache_time seconds; 0: never.  Those of "cares" have a TTL and are
    used until that ends, if it ends sooner.  Those of the system have none: changes of
    /etc/hosts and the like are seen with that delay.  At most 1,024 names are remembered;
    failures are not.

    Raises ValueError for another backend or a negative time, ImportError without pycares.

    Go: net.Resolver, which has no cache.
    """

    def __init__(
        self,
        backend: Literal["system", "cares"] = "system",
        *,
        servers: list[str] | None = None,
        cache_time: float | None = None,
    ) -> None:
        if backend not in ("system", "cares"):
            raise ValueError(f'a resolver is "system" or "cares", not {backend!r}')
        if cache_time is None:
            cache_time = 5.0 if backend == "system" else 3600.0
        if not cache_time >= 0:
            raise ValueError(f"cache_time must be 0 or more seconds, not {cache_time}")
        if servers is not None and backend == "system":
            raise ValueError('servers are for a resolver of the kind "cares"')
        self._backend: _Backend = _System() if backend == "system" else _Cares(servers)
        self._cache_time = cache_time
        self._cache: dict[tuple[str, int], tuple[float, list[_Address]]] = {}
        self._flights: dict[tuple[str, int], _Lookup] = {}

    def lookup_host(
        self, host: str, *, timeout: float | None = None, ctx: _Context | None = None
    ) -> list[str]:
        """The addresses of a host as text, best first; of a literal address that itself.

            resolver.lookup_host("localhost")     # ["127.0.0.1"]

        Raises socket.gaierror for an unknown name, TimeoutError after timeout seconds, and the
        error of ctx.

        Go: net.Resolver.LookupHost.
        """
        if _literal(host) is not None:
            return [host]
        found = self._find(host, socket.AF_UNSPEC, timeout, ctx)
        return [address.text() for address in found]

    def clear_cache(self) -> None:
        """Forget all answers; c-ares itself keeps its own until their TTL ends."""
        self._cache.clear()

    def _find(
        self, host: str, family: int, timeout: float | None, ctx: _Context | None
    ) -> list[_Address]:
        key = host.lower(), int(family)
        if ctx is not None and (ended := ctx.err()) is not None:
            raise ended
        cached = self._cache.get(key)
        if cached is not None and time.monotonic() < cached[0]:
            return cached[1]
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            found = self._join(key, deadline, ctx)
            if found is not None:
                return found

    def _join(
        self, key: tuple[str, int], deadline: float | None, ctx: _Context | None
    ) -> list[_Address] | None:
        """Wait for what a lookup finds; None: it was dropped."""
        mine = _Lookup(self, key)
        mine.waiters.append(None)
        lookup = self._flights.setdefault(key, mine)
        if lookup is mine:
            try:
                self._backend.start(mine)
            except MemoryError as e:  # there may be none for another error
                mine.settle(e)
                raise
            except BaseException as e:
                mine.settle(OSError(f"lookup {key[0]}: {e}"))
                raise
        else:
            lookup.waiters.append(None)
        try:
            # Never for ever: nobody knows that a thread of c-ares may still wake who waits.
            left = _LONGEST if deadline is None else deadline - time.monotonic()
            lookup.done.recv_ok(min(left, _LONGEST), ctx=ctx)
        except TimeoutError as e:
            if ctx is not None and ctx.err() is not None:  # the error is the context's
                raise
            raise TimeoutError(errno.ETIMEDOUT, f"lookup {key[0]}: the time is up") from e
        finally:
            lookup.waiters.pop()
        if lookup.error is not None:
            raise _again(lookup.error)
        return lookup.found

    def _remember(self, key: tuple[str, int], found: _Found) -> None:
        kept = self._cache_time if found.ttl is None else min(found.ttl, self._cache_time)
        if kept <= 0:
            return
        self._cache.pop(key, None)  # to the end: the oldest are first
        self._cache[key] = time.monotonic() + kept, found.addresses
        while len(self._cache) > _MAX_CACHED:
            try:
                self._cache.pop(next(iter(self._cache)), None)
            except (RuntimeError, StopIteration):  # it changed in between
                pass

    def _forget(self, lookup: _Lookup) -> None:
        if self._flights.get(lookup.key) is lookup:
            self._flights.pop(lookup.key, None)


def _again(error: BaseException) -> BaseException:
    """The same error, for one exception must not be raised by several goroutines at once."""
    if not isinstance(error, OSError):
        return type(error)(*error.args)
    if error.errno is None:
        return OSError(*error.args)
    return type(error)(error.errno, error.strerror, error.filename)


_default = Resolver()


def default_resolver() -> Resolver:
    """The resolver of those who name none.  Go: net.DefaultResolver."""
    return _default


def set_default_resolver(resolver: Resolver) -> Resolver:
    """Use another resolver where none is named; returns the one until now."""
    global _default
    if not isinstance(resolver, Resolver):
        raise TypeError(f"a Resolver is needed, not {type(resolver).__name__}")
    previous, _default = _default, resolver
    return previous


# --- addresses ----------------------------------------------------------------------------------


def resolve(
    network: str,
    address: str,
    timeout: float | None = None,
    ctx: _Context | None = None,
    resolver: Resolver | None = None,
) -> list[Target]:
    """The socket addresses of "host:port", best first; an empty host gives none of its own.

    A literal address is decoded here; a name is looked up.  Raises AddrError, socket.gaierror,
    the error of ctx, or TimeoutError after timeout seconds.
    """
    family = _FAMILIES.get(network)
    if family is None:
        raise AddrError(f"unknown network {network}")
    host, service = split_host_port(address)
    port = lookup_port(service)
    if not host:
        return [Target(socket.AF_INET6, ("", port, 0, 0)), Target(socket.AF_INET, ("", port))]
    target = literal(host, port)
    if target is not None:
        if family not in (socket.AF_UNSPEC, target.family):
            raise AddrError(f"address {host}: no suitable address found")
        return [target]
    found = (resolver or _default)._find(host, family, timeout, ctx)
    if not found:
        raise AddrError(f"address {host}: no suitable address found")
    return [entry.at(port) for entry in found]


def literal(host: str, port: int) -> Target | None:
    """The socket address of a literal IP address; None: it is a name."""
    address = _literal(host)
    return None if address is None else address.at(port)


def _literal(host: str) -> _Address | None:
    try:
        if ":" not in host:
            socket.inet_pton(socket.AF_INET, host)
            return _Address(socket.AF_INET, host)
        text, percent, zone = host.partition("%")
        packed = socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):  # a NUL is a ValueError, and so is what cannot be encoded
        return None
    plain = socket.inet_ntop(socket.AF_INET6, packed)  # in its canonical form
    if not percent:
        return _Address(socket.AF_INET6, plain)
    if not zone or "%" in zone:
        return None
    try:
        scope = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    except OSError:
        raise AddrError(f"address {host}: no such network interface") from None
    return _Address(socket.AF_INET6, plain, scope)
