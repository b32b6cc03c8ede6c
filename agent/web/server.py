"""The server: addresses, pages, answers, and `vigil web` itself.

It reads the store as every reading command does, and writes nothing but what `vigil approve` and `vigil reject` write.
"""

import io
import socket
import sqlite3
import threading
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
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
from agent.render.words import clock, duration, finalized, number, signed
from agent.web import pages
from agent.web.live import AXES, METRICS, Curves, Marks, Views, changes, on_grid
from agent.web.security import HEADERS, Doors, is_loopback
from state.errors import ConfigError, NotFoundError, VigilError
from state.paths import CampaignPaths
from state.text import shown

_HERE = Path(__file__).parent
_MOST_BODY = 64_000
"""Bytes of a form: a reason, and nothing longer."""
_MOST_BESIDE = 8
"""Columns of a table; more are not read side by side."""
_DIGITS = 9
"""Of a number in an address."""

_App = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


class Site:
    """The pages of some homes."""

    def __init__(self, homes: Sequence[Path], doors: Doors, is_over: Callable[[], bool]) -> None:
        self._homes, self._doors, self._is_over = homes, doors, is_over
        self._curves, self._views, self._marks = Curves(), Views(), Marks()
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
            Route("/compare", self._compare),
            Route("/events", self._events),
            Route("/c/{name}", self._campaign),
            Route("/c/{name}/runs", self._runs),
            Route("/c/{name}/beside", self._beside),
            Route("/c/{name}/cases", self._cases),
            Route("/c/{name}/decisions", self._decisions),
            Route("/c/{name}/decisions/{row}", self._decision),
            Route("/c/{name}/beliefs", self._beliefs),
            Route("/c/{name}/beliefs/{row}", self._belief),
            Route("/c/{name}/curves.json", self._curve_data),
            Route("/c/{name}/events", self._events),
            Route("/c/{name}/answer", self._answer, methods=["POST"]),
            Route("/c/{name}/allow", self._answer, methods=["POST"]),
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

    def _paths(self, name: str) -> CampaignPaths:
        # Of the names that are there, and nothing built from what was asked.
        found = pages.known(self._homes).get(name)
        if found is None:
            raise NotFoundError(f"There is no campaign {shown(name)} here.", what="campaign", value=name)
        return found

    def _view(self, name: str) -> dict[str, Any]:
        return {**self._views.of(self._paths(name)), "key": name}

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
        return self._show(request, "home.html", "home", **pages.home(self._homes, self._views))

    def _inbox(self, request: Request) -> Response:
        return self._show(request, "inbox.html", "inbox", **pages.inbox(self._homes, self._views))

    def _compare(self, request: Request) -> Response:
        names = list(pages.known(self._homes))
        chosen = [each for each in request.query_params.getlist("c") if each][:_MOST_BESIDE]
        found = pages.compared([self._view(name) for name in chosen])
        return self._show(request, "compare.html", "compare", names=names, chosen=chosen, **found)

    def _campaign(self, request: Request) -> Response:
        name, asked = request.path_params["name"], request.query_params
        view = self._view(name)
        metric, by = _one_of(METRICS, asked.get("metric")), _one_of(AXES, asked.get("by"))
        # A page that follows the campaign draws the curves itself.
        given = {**view, "jobs": []} if "hx-request" in request.headers else view
        drawn = pages.drawing(given, self._curves, metric, by, [])
        found = pages.campaign(view)
        return self._show(request, "campaign.html", "campaign", name=name, drawn=drawn, axes=AXES, **found)

    def _runs(self, request: Request) -> Response:
        name, asked = request.path_params["name"], request.query_params
        found = pages.runs(self._view(name), asked.get("sort", ""), asked.get("bucket", ""), _start(request))
        return self._show(request, "runs.html", "runs", name=name, **found)

    def _beside(self, request: Request) -> Response:
        name, asked = request.path_params["name"], request.query_params
        view, chosen = self._view(name), asked.getlist("run")[:_MOST_BESIDE]
        metric, by = _one_of(METRICS, asked.get("metric")), _one_of(AXES, asked.get("by"))
        found = pages.overlaid(view, chosen)
        drawn = pages.drawing(view, self._curves, metric, by, [each.upper() for each in chosen])
        return self._show(request, "beside.html", "runs", name=name, drawn=drawn, axes=AXES, chosen=chosen, **found)

    def _cases(self, request: Request) -> Response:
        name, asked = request.path_params["name"], request.query_params
        wanted, start = _one_of(cases.FILTERS, asked.get("filter")), _start(request)
        found = cases.page(self._view(name), asked.get("run", ""), asked.get("metric", ""), wanted, start)
        return self._show(request, "cases.html", "cases", name=name, filters=cases.FILTERS, start=start, **found)

    def _decisions(self, request: Request) -> Response:
        name = request.path_params["name"]
        found = pages.decisions(self._view(name), _start(request))
        return self._show(request, "decisions.html", "decisions", name=name, **found)

    def _decision(self, request: Request) -> Response:
        name = request.path_params["name"]
        found = pages.decision(self._view(name), request.path_params["row"])
        return self._show(request, "decision.html", "decisions", name=name, **found)

    def _beliefs(self, request: Request) -> Response:
        name = request.path_params["name"]
        found = pages.beliefs(self._paths(name), self._view(name), is_all="all" in request.query_params)
        return self._show(request, "beliefs.html", "beliefs", name=name, **found)

    def _belief(self, request: Request) -> Response:
        name = request.path_params["name"]
        found = pages.belief(self._paths(name), request.path_params["row"])
        return self._show(request, "belief.html", "beliefs", name=name, **found)

    def _curve_data(self, request: Request) -> Response:
        asked, view = request.query_params, self._view(request.path_params["name"])
        metric, by = _one_of(METRICS, asked.get("metric")), _one_of(AXES, asked.get("by"))
        found, wanted = self._curves.of(view, metric, by), asked.getlist("run")
        found = {run: curve for run, curve in found.items() if not wanted or run in wanted}
        return JSONResponse({"metric": metric, "by": by, **on_grid(found, asked.get("band", ""))})

    def _events(self, request: Request) -> Response:
        name, known = request.path_params.get("name"), pages.known(self._homes)
        looked_at = [self._paths(name)] if name else list(known.values())
        return StreamingResponse(changes(looked_at, self._marks, self._is_over), media_type="text/event-stream")

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
        from agent import requests

        name, said, reason = request.path_params["name"], given.get("answer", ""), given.get("reason", "").strip()
        paths, title = self._paths(name), "Your answer"
        if said not in {"yes", "no"}:
            raise ConfigError("An answer is yes or no; nothing was done.", what="answer", value=said)
        if said == "no" and not reason:
            raise ConfigError("A no needs its reason, for the record; nothing was done.", what="reason")
        with self._answering:
            sentences = []
            if request.url.path.endswith("/allow"):
                text = given.get("runs", "")
                runs = int(text) if text.isascii() and text.isdecimal() and len(text) < _DIGITS else -1
                kind, until = given.get("kind", ""), given.get("until", "")
                sentences.append(
                    requests.allow(paths.home, paths.name, kind, until, runs=runs, reason=reason, is_page=True)
                )
            else:
                asked = given.get("question", "")
                sentences.append(
                    requests.answer(paths.home, paths.name, asked, is_yes=said == "yes", reason=reason, is_page=True)
                )
        return self.said(title, " ".join(sentences), 200, session, name=name)


def create_app(homes: Sequence[Path], doors: Doors, is_over: Callable[[], bool] = lambda: False) -> _App:
    """Return the application behind its doors.

    Args:
        homes: Folders of campaigns; those of the first are called by their names alone.
        doors: Who may come in.
        is_over: Whether the server ends: lines that stay open are closed then.
    """
    site = Site(homes, doors, is_over)
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


def _start(request: Request) -> int:
    """Return how many rows an address passes over."""
    text = request.query_params.get("start", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < _DIGITS else 0


def _quoted(name: str) -> str:
    return quote(name, safe="")


def serve(homes: Sequence[Path], host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the pages until Ctrl-C.

    Args:
        homes: Folders of campaigns.
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
        announce=lambda link: say(f"Opened. For another browser: {link}{_code(link, is_shown=doors.is_network)}"),
    )
    say(f"Open this link, once: {doors.link()}{_code(doors.link(), is_shown=doors.is_network)}")
    if doors.is_network:
        say("Whoever is on this network can reach it, and it is not encrypted: use it where you trust the network.")
    # No log of requests: the first one has the link's token in its address.
    config = uvicorn.Config(
        create_app(homes, doors, lambda: server.should_exit),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    server.run(sockets=[listener])


def _code(link: str, *, is_shown: bool) -> str:
    """Return a link as a QR code to stand below it in a terminal, so that no phone has to type it."""
    text = io.StringIO()
    if is_shown:
        import segno

        text.write("\n")
        segno.make_qr(link).terminal(text, border=2, compact=True)
    return text.getvalue().rstrip("\n")
