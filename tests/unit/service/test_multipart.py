"""Upload forms: however they are cut into chunks and whoever made them, the file and the fields come out whole."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from service.errors import ApiError, InvalidRequest, PayloadTooLarge
from service.multipart import UploadForm, read_form

CONTENT_TYPE = "multipart/form-data; boundary=XX"
FILE = b'Content-Disposition: form-data; name="file"; filename="rows.jsonl"\r\nContent-Type: application/jsonl\r\n\r\n'
PURPOSE = b'Content-Disposition: form-data; name="purpose"\r\n\r\nfine-tune'
# What looks like a boundary and is none.
CONTENT = b'{"a": 1}\r\n--X\r\n--XY\r\n\r\n-- XX\n--XX\r\r\n--X\r\n\x00\xff--XX--'


def body_of(*parts: bytes) -> bytes:
    return b"".join(b"--XX\r\n" + part + b"\r\n" for part in parts) + b"--XX--\r\n"


async def in_chunks(body: bytes, *cuts: int) -> AsyncIterator[bytes]:
    for start, end in zip((0, *cuts), (*cuts, len(body)), strict=True):
        yield body[start:end]


async def read(body: bytes, *cuts: int, max_file_bytes: int = 1000) -> tuple[UploadForm, bytes]:
    form = await read_form(in_chunks(body, *cuts), CONTENT_TYPE, file_field="file", max_file_bytes=max_file_bytes)
    return form, b"".join([chunk async for chunk in form.chunks])


@pytest.mark.parametrize("parts", [(PURPOSE, FILE + CONTENT), (FILE + CONTENT, PURPOSE)], ids=["first", "last"])
async def test_chunks_may_end_at_any_byte(parts: tuple[bytes, ...]) -> None:
    body = body_of(*parts)
    every_byte = range(1, len(body))
    for cuts in [(cut,) for cut in every_byte] + [tuple(every_byte)]:
        form, content = await read(body, *cuts)
        assert content == CONTENT
        assert form.fields == {"purpose": "fine-tune"}
        assert (form.filename, form.content_type) == ("rows.jsonl", "application/jsonl")


async def test_an_empty_file_is_a_file() -> None:
    form, content = await read(body_of(PURPOSE, FILE))
    assert (form.filename, content) == ("rows.jsonl", b"")


async def test_nothing_is_read_before_it_is_asked_for() -> None:
    given: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        whole = body_of(FILE + bytes(1000), PURPOSE)
        for start in range(0, len(whole), 100):
            given.append(start)
            yield whole[start : start + 100]

    form = await read_form(body(), CONTENT_TYPE, file_field="file", max_file_bytes=1000)
    assert given == [0, 100]
    await anext(form.chunks)
    await anext(form.chunks)
    assert given == [0, 100, 200]
    assert form.fields == {}


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        ('name="file"', "upload"),
        ('name="file"; filename=""', "upload"),
        ('name="file"; filename="upload"', "upload"),
        ("name=file; filename=rows.jsonl", "rows.jsonl"),
        ('filename="rows.jsonl"; name="file"', "rows.jsonl"),
        ('name="file"; filename="zwölf Zeilen ✓.jsonl"', "zwölf Zeilen ✓.jsonl"),
        ("name=\"file\"; filename*=UTF-8''zw%C3%B6lf%20Zeilen.jsonl", "zwölf Zeilen.jsonl"),
        ('name="file"; filename="zwolf.jsonl"; filename*=utf-8\'de\'zw%C3%B6lf.jsonl', "zwölf.jsonl"),
        ("name=\"file\"; filename*=no-such-charset''a.jsonl", "a.jsonl"),
        ('name="file"; filename="a;b=\\"c\\".jsonl"', 'a;b="c".jsonl'),
        ('name="file"; filename="a%22b.jsonl"', 'a"b.jsonl'),
        ('name="file"; filename="../../etc/passwd"', "passwd"),
        ("name=\"file\"; filename*=UTF-8''..%2F..%2Fetc%2Fpasswd", "passwd"),
        ('name="file"; filename="C:\\Users\\me\\rows.jsonl"', "rows.jsonl"),
        ('name="file"; filename="folder/"', "upload"),
        ('name="file"; filename=".."', "upload"),
        ("name=\"file\"; filename*=UTF-8''a%00%0D%0Ab%E2%80%AE.jsonl", "ab.jsonl"),
    ],
)
async def test_the_file_has_a_name_without_a_path(disposition: str, filename: str) -> None:
    part = f"Content-Disposition: form-data; {disposition}\r\n\r\n{{}}".encode()
    form, content = await read(body_of(part))
    assert (form.filename, content) == (filename, b"{}")
    assert form.content_type == "application/octet-stream"


async def test_a_name_in_latin_1_is_read_as_such() -> None:
    form, _ = await read(body_of('Content-Disposition: form-data; name="file"; filename="ä"\r\n\r\n'.encode("latin-1")))
    assert form.filename == "ä"


def field(name: str, value: bytes = b"x") -> bytes:
    return f'Content-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value


A_FILE = FILE + b"{}"
REFUSED = {
    "no file": ((PURPOSE,), "Missing required parameter: 'file'", "file"),
    "no parts": ((), "Missing required parameter: 'file'", "file"),
    "two files": ((A_FILE, A_FILE), "'file' is given twice", "file"),
    "a file in another field before": (
        (b'Content-Disposition: form-data; name="other"; filename="a"\r\n\r\nx', A_FILE),
        "Unexpected file in 'other': this request takes one file, in 'file'",
        "other",
    ),
    "a file in another field after": (
        (A_FILE, b'Content-Disposition: form-data; name="other"; filename="a"\r\n\r\nx'),
        "Unexpected file in 'other'",
        "other",
    ),
    "a field twice": ((PURPOSE, A_FILE, PURPOSE), "'purpose' is given twice", "purpose"),
    "a huge field": (
        (field("purpose", bytes(65_537)), A_FILE),
        "'purpose' is longer than the limit of 65,536",
        "purpose",
    ),
    "a huge field after": ((A_FILE, field("purpose", bytes(65_537))), "'purpose' is longer than the limit", "purpose"),
    "many fields": ((A_FILE, *(field(f"f{number}") for number in range(17))), "more than 16 fields", "f16"),
    "a field that is not UTF-8": ((A_FILE, field("purpose", b"\xff")), "'purpose' is not UTF-8", "purpose"),
    "a part without a name": ((b"Content-Disposition: form-data\r\n\r\nx", A_FILE), "has no name", None),
    "a part without headers": ((b"\r\nx", A_FILE), "has no name", None),
    "another disposition": ((b'Content-Disposition: attachment; name="file"\r\n\r\nx',), "has no name", None),
    "a transfer encoding": (
        (b'Content-Disposition: form-data; name="file"\r\nContent-Transfer-Encoding: Base64\r\n\r\ne30=',),
        "'file' is sent with the transfer encoding 'base64'",
        "file",
    ),
    "a header without a colon": ((b"Content-Disposition\r\n\r\nx",), "not valid multipart/form-data", None),
    "a huge header": ((b"X-Header: " + bytes(100_000) + b"\r\n\r\nx",), "not valid multipart/form-data", None),
    "many headers": ((b"X-Header: x\r\n" * 100 + FILE,), "not valid multipart/form-data", None),
}


@pytest.mark.parametrize(("parts", "message", "param"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_wrong_form_is_refused_by_name(parts: tuple[bytes, ...], message: str, param: str | None) -> None:
    body = body_of(*parts)
    for cuts in ((), range(1000, len(body), 1000)):
        with pytest.raises(InvalidRequest, match=message) as raised:
            await read(body, *cuts)
        assert raised.value.param == param


async def test_a_body_that_was_cut_off_fails_the_file_wherever_that_happens() -> None:
    body = body_of(PURPOSE, FILE + CONTENT, field("other"))
    for length in range(len(body) - len("--\r\n") + 1):
        with pytest.raises(InvalidRequest, match="the upload was cut off"):
            await read(body[:length])


@pytest.mark.parametrize("body", [b"{}", b"--YY\r\n", b"--XX--XX", b"\x00" * 100, b"purpose=fine-tune"])
async def test_a_body_that_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        await read(body)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=XX",
        f"multipart/form-data; boundary={'X' * 257}",
        "multipart/form-data; boundary=ä",
    ],
)
async def test_another_content_type_is_refused(content_type: str | None) -> None:
    with pytest.raises(InvalidRequest, match="multipart/form-data"):
        await read_form(in_chunks(body_of(A_FILE)), content_type, file_field="file", max_file_bytes=1000)


async def test_a_file_of_the_limit_is_taken_and_a_byte_more_is_not() -> None:
    _, content = await read(body_of(FILE + bytes(50)), max_file_bytes=50)
    assert len(content) == 50
    with pytest.raises(PayloadTooLarge, match="'file' is larger than the limit of 50 bytes") as raised:
        await read(body_of(FILE + bytes(51)), max_file_bytes=50)
    assert raised.value.param == "file"


async def test_a_client_that_leaves_fails_the_file() -> None:
    class ClientLeft(Exception):
        pass

    async def body() -> AsyncIterator[bytes]:
        yield b"--XX\r\n" + FILE + b"half"
        raise ClientLeft

    form = await read_form(body(), CONTENT_TYPE, file_field="file", max_file_bytes=1000)
    with pytest.raises(ClientLeft):
        async for _ in form.chunks:
            pass


@pytest.mark.parametrize("parts", [(PURPOSE, A_FILE), (A_FILE, PURPOSE)], ids=["first", "last"])
async def test_fields_are_checked_before_the_file_is_whole(parts: tuple[bytes, ...]) -> None:
    def check(fields: Mapping[str, str]) -> None:
        raise InvalidRequest(f"wrong purpose {fields['purpose']}")

    body = in_chunks(body_of(*parts))
    form = await read_form(body, CONTENT_TYPE, file_field="file", max_file_bytes=1000, check_fields=check)
    assert await anext(form.chunks) == b"{}"
    with pytest.raises(InvalidRequest, match="wrong purpose fine-tune"):
        await anext(form.chunks)


async def test_damaged_forms_are_read_or_refused_but_never_crash() -> None:
    chance = random.Random(0)
    whole = body_of(PURPOSE, FILE + CONTENT, field("other"))
    for _ in range(3000):
        body = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(body))
            body[at : at + chance.randint(0, 3)] = chance.choice(
                [b"", b"\r\n", b'"', b";", b"\\", b"*=", b"--XX", b"\xff"]
            )
        cuts = sorted(chance.sample(range(len(body)), 3))
        try:
            await read(bytes(body), *cuts)
        except ApiError:
            continue


@pytest.mark.parametrize("filename", ["rows.jsonl", "zwölf ✓.jsonl", 'a"b;c.jsonl', "a%20b.jsonl"])
async def test_what_httpx_sends_is_read(filename: str) -> None:
    content = random.Random(0).randbytes(300_000)
    form_fields = {"purpose": "fine-tune", "expires_after[anchor]": "created_at"}
    request = httpx.Request("POST", "http://x/", data=form_fields, files={"file": (filename, content)})
    body = request.read()
    content_type = request.headers["content-type"]
    cuts = range(65_536, len(body), 65_536)
    form = await read_form(in_chunks(body, *cuts), content_type, file_field="file", max_file_bytes=len(content))
    assert b"".join([chunk async for chunk in form.chunks]) == content
    assert (form.filename, form.fields) == (filename, form_fields)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.mark.parametrize("is_file_first", [True, False])
async def test_what_curl_sends_is_read(listener: socket.socket, tmp_path: Path, is_file_first: bool) -> None:
    content = random.Random(0).randbytes(100_000)
    path = tmp_path / 'zwölf "Zeilen".jsonl'
    path.write_bytes(content)
    escaped = str(path).replace('"', '\\"')
    parts = [["-F", f'file=@"{escaped}"'], ["-F", "purpose=fine-tune"]]
    arguments = [argument for part in (parts if is_file_first else reversed(parts)) for argument in part]
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    curl = await asyncio.create_subprocess_exec("curl", "-sS", "-H", "Expect:", *arguments, url)
    body, content_type = await asyncio.to_thread(_receive_request, listener)
    assert await curl.wait() == 0

    form = await read_form(in_chunks(body), content_type, file_field="file", max_file_bytes=len(content))
    assert b"".join([chunk async for chunk in form.chunks]) == content
    assert (form.filename, form.fields) == (path.name, {"purpose": "fine-tune"})


def _receive_request(listener: socket.socket) -> tuple[bytes, str]:
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as stream:
        headers: dict[str, str] = {}
        while (line := stream.readline().decode().strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = stream.read(int(headers["content-length"]))
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
    return body, headers["content-type"]
