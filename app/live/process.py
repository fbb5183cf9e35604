"""The model process: ``python -m app.live.process``, started by `app.live.client.ModelHost`; never by hand.

It reads messages from standard input and answers on what was its standard output. One thread reads, so that a request
can be cancelled while another is being worked on; the main thread works. It ends when standard input closes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from app.live.messages import Message, StreamError, read_message, write_message
from app.live.plain_data import pack
from headscope.errors import HeadscopeError

if TYPE_CHECKING:
    from app.live.requests import Request

_log = logging.getLogger(__name__)
_LONGEST_REASON = 300


class _Cancelled(BaseException):
    """The client took the request back; no library's ``except Exception`` on the way may hold it up."""


class Server:
    """Reads requests, works on them one after the other in the order they came, answers."""

    def __init__(self, given: BinaryIO, answers: BinaryIO) -> None:
        self._given, self._answers = given, answers
        self._writing = threading.Lock()
        self._queue: queue.Queue[tuple[int, Any]] = queue.Queue()
        self._cancelled: dict[int, threading.Event] = {}

    def serve(self) -> None:
        """Work until standard input closes, which ends the process."""
        threading.Thread(target=self._read, daemon=True, name="reader").start()
        desk = self._desk()
        while True:
            ident, data = self._queue.get()
            self._work(desk, ident, data)

    def _desk(self) -> Any:
        from app.live.work import Desk  # torch takes seconds: requests are already read meanwhile

        desk = Desk(lambda state, name: self._send({"kind": "model", "state": state, "model": name}))
        self._send({"kind": "ready"})
        return desk

    def _read(self) -> None:
        try:
            while (message := read_message(self._given)) is not None:
                self._take(message)
        except StreamError as error:
            _log.error("the stream of requests cannot be read on: %s", error)
        finally:
            os._exit(0)  # the parent is gone, or closed us: nobody reads what the worker would still say

    def _take(self, message: Message) -> None:
        if message.kind == "stop":
            os._exit(0)
        ident = int(message.header["id"])
        if message.kind == "ask":
            self._cancelled[ident] = threading.Event()
            self._queue.put((ident, message.header.get("request")))
        elif message.kind == "cancel" and (stop := self._cancelled.get(ident)) is not None:
            stop.set()  # the worker may end the request meanwhile: asked for once, and not by `in` first

    def _work(self, desk: Any, ident: int, data: Any) -> None:
        from app.live.requests import request_from_data  # reaches far: only once prints go elsewhere

        stop = self._cancelled[ident]

        def check() -> None:
            if stop.is_set():
                raise _Cancelled

        def tell(message: str, done: int, total: int) -> None:
            self._send({"kind": "progress", "id": ident, "message": message, "done": done, "total": total})

        try:
            check()
            request = request_from_data(data)
            self._answer(ident, request, desk.answer(request, tell=tell, check=check))
        except _Cancelled:
            self._send({"kind": "cancelled", "id": ident})
        except HeadscopeError as error:
            self._send({"kind": "error", "id": ident, "error": type(error).__name__, "message": str(error)})
        except Exception as error:
            _log.exception("request %d failed", ident)
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_REASON]
            self._send({"kind": "error", "id": ident, "error": "internal", "message": reason})
        finally:
            del self._cancelled[ident]

    def _answer(self, ident: int, request: Request, result: Any) -> None:
        arrays: dict[str, np.ndarray] = {}
        data = pack(result, arrays)
        kind = type(request).__name__.removesuffix("Request").lower()
        self._send({"kind": "result", "id": ident, "type": kind, "data": data}, arrays)

    def _send(self, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        try:
            with self._writing:
                write_message(self._answers, Message(header, arrays or {}))
        except BrokenPipeError:
            os._exit(0)


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output for messages only; whatever a library prints goes to standard error."""
    given, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    sys.stdout.flush()
    os.dup2(2, 1)
    return given, answers


def main() -> None:
    """Serve until standard input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    logging.basicConfig(level=logging.WARNING, format="model process: %(message)s", stream=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):
        Server(*_take_pipes()).serve()


if __name__ == "__main__":
    main()
