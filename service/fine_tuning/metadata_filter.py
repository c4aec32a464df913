"""The job list's filter by metadata, as query parameters: `metadata[key]=value`, or `metadata=null`."""

import re
from typing import Annotated

from fastapi import Depends, Query, Request

from service.errors import InvalidRequest

_PARAMETER = re.compile(r"metadata\[(.*)\]", re.DOTALL)
MAX_PAIRS = 16
"""As many as a job can have."""


def _metadata_filter(
    request: Request,
    metadata: Annotated[
        str | None,
        Query(
            description="`null`: only jobs without metadata. Pairs are sent as `metadata[key]=value`.",
            json_schema_extra={"enum": ["null"]},
        ),
    ] = None,
) -> dict[str, str] | None:
    """None: no filter; empty: jobs without metadata."""
    pairs: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        match = _PARAMETER.fullmatch(name)
        if match is not None and pairs.setdefault(match[1], value) != value:
            raise InvalidRequest(f"'{name}' is given twice with different values.", param=name)
    if len(pairs) > MAX_PAIRS:
        raise InvalidRequest(f"Too many pairs in 'metadata': a job has at most {MAX_PAIRS}.", param="metadata")
    if metadata is None:
        return pairs or None
    if metadata != "null" or pairs:
        raise InvalidRequest("Send 'metadata[key]=value', or 'metadata=null' alone.", param="metadata")
    return {}


MetadataFilter = Annotated[dict[str, str] | None, Depends(_metadata_filter)]
