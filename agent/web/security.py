"""Who may come in: links for one use, sessions, hosts, origins, and the headers that every answer carries.

Nothing of it is written to disk: with the server its sessions end, and no file holds a secret.
"""

import hashlib
import hmac
import ipaddress
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from state.text import shown

SESSION_S = 7 * 24 * 3600.0
"""A session ends a week after its link was opened."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # With `no-referrer` a browser would send `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer: no script, style, picture or form that is not this server's own, and nothing kept."""

_SAFE = frozenset({"GET", "HEAD"})


@dataclass
class Doors:
    """The links and sessions of one server, and what it is called.

    Args:
        port: Its port; cookies do not tell ports apart, so theirs is in the cookie's name.
        host: The address that it listens on.
        is_network: Whether others than this machine reach it.
        announce: Told of the next link once one was used.
        now: Unix seconds.
    """

    port: int
    host: str = "127.0.0.1"
    is_network: bool = False
    announce: Callable[[str], None] = lambda _link: None
    now: Callable[[], float] = time.time
    _token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    _sessions: dict[str, float] = field(default_factory=dict)

    @property
    def cookie(self) -> str:
        """Name of the session's cookie."""
        return f"vigil_{self.port}"

    def link(self) -> str:
        """Return the address that opens a session, once."""
        return f"http://{self._spoken()}:{self.port}/open?token={self._token}"

    def _spoken(self) -> str:
        """Return the host as a link names it: an address for all is spoken of by this machine's own."""
        name = _own_address() if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104 - compared, not bound
        return f"[{name}]" if ":" in name else name

    def enter(self, token: str) -> str:
        """Use up a link and return the new session; empty where the link is not the current one."""
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self._token.encode()):
            return ""
        self._token, session = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self._sessions = {name: end for name, end in self._sessions.items() if end > self.now()}
        self._sessions[_digest(session)] = self.now() + SESSION_S
        self.announce(self.link())
        return session

    def knows(self, session: str) -> bool:
        """Say whether a session is open."""
        return self._sessions.get(_digest(session), 0.0) > self.now()

    def form_token(self, session: str) -> str:
        """Return what the forms of a session carry; the session cannot be told from it."""
        return _digest(f"form:{session}")

    def is_form_of(self, session: str, token: str) -> bool:
        """Say whether a form was made for this session."""
        return hmac.compare_digest(self.form_token(session).encode(), token.encode("utf-8", "replace"))

    def refuses(self, method: str, headers: Mapping[str, str]) -> str:
        """Return why a request is refused before anything is looked at; empty where it is not.

        Args:
            method: GET, POST …
            headers: By lower-case name.
        """
        host = headers.get("host", "")
        if not self._is_called(host):
            return f"This server is not called {shown(host) or 'nothing'}; use the address that vigil web printed."
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "")
        is_foreign = (origin is not None and origin != f"http://{host}") or site in {"cross-site", "same-site"}
        if method not in _SAFE and is_foreign:
            return "The request came from another site; nothing was done."
        return ""

    def _is_called(self, header: str) -> bool:
        """Say whether a Host header names this server.

        A name that somebody else points at this machine is refused; on a network any address in figures is taken,
        since a browser that sends one was told so by its user and not by a name server.
        """
        name, port = _split_host(header)
        if port != str(self.port):
            return False
        if name in {"127.0.0.1", "::1", "localhost", self.host.lower()}:
            return True
        if not self.is_network:
            return False
        machine = socket.gethostname().lower()
        return name in {machine, f"{machine}.local"} or _is_address(name)


def _own_address() -> str:
    """Return this machine's address towards others, its name where it has none: a phone finds few machines by name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as towards:
        try:
            # An address of the documentation: nothing is sent, only the way there is looked up.
            towards.connect(("192.0.2.1", 9))
            return str(towards.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _split_host(header: str) -> tuple[str, str]:
    host = header.lower()
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        return name, rest.removeprefix(":") or "80"
    name, _, port = host.partition(":")
    return name, port or "80"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches an address."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
