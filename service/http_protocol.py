"""uvicorn's HTTP protocol with what it lacks: a limit on a request's head, errors that OpenAI's clients parse, and an
end of kept connections that fails no request.
"""

from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import ApiError, HeadersTooLarge, InvalidRequest, render
from service.ids import new_request_id
from service.response_headers import OPENAI_VERSION

MAX_HEAD_BYTES = 64 * 1024
"""Of the URL and the headers together; a byte more may pass when it comes in the same packet as the end."""

LAST_REQUEST_SECONDS = 0.5
"""So long an idle connection stays open when the server stops: whoever sends a request just then gets an answer."""


class HttpProtocol(HttpToolsProtocol):
    _head_bytes = 0
    _is_in_head = True
    _has_body_bytes = False
    """Of the packet that is being read: a body may end in it, and so may a whole request."""
    _is_last_request = False

    def data_received(self, data: bytes) -> None:
        self._has_body_bytes = not self._is_in_head
        super().data_received(data)
        if not self._is_in_head or self._has_body_bytes or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadersTooLarge(f"The URL and headers of a request have at most {MAX_HEAD_BYTES:,} bytes."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._is_in_head, self._has_body_bytes = False, True
        super().on_headers_complete()
        if self._is_last_request:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_in_head, self._head_bytes = True, 0

    def shutdown(self) -> None:
        """The next answer says that the connection ends; one that stays idle is closed a moment later."""
        if self._is_last_request or not (self.cycle is None or self.cycle.response_complete):
            super().shutdown()
            return
        self._is_last_request = True
        self.loop.call_later(LAST_REQUEST_SECONDS, self.shutdown)

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidRequest("This is not a valid HTTP request."))

    def _refuse(self, error: ApiError) -> None:
        answer = render(error)
        status = HTTPStatus(answer.status_code)
        headers = {
            **answer.headers,
            "connection": "close",
            "x-request-id": new_request_id(),
            "openai-version": OPENAI_VERSION,
            "openai-processing-ms": "0",
        }
        head = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + bytes(answer.body))
        self.transport.close()
