"""A `multipart/form-data` body with one file, parsed while it arrives: the file goes on as a stream, never to disk.

Fields may stand before and after the file, so the file is stored before all of them are known:

    form = await read_form(request.stream(), request.headers.get("content-type"), file_field="file", …)
    stored = await storage.put(key, form.chunks)
    form.fields  # complete only now

What follows the file is read before `chunks` ends. A body that is cut off, malformed or refused by `check_fields` thus
fails the put, which leaves nothing behind.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from email.utils import collapse_rfc2231_value

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from service.errors import InvalidRequest, PayloadTooLarge

MAX_FILENAME_CHARACTERS = 255
_MAX_HEADER_BYTES = 64 * 1024  # a name that is too long shall be refused as such

_DEFAULT_FILENAME = "upload"
_DEFAULT_CONTENT_TYPE = "application/octet-stream"
_PLAIN_ENCODINGS = ("", "7bit", "8bit", "binary")


@dataclass(frozen=True)
class UploadForm:
    filename: str
    """Without a path; "upload" when the client gave none."""
    content_type: str
    chunks: AsyncIterator[bytes]
    """The file, once. Raises InvalidRequest, PayloadTooLarge, and whatever the body's stream raises."""
    fields: Mapping[str, str]
    """Those before the file; all of them when `chunks` has ended."""


async def read_form(
    body: AsyncIterator[bytes],
    content_type: str | None,
    *,
    file_field: str,
    max_file_bytes: int,
    too_large: str = "Send a smaller file.",
    max_fields: int = 16,
    max_field_bytes: int = 64 * 1024,
    check_fields: Callable[[Mapping[str, str]], None] | None = None,
) -> UploadForm:
    """Reads up to the file. `check_fields` sees all fields before the file is whole, and refuses by raising;
    `too_large` tells the client what to do with a larger file."""
    reader = _PartReader(body, _boundary(content_type))
    fields = _Fields(file_field, max_fields, max_field_bytes)
    file = await fields.read_until_file(reader)
    if file is None:
        raise InvalidRequest(f"Missing required parameter: '{file_field}'. Send it as a file.", param=file_field)

    async def chunks() -> AsyncIterator[bytes]:
        size = 0
        async for chunk in reader.data():
            size += len(chunk)
            if size > max_file_bytes:
                message = f"'{file_field}' is larger than the limit of {max_file_bytes:,} bytes. {too_large}"
                raise PayloadTooLarge(message, param=file_field)
            yield chunk
        if await fields.read_until_file(reader) is not None:
            raise InvalidRequest(f"'{file_field}' is given twice. Send one file a request.", param=file_field)
        if check_fields is not None:
            check_fields(fields.values)

    return UploadForm(
        filename=clean_filename(file.filename, param=file_field),
        content_type=file.content_type or _DEFAULT_CONTENT_TYPE,
        chunks=chunks(),
        fields=fields.values,
    )


class _Fields:
    def __init__(self, file_field: str, max_fields: int, max_field_bytes: int) -> None:
        self._file_field = file_field
        self._max_fields = max_fields
        self._max_field_bytes = max_field_bytes
        self.values: dict[str, str] = {}

    async def read_until_file(self, reader: "_PartReader") -> "_Part | None":
        """The part that is the file, its data still unread; None at the end of the form."""
        while (part := await reader.next_part()) is not None:
            if part.name == self._file_field:
                return part
            if part.filename:
                message = f"Unexpected file in '{part.name}': this request takes one file, in '{self._file_field}'."
                raise InvalidRequest(message, param=part.name)
            if part.name in self.values:
                raise InvalidRequest(f"'{part.name}' is given twice. Send it once.", param=part.name)
            if len(self.values) == self._max_fields:
                raise InvalidRequest(f"The form has more than {self._max_fields} fields. Send fewer.", param=part.name)
            self.values[part.name] = await self._read_value(part.name, reader)
        return None

    async def _read_value(self, name: str, reader: "_PartReader") -> str:
        value = bytearray()
        async for chunk in reader.data():
            value += chunk
            if len(value) > self._max_field_bytes:
                message = f"'{name}' is longer than the limit of {self._max_field_bytes:,} bytes for a form field."
                raise InvalidRequest(f"{message} Send a shorter value.", param=name)
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"The value of '{name}' is not UTF-8. Encode it as UTF-8.", param=name) from None


@dataclass(frozen=True)
class _Part:
    name: str
    filename: str
    content_type: str


class _PartReader:
    """One part after the other; the data of each has to be read before the next."""

    def __init__(self, body: AsyncIterator[bytes], boundary: str) -> None:
        self._events = _parse(body, boundary)
        self._next_part: _Part | None = None

    async def next_part(self) -> _Part | None:
        part, self._next_part = self._next_part, None
        if part is None:
            event = await anext(self._events, None)
            assert not isinstance(event, bytes)
            part = event
        return part

    async def data(self) -> AsyncIterator[bytes]:
        async for event in self._events:
            if isinstance(event, _Part):
                self._next_part = event
                return
            yield event


async def _parse(body: AsyncIterator[bytes], boundary: str) -> AsyncIterator[_Part | bytes]:
    """Each part, followed by its data. Nothing is read ahead: the next chunk of the body is asked for on demand."""
    found = _Found()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": found.headers.clear,
                "on_header_begin": found.begin_header,
                "on_header_field": found.add_to_header_name,
                "on_header_value": found.add_to_header_value,
                "on_headers_finished": found.begin_part,
                "on_part_data": found.add_data,
                "on_end": found.end,
            },
            max_header_size=_MAX_HEADER_BYTES,
        )
        async for chunk in body:
            parser.write(chunk)
            for event in found.take():
                yield event
    except FormParserError as error:
        message = f"The body is not valid multipart/form-data: {error}. Let your HTTP client build it."
        raise InvalidRequest(message) from None
    if not found.has_ended:
        raise InvalidRequest(
            "The body ended before the form's closing boundary: the upload was cut off. Send it again."
        )


class _Found:
    """What the push parser has called back since it was last asked."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytearray, bytearray]] = []
        self.has_ended = False
        self._events: list[_Part | bytes] = []

    def take(self) -> list[_Part | bytes]:
        events, self._events = self._events, []
        return events

    def begin_header(self) -> None:
        self.headers.append((bytearray(), bytearray()))

    def add_to_header_name(self, data: bytes, start: int, end: int) -> None:
        self.headers[-1][0].extend(data[start:end])

    def add_to_header_value(self, data: bytes, start: int, end: int) -> None:
        self.headers[-1][1].extend(data[start:end])

    def begin_part(self) -> None:
        self._events.append(_describe_part({_text(name).lower(): _text(value) for name, value in self.headers}))

    def add_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(data[start:end])

    def end(self) -> None:
        self.has_ended = True


def _describe_part(headers: Mapping[str, str]) -> _Part:
    kind, parameters = _split_header(headers.get("content-disposition", ""))
    name = parameters.get("name", "")
    if kind != "form-data" or not name:
        message = 'A part of the form has no name. Give each one `Content-Disposition: form-data; name="…"`.'
        raise InvalidRequest(message)
    encoding = headers.get("content-transfer-encoding", "").strip().lower()
    if encoding not in _PLAIN_ENCODINGS:
        raise InvalidRequest(f"'{name}' is sent with the transfer encoding {encoding!r}. Send it as it is.", param=name)
    return _Part(name, parameters.get("filename", ""), headers.get("content-type", "").strip())


def _boundary(content_type: str | None) -> str:
    kind, parameters = _split_header(content_type or "")
    boundary = parameters.get("boundary", "")
    if kind != "multipart/form-data" or not boundary or not boundary.isascii():
        given = f"not {content_type!r}" if content_type else "and there is none"
        raise InvalidRequest(f"The content type must be multipart/form-data with a boundary, {given}.")
    return boundary


def _split_header(value: str) -> tuple[str, dict[str, str]]:
    """The value and its parameters, unquoted; `filename*=UTF-8''…` (RFC 5987) wins over `filename=`."""
    message = Message()
    message["value"] = value
    (kind, _), *parameters = message.get_params([("", "")], header="value")
    return kind.lower(), {name: collapse_rfc2231_value(given, "replace") for name, given in parameters}


def _text(header: bytearray) -> str:
    try:
        return header.decode()
    except UnicodeDecodeError:
        return header.decode("latin-1")


def clean_filename(filename: str, *, param: str) -> str:
    """Without a path and without characters that cannot be seen. Raises InvalidRequest for one that is too long."""
    name = filename.replace("\\", "/").rsplit("/", 1)[-1].replace("%22", '"')  # browsers, httpx and curl send %22 for "
    name = "".join(character for character in name if character.isprintable()).strip()
    if len(name) > MAX_FILENAME_CHARACTERS:
        raise InvalidRequest(
            f"The file's name is too long - '{param}' has at most {MAX_FILENAME_CHARACTERS} characters", param=param
        )
    return _DEFAULT_FILENAME if name in ("", ".", "..") else name
