"""The boto3 client for a bucket, and its errors in our words."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from service.object_storage.base import ObjectNotFound, S3Access, StorageError, StorageFull, StorageUnavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECTIONS = 16

_MISSING_CODES = {"NoSuchKey", "404"}  # HEAD has no body, so its only code is the status
_FULL_CODES = {"QuotaExceeded", "XMinioStorageFull"}


class BeyondEnd(StorageError):
    pass


def new_client(access: S3Access) -> "S3Client":
    """Servers other than Amazon's often know neither bucket host names nor the newer checksums."""
    endpoint_url, region = access.get("endpoint_url"), access.get("region")
    own_server = endpoint_url is not None
    checksums: Literal["when_required", "when_supported"] = "when_required" if own_server else "when_supported"
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "adaptive", "total_max_attempts": 5},
        max_pool_connections=CONNECTIONS,
        s3={"addressing_style": access.get("addressing_style") or ("path" if own_server else "auto")},
        request_checksum_calculation=checksums,
        response_checksum_validation="when_supported",  # it only asks for what the server may have
    )
    return Session().client("s3", endpoint_url=endpoint_url, region_name=region, config=config)


@contextmanager
def translated(uri: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _describe(error, uri) from error
    except NoCredentialsError as error:
        raise StorageUnavailable(
            f"no credentials for {uri}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the service a role"
        ) from error
    except BotoCoreError as error:
        raise StorageUnavailable(f"{uri}: {error}") from error


def _describe(error: ClientError, uri: str) -> StorageError:
    code = error.response["Error"].get("Code", "")
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    if code in _MISSING_CODES:
        return ObjectNotFound(f"there is no object {uri}")
    if code in _FULL_CODES or status == HTTPStatus.INSUFFICIENT_STORAGE:
        return StorageFull(f"storage is full: {uri} could not be written ({error})")
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return BeyondEnd(f"{uri} is shorter than the range asked for")
    return StorageUnavailable(f"{uri}: {error}")
