"""How the trainer and vLLM's resolver reach S3: the standard AWS_* environment, and what it has no variable for."""

import os
from typing import Any, Final

ADDRESSING_STYLE_VARIABLE: Final = "FETTLE_S3_ADDRESSING_STYLE"
ADDRESSING_STYLES = ("auto", "path", "virtual")


def s3_client_settings(*, max_attempts: int) -> dict[str, Any]:
    """Arguments of botocore's Config; raises ValueError.

    Servers other than Amazon's often know neither bucket host names nor the newer checksums. All know that of the
    signature, which boto3 leaves out over TLS unless it is told.
    """
    own_server = bool(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))
    addressing_style = os.environ.get(ADDRESSING_STYLE_VARIABLE) or ("path" if own_server else "auto")
    if addressing_style not in ADDRESSING_STYLES:
        choices = ", ".join(ADDRESSING_STYLES)
        raise ValueError(
            f"{ADDRESSING_STYLE_VARIABLE} is {addressing_style!r}: set it to one of {choices}, or unset it"
        )
    checksums = "when_required" if own_server else "when_supported"
    return {
        "connect_timeout": 5,  # seconds
        "read_timeout": 60,
        "tcp_keepalive": True,
        "retries": {"mode": "standard", "total_max_attempts": max_attempts},
        "s3": {"addressing_style": addressing_style, "payload_signing_enabled": own_server},
        "request_checksum_calculation": checksums,
        "response_checksum_validation": checksums,
    }
