"""Where bytes lie, chosen by a URI: `file:///folder` or `s3://bucket/prefix`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Unpack
from urllib.parse import unquote, urlsplit

from service.object_storage import filesystem
from service.object_storage.base import InvalidKey, ObjectStorage, S3Access, check_key

# s3.py is imported where it is used: boto3 costs 40 MB and half a second, which a service on a folder need not pay.


def open_storage(uri: str, **access: Unpack[S3Access]) -> ObjectStorage:
    """Raises ValueError for an address it does not know, StorageError when the folder cannot be made."""
    location = _parse(uri)
    if isinstance(location, Path):
        return filesystem.FilesystemStorage(location)
    from service.object_storage import s3

    bucket, prefix = location
    return s3.S3Storage(bucket, f"{prefix}/" if prefix else "", access)


def open_chunks(uri: str, **access: Unpack[S3Access]) -> Iterator[bytes]:
    """One object, by the URI that its storage gave, read without an event loop: for worker processes.

    Raises ObjectNotFound here, not at the first chunk; StorageUnavailable also between chunks.
    """
    location = _parse(uri)
    if isinstance(location, Path):
        return filesystem.read_chunks(location)
    from service.object_storage import s3

    bucket, key = location
    return s3.read_chunks(bucket, key, access)


def _parse(uri: str) -> Path | tuple[str, str]:
    """A path, or bucket and key."""
    parts = urlsplit(uri)
    key = parts.path.strip("/")
    if parts.query or parts.fragment:
        raise ValueError(
            f"storage URI {uri!r}: `?` and `#` have no meaning here; percent-encode them in a folder's name"
        )
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return Path(unquote(parts.path))
    if parts.scheme == "s3" and parts.netloc:
        try:
            return parts.netloc, key and check_key(key)
        except InvalidKey:
            raise ValueError(
                f"storage URI {uri!r}: a prefix has letters, digits, `.`, `_`, `-` between slashes"
            ) from None
    raise ValueError(f"storage URI {uri!r} is neither file:///folder nor s3://bucket/prefix")
