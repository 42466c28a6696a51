"""Several robots' desks → one page on 127.0.0.1: what they show, and a person's words, yes, no, stop and reset."""

from __future__ import annotations

import asyncio
import functools
import logging
import resource
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web
from pydantic import Field, ValidationError

from qwen2vl_robot.bounds import DIGEST_CHARS, INSTRUCTION_CHARS, REASON_CHARS, shown
from qwen2vl_robot.complaints import complaint
from qwen2vl_robot.config import Strict
from qwen2vl_robot.console.desk import Desk
from qwen2vl_robot.console.door import Door, problem, subprotocols
from qwen2vl_robot.documents import parse_json
from qwen2vl_robot.errors import BadInputError, RobotError
from qwen2vl_robot.nodes.shell import describe

_log = logging.getLogger(__name__)

HOST = "127.0.0.1"
MOST_PAGES = 50
PICTURE_HZ = 15.0
_REQUEST_BYTES = 8_000
_WAITING = 4  # commands a robot, besides stops
_SLOW_S = 10.0  # a page that takes nothing for so long is closed
_HEARTBEAT_S = 10.0
_FILES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "txt": "text/plain", "svg": "image/svg+xml"}


class _Say(Strict):
    text: str = Field(min_length=1, max_length=INSTRUCTION_CHARS)


class _Approve(Strict):
    digest: str = Field(min_length=1, max_length=DIGEST_CHARS)


class _Reject(_Approve):
    reason: str = Field(min_length=1, max_length=REASON_CHARS)


class _Reset(Strict):
    stopped_by: str = Field(max_length=1000, description="what the person has read; another stop is not released")


class Console:
    """The web server of the desks."""

    def __init__(self, desks: Sequence[Desk]) -> None:
        self.door, self._desks = Door(), tuple(desks)
        self._pages: set[web.WebSocketResponse] = set()
        self._tick = asyncio.Condition()
        self._busy = [asyncio.Semaphore(1) for _ in desks]
        self._waiting = [0 for _ in desks]
        self._stopping: asyncio.Future[dict[str, str]] | None = None
        self._workers = ThreadPoolExecutor(2 * len(desks) + 2, "console")  # commands wait here, and pictures
        self._stoppers = ThreadPoolExecutor(max(1, len(desks)), "stop")  # a stop never waits for a command
        self._ended = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def start(self, port: int) -> str:
        """Listen; returns the address with the token.

        Raises:
            BadInputError: the port is taken.
        """
        _allow_many_files()
        app = web.Application(middlewares=[self.door.middleware()], client_max_size=_REQUEST_BYTES)
        app.add_routes([web.get("/", self._file), web.get("/static/{name}", self._file)])
        app.add_routes([web.get("/api/live", self._live), web.post("/api/stop", self._stop)])
        app.add_routes([web.post("/api/robots/{robot:[0-9]{1,3}}/{command:[a-z]{1,10}}", self._command)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        server, loop = self._runner.server, asyncio.get_running_loop()
        assert server is not None
        try:
            listening = await loop.create_server(lambda: self.door.greet(server), HOST, port, backlog=1024)
        except OSError as error:
            await self._runner.cleanup()
            raise BadInputError(
                f"port {port} on {HOST} cannot be used ({error.strerror}); give another --port"
            ) from error
        port = listening.sockets[0].getsockname()[1]
        self._pump_task = asyncio.create_task(self._pump())
        self._listening = listening
        return f"http://{HOST}:{port}/#token={self.door.token}"

    async def close(self) -> None:
        """Close every page; nothing moves or stops for it."""
        self._ended.set()
        self._listening.close()
        self._pump_task.cancel()
        for page in list(self._pages):
            await page.close(code=WSCloseCode.GOING_AWAY, message=b"the console was ended")
        assert self._runner is not None
        await self._runner.cleanup()
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._stoppers.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------------------------------- showing

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name", "console.html")
        kind = _FILES.get(name.rpartition(".")[2])
        if kind is None or (data := _static(name)) is None:
            return problem(404, "no such page")
        return web.Response(body=data, content_type=kind, charset="utf-8")

    async def _live(self, request: web.Request) -> web.StreamResponse:
        """Send a page each robot's newest values until it goes."""
        if len(self._pages) >= MOST_PAGES:
            return problem(503, f"{MOST_PAGES} pages are open, which is the most; close one")
        page = web.WebSocketResponse(heartbeat=_HEARTBEAT_S, max_msg_size=1024, protocols=subprotocols(request))
        self._pages.add(page)
        try:
            await page.prepare(request)
            for desk in self._desks:
                desk.watch()
            sending = asyncio.create_task(self._send(page))
            try:
                async for message in page:  # a page says nothing here; what it sends is dropped
                    if message.type is WSMsgType.ERROR:
                        break
            finally:
                sending.cancel()
        finally:
            self._pages.discard(page)
        return page

    async def _send(self, page: web.WebSocketResponse) -> None:
        seen = [0 for _ in self._desks]
        try:
            names = [desk.name for desk in self._desks]
            await page.send_json({"kind": "robots", "value": names})
            while not page.closed:
                for index, desk in enumerate(self._desks):
                    for number, kind, value in desk.newer(seen[index]):
                        seen[index] = number
                        await asyncio.wait_for(_send_value(page, index, kind, value), _SLOW_S)
                async with self._tick:
                    await self._tick.wait()
        except (asyncio.TimeoutError, ConnectionError):
            await page.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"too slow")

    async def _pump(self) -> None:
        """Wake the pages at the pictures' rate."""
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            self.door.tidy()
            if self._pages:
                for desk in self._desks:
                    await loop.run_in_executor(self._workers, desk.refresh)
                async with self._tick:
                    self._tick.notify_all()
            await asyncio.sleep(max(0.005, 1.0 / PICTURE_HZ - (loop.time() - began_s)))

    # ---------------------------------------------------------------------------------------- commanding

    async def _stop(self, request: web.Request) -> web.Response:
        """Stop every robot of the page; whoever asks while that goes on gets the same answer."""
        if self._stopping is None or self._stopping.done():
            self._stopping = asyncio.ensure_future(self._stop_all())
        answers = await asyncio.shield(self._stopping)
        return web.json_response({"answers": answers})

    async def _stop_all(self) -> dict[str, str]:
        loop = asyncio.get_running_loop()
        stops = [loop.run_in_executor(self._stoppers, _stop_one, desk) for desk in self._desks]
        return {desk.name: await stop for desk, stop in zip(self._desks, stops, strict=True)}

    async def _command(self, request: web.Request) -> web.Response:
        index, act = int(request.match_info["robot"]), _COMMANDS.get(request.match_info["command"])
        if index >= len(self._desks) or act is None:
            return problem(404, f"commands: stop, {', '.join(_COMMANDS)}; robots: 0 to {len(self._desks) - 1}")
        model, run = act
        data: object = None
        try:
            given = model.model_validate(data := parse_json(await request.read(), "the request"))
        except ValidationError as error:
            return problem(400, complaint(error, data, model))
        except BadInputError as error:
            return problem(400, str(error))
        if self._waiting[index] >= _WAITING:
            return problem(429, f"{_WAITING} commands wait already; nothing was sent")
        self._waiting[index] += 1
        try:
            async with self._busy[index]:  # one after another: of two who approve, the second is told
                run_here = functools.partial(_answer, self._desks[index], run, given)
                status, text = await asyncio.get_running_loop().run_in_executor(self._workers, run_here)
        finally:
            self._waiting[index] -= 1
        return web.json_response({"answer": text}) if status == 200 else problem(status, text)


async def _send_value(page: web.WebSocketResponse, index: int, kind: str, value: str | bytes) -> None:
    if isinstance(value, bytes):
        await page.send_bytes(bytes([index]) + value)
    else:
        await page.send_str(f'{{"robot":{index},"kind":"{kind}","value":{value}}}')


def _answer(desk: Desk, run: Callable[[Desk, Any], str], given: Strict) -> tuple[int, str]:
    """Carry out a command; returns the answer's status and text, which the log keeps too."""
    try:
        text = run(desk, given)
    except BadInputError as error:
        return 400, str(error)
    except RobotError as error:
        desk.log(f"not done: {error}")
        return 409, str(error)
    desk.log(f"console: {text}")
    return 200, text


def _say(desk: Desk, given: _Say) -> str:
    desk.shell.say(given.text)
    return f"taken: {given.text}"


def _approve(desk: Desk, given: _Approve) -> str:
    verdict = desk.shell.question()
    if verdict.digest != given.digest:
        raise BadInputError("this is no longer what awaits an approval; look at what is shown now")
    answer = desk.shell.approve(verdict)
    if not answer.accepted:
        raise BadInputError(answer.reason)
    return f"approved {verdict.digest[:8]}: {verdict.action}"


def _reject(desk: Desk, given: _Reject) -> str:
    verdict = desk.shell.question()
    if verdict.digest != given.digest:
        raise BadInputError("this is no longer what awaits an approval; nothing was rejected")
    answer = desk.shell.reject(verdict, given.reason)
    if not answer.rejected:
        raise BadInputError(f"not rejected: {answer.reason}")
    return f"rejected {verdict.digest[:8]} ({verdict.action}), because: {given.reason}"


def _reset(desk: Desk, given: _Reset) -> str:
    now = desk.shell.status()
    if now.stopped_by is None:
        raise BadInputError("nothing is stopped")
    if now.stopped_by != given.stopped_by:
        raise BadInputError(f"another stop came: {shown(now.stopped_by)}; look at the robot again")
    return f"reset: {desk.shell.reset()}"


def _stop_one(desk: Desk) -> str:
    try:
        now = desk.shell.stop()
        text = "sent; no controller shows that it is stopped" if now is None else describe(now)
    except RobotError as error:
        text = str(error)
    desk.log(f"stop: {text}")
    return text


_COMMANDS: dict[str, tuple[type[Strict], Callable[[Desk, Any], str]]] = {
    "say": (_Say, _say),
    "approve": (_Approve, _approve),
    "reject": (_Reject, _reject),
    "reset": (_Reset, _reset),
}


@functools.lru_cache(maxsize=16)
def _static(name: str) -> bytes | None:
    folder = resources.files("qwen2vl_robot.console") / "static"
    known = {entry.name for entry in folder.iterdir()}
    return (folder / name).read_bytes() if name in known else None


def _allow_many_files() -> None:
    """So that a thousand idle connections do not keep the page's own out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096 and (hard == resource.RLIM_INFINITY or hard > soft):
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096 if hard == resource.RLIM_INFINITY else min(4096, hard), hard))
