"""`python -m service.graders.similarity_worker`: the process that `similarity.py` starts and talks to."""

import json
import resource
import sys

from tuning.graders.similarity_metrics import measure_similarity

MEMORY_BYTES = 2 * 1024**3
CPU_SECONDS = 60  # it is ended from outside; this is for one whose service was killed


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    question = json.load(sys.stdin)
    json.dump(measure_similarity(question["metric"], question["text"], question["reference"]), sys.stdout)


if __name__ == "__main__":
    main()
