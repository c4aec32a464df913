"""`python -m service.batches.validation_worker`: the process that `validation.py` starts and talks to."""

import json
import sys
from dataclasses import asdict

from service.batches.input_check import check_input
from service.object_storage import open_chunks


def main() -> None:
    question = json.load(sys.stdin)
    chunks = open_chunks(question["uri"], **question["s3"])
    json.dump(asdict(check_input(chunks, question["endpoint"])), sys.stdout)


if __name__ == "__main__":
    main()
