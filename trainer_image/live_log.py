"""What the trainer prints, uploaded now and then, so that it can be read while the run lasts.

It takes a copy of what passes `sys.stderr` and `sys.stdout`, which go on to the container's log as before. That one is
whole, has also what libraries print from C, and takes this one's place when the container has ended.
"""

import logging
import os
import sys
import threading
from collections import deque
from types import TracebackType
from typing import TextIO, cast

from trainer_image import artifacts
from trainer_image.reporting import TakenOver
from tuning.contract import JobSpec, log_name

log = logging.getLogger("trainer")

SECONDS_BETWEEN_UPLOADS = 10.0
MAX_BYTES = 1 << 20
CONTAINER_NAME_VARIABLE = "FETTLE_CONTAINER_NAME"
SECRET_SUFFIXES = ("KEY", "SECRET", "TOKEN", "PASSWORD")
MIN_SECRET_LENGTH = 8
"""Shorter values are no secrets, and would blacken ordinary words."""


class LiveLog:
    """Bounded: of a long log the end is kept. Failures are logged and disturb nothing."""

    def __init__(self, spec: JobSpec) -> None:
        container = os.environ.get(CONTAINER_NAME_VARIABLE) or "trainer"
        self._uri = f"{spec.logs_uri}/{log_name(spec.attempt, container)}"
        self._secrets = _secrets()
        self._pieces: deque[str] = deque()
        self._kept_chars = 0
        self._is_cut = False
        self._has_news = False
        self._has_failed = False
        self._lock = threading.RLock()  # a signal handler may print in the middle of `add`
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._upload_until_closed, name="live-log", daemon=True)
        self._streams = (sys.stdout, sys.stderr)

    def __enter__(self) -> "LiveLog":
        stdout, stderr = self._streams
        sys.stdout, sys.stderr = cast(TextIO, _Copied(stdout, self)), cast(TextIO, _Copied(stderr, self))
        _move_log_handlers(stderr, sys.stderr)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closing.set()
        self._thread.join()
        if not isinstance(error, TakenOver):  # else the log of this name is another start's
            self._upload()
        _move_log_handlers(sys.stderr, self._streams[1])
        sys.stdout, sys.stderr = self._streams

    def add(self, text: str) -> None:
        with self._lock:
            self._pieces.append(text[-MAX_BYTES:])
            self._kept_chars += len(self._pieces[-1])
            self._is_cut = self._is_cut or len(text) > MAX_BYTES
            while self._kept_chars > MAX_BYTES:
                self._kept_chars -= len(self._pieces.popleft())
                self._is_cut = True
            self._has_news = True

    def _upload_until_closed(self) -> None:
        while not self._is_closing.wait(SECONDS_BETWEEN_UPLOADS):
            self._upload()

    def _upload(self) -> None:
        with self._lock:
            if not self._has_news:
                return
            self._has_news = False
            text, is_cut = "".join(self._pieces), self._is_cut
        try:
            artifacts.write_bytes(self._uri, self._content(text, is_cut))
            self._has_failed = False
        except Exception as error:  # whatever storage raises: nobody's training may depend on this
            if not self._has_failed:  # a line each time would be news each time
                log.warning("the log cannot be uploaded, the run goes on: %s", error)
            self._has_failed = self._has_news = True

    def _content(self, text: str, is_cut: bool) -> bytes:
        for secret in self._secrets:
            text = text.replace(secret, "…")
        content = text.encode(errors="replace")
        if not is_cut and len(content) <= MAX_BYTES:
            return content
        first_line = b"[the beginning is cut off: while a trainer runs, the end of its log is kept]\n"
        return first_line + content[-MAX_BYTES:].partition(b"\n")[2]


class _Copied:
    """A text stream whose writes are copied; all else is the stream's own."""

    def __init__(self, stream: TextIO, live_log: LiveLog) -> None:
        self._stream = stream
        self._live_log = live_log

    def write(self, text: str) -> int:
        self._live_log.add(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def _move_log_handlers(source: TextIO, target: TextIO) -> None:
    """Handlers hold on to the stream that they were made with."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is source:
            handler.setStream(target)


def _secrets() -> list[str]:
    """Values of the environment that no library should print, and that would leave the cluster with the log if one
    did; the longest first, because one may be part of another."""
    named = (value for name, value in os.environ.items() if name.upper().endswith(SECRET_SUFFIXES))
    return sorted({value for value in named if len(value) >= MIN_SECRET_LENGTH}, key=len, reverse=True)
