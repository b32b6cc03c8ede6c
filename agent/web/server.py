"""The server: addresses, pages, answers, and `vigil web` itself.

It reads the store as every reading command does, and writes nothing but what `vigil approve` and `vigil reject` write.
"""

import socket
import sqlite3
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import uvicorn
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from agent.render import cases
from agent.render.record import gather
from agent.render.words import clock, duration, finalized, number, signed
from agent.web import pages
from agent.web.live import AXES, METRICS, Curves, changes, on_grid
from agent.web.security import HEADERS, Doors, is_loopback
from state.errors import ConfigError, NotFoundError, VigilError
from state.paths import CampaignPaths
from state.text import shown

_HERE = Path(__file__).parent
_MOST_BODY = 64_000
"""Bytes of a form: a reason, and nothing longer."""

_App = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


class Site:
    """The pages of one home."""

    def __init__(self, home: Path, doors: Doors, is_over: Callable[[], bool]) -> None:
        self._home, self._doors, self._curves, self._is_over = home, doors, Curves(), is_over
        # Two tabs that answer at once: the second is told what the first one said.
        self._answering = threading.Lock()
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
            finalize=finalized,
        )
        self._templates.filters.update(number=number, clock=clock, signed=signed, duration=duration, at=_quoted)
        # Our own SVG: every text in it was escaped when it was drawn.
        self._templates.filters["drawing"] = Markup

    def routes(self) -> list[Route | Mount]:
        """Return every address."""
        return [
            Route("/", self._front),
            Route("/open", self._opened),
            Route("/inbox", self._inbox),
            Route("/c/{name}", self._campaign),
            Route("/c/{name}/runs", self._runs),
            Route("/c/{name}/cases", self._cases),
            Route("/c/{name}/decisions", self._decisions),
            Route("/c/{name}/decisions/{row}", self._decision),
            Route("/c/{name}/beliefs", self._beliefs),
            Route("/c/{name}/beliefs/{row}", self._belief),
            Route("/c/{name}/curves.json", self._curve_data),
            Route("/c/{name}/events", self._events),
            Route("/c/{name}/answer", self._answer, methods=["POST"]),
            Mount("/static", StaticFiles(directory=_HERE / "static")),
        ]

    def page(self, template: str, session: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a page."""
        given = {"name": "", "tab": "", "form_token": self._doors.form_token(session), **values}
        return HTMLResponse(self._templates.get_template(template).render(given), status)

    def said(self, title: str, sentence: str, status: int, session: str = "", **values: Any) -> HTMLResponse:
        """Return a page that says one thing."""
        return self.page("said.html", session, status, title=title, sentence=sentence, **{"again": "", **values})

    def failed(self, request: Request, error: Exception) -> Response:
        """Return the page of an error that a person can mend."""
        if isinstance(error, VigilError):
            status = 404 if isinstance(error, NotFoundError) else 400 if isinstance(error, ConfigError) else 503
            return self.said("That did not work", error.sentence, status, _session(request, self._doors))
        return self.said("The store cannot be read", str(error), 503, _session(request, self._doors))

    def _paths(self, request: Request) -> CampaignPaths:
        name = request.path_params["name"]
        # Of the names that are there, and nothing built from what was asked.
        if name not in pages.known(self._home):
            raise NotFoundError(f"There is no campaign {shown(name)} here.", what="campaign", value=name)
        return CampaignPaths(self._home, name)

    def _show(self, request: Request, template: str, tab: str, **values: Any) -> HTMLResponse:
        return self.page(template, _session(request, self._doors), tab=tab, **values)

    def _opened(self, request: Request) -> Response:
        session = self._doors.enter(request.query_params.get("token", ""))
        if not session:
            sentence = "This link was used before, or is not complete; vigil web printed a new one in its terminal."
            return self.said("Not opened", sentence, 403)
        # The token leaves the address at once; it would open nothing any more in any case.
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self._doors.cookie, session, httponly=True, samesite="strict", path="/")
        return answer

    def _front(self, request: Request) -> Response:
        return self._show(request, "home.html", "home", **pages.home(self._home))

    def _inbox(self, request: Request) -> Response:
        return self._show(request, "inbox.html", "inbox", **pages.inbox(self._home))

    def _campaign(self, request: Request) -> Response:
        paths, asked = self._paths(request), request.query_params
        view = gather(paths)
        metric, by = _one_of(METRICS, asked.get("metric")), _one_of(AXES, asked.get("by"))
        drawn = pages.drawing(view, self._curves, metric, by, asked.getlist("run"))
        found = pages.campaign(view)
        return self._show(request, "campaign.html", "campaign", name=paths.name, drawn=drawn, axes=AXES, **found)

    def _runs(self, request: Request) -> Response:
        paths, asked = self._paths(request), request.query_params
        found = pages.runs(gather(paths), asked.get("sort", ""), asked.get("bucket", ""))
        return self._show(request, "runs.html", "runs", name=paths.name, **found)

    def _cases(self, request: Request) -> Response:
        paths, asked = self._paths(request), request.query_params
        wanted = _one_of(cases.FILTERS, asked.get("filter"))
        start = int(text) if (text := asked.get("start", "")).isascii() and text.isdecimal() and len(text) < 9 else 0  # noqa: PLR2004 - digits
        found = cases.page(gather(paths), asked.get("run", ""), asked.get("metric", ""), wanted, start)
        return self._show(request, "cases.html", "cases", name=paths.name, filters=cases.FILTERS, start=start, **found)

    def _decisions(self, request: Request) -> Response:
        paths = self._paths(request)
        return self._show(request, "decisions.html", "decisions", name=paths.name, **pages.decisions(gather(paths)))

    def _decision(self, request: Request) -> Response:
        paths = self._paths(request)
        found = pages.decision(gather(paths), request.path_params["row"])
        return self._show(request, "row.html", "decisions", name=paths.name, **found)

    def _beliefs(self, request: Request) -> Response:
        paths = self._paths(request)
        found = pages.beliefs(gather(paths), is_all="all" in request.query_params)
        return self._show(request, "beliefs.html", "beliefs", name=paths.name, **found)

    def _belief(self, request: Request) -> Response:
        paths = self._paths(request)
        found = pages.belief(paths, request.path_params["row"])
        return self._show(request, "row.html", "beliefs", name=paths.name, **found)

    def _curve_data(self, request: Request) -> Response:
        paths, asked = self._paths(request), request.query_params
        metric, by = _one_of(METRICS, asked.get("metric")), _one_of(AXES, asked.get("by"))
        return JSONResponse({"metric": metric, "by": by, **on_grid(self._curves.of(gather(paths), metric, by))})

    def _events(self, request: Request) -> Response:
        return StreamingResponse(changes(self._paths(request), self._is_over), media_type="text/event-stream")

    async def _answer(self, request: Request) -> Response:
        session = _session(request, self._doors)
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _MOST_BODY:
                return self.said("Not answered", "The reason is too long; nothing was done.", 413, session)
        given = {key: rows[-1] for key, rows in parse_qs(body.decode("utf-8", "replace")).items()}
        if not self._doors.is_form_of(session, given.get("form_token", "")):
            sentence = "The form was not made by this session; nothing was done. Load the page again and answer there."
            return self.said("Not answered", sentence, 403, session)
        return await run_in_threadpool(self._answered, request, given, session)

    def _answered(self, request: Request, given: dict[str, str], session: str) -> Response:
        from agent.requests import answer

        paths, said, reason = self._paths(request), given.get("answer", ""), given.get("reason", "").strip()
        if said not in {"yes", "no"}:
            raise ConfigError("An answer is yes or no; nothing was done.", what="answer", value=said)
        if said == "no" and not reason:
            raise ConfigError("A no needs its reason, for the record; nothing was done.", what="reason")
        with self._answering:
            sentence = answer(self._home, paths.name, given.get("question", ""), is_yes=said == "yes", reason=reason)
        return self.said("Your answer", sentence, 200, session, name=paths.name)


def create_app(home: Path, doors: Doors, is_over: Callable[[], bool] = lambda: False) -> _App:
    """Return the application behind its doors.

    Args:
        home: Folder of all campaigns.
        doors: Who may come in.
        is_over: Whether the server ends: lines that stay open are closed then.
    """
    site = Site(home, doors, is_over)
    handlers = {VigilError: site.failed, sqlite3.DatabaseError: site.failed}
    app = Starlette(routes=site.routes(), exception_handlers=handlers)

    async def guarded(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *ours]
            await send(message)

        request = Request(scope)
        if refused := doors.refuses(request.method, request.headers):
            answer: _App = site.said("Refused", refused, 403)
        elif not _is_open(request.url.path) and not doors.knows(_session(request, doors)):
            sentence = "Open the link that vigil web printed in its terminal; this browser has no session."
            # A browser that came here from elsewhere holds its cookie back; from this page it brings it.
            answer = site.said("Not opened", sentence, 401, again=request.url.path)
        else:
            answer = app
        await answer(scope, receive, with_headers)

    return guarded


def _is_open(path: str) -> bool:
    """Say whether an address needs no session: the door itself, and files that anyone has."""
    return path == "/open" or path.startswith("/static/")


def _session(request: Request, doors: Doors) -> str:
    return str(request.cookies.get(doors.cookie) or "")


def _one_of(known: Any, asked: str | None) -> str:
    """Return what was asked where it is known, else the first there is."""
    return str(asked) if asked in known else str(next(iter(known)))


def _quoted(name: str) -> str:
    return quote(name, safe="")


def serve(home: Path, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the pages until Ctrl-C.

    Args:
        home: Folder of all campaigns.
        host: Address to listen on.
        port: 0 takes a free one.
        say: Prints what stands in the terminal: the links, each for one use.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # Before the link is told: whoever opens it at once waits, and is not turned away.
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{host} port {port} cannot be listened on ({why}); --port 0 takes a free port, --host another address.",
            what="address",
            value=f"{host}:{port}",
        ) from error
    doors = Doors(
        port=listener.getsockname()[1],
        host=host,
        is_network=not is_loopback(host),
        announce=lambda link: say(f"Opened. For another browser: {link}"),
    )
    say(f"Open this link, once: {doors.link()}")
    if doors.is_network:
        say("Whoever is on this network can reach it, and it is not encrypted: use it where you trust the network.")
    # No log of requests: the first one has the link's token in its address.
    config = uvicorn.Config(
        create_app(home, doors, lambda: server.should_exit),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
