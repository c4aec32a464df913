"""Weights & Biases: `WandbLogger.sync(openai_client=…)` of an ended job into an offline run. Argument: the job's id."""

import json
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from openai import OpenAI
from wandb.integration.openai.fine_tuning import WandbLogger
from wandb.proto.wandb_internal_pb2 import Record


def main(job_id: str) -> None:
    client = OpenAI()
    # Offline, wandb 0.31 has nobody to log in to, which `sync` takes for a failed login, and it can use no artifact,
    # which is how `sync` notes the data sets.
    WandbLogger._logged_in = True
    WandbLogger.sync(fine_tune_job_id=job_id, openai_client=client, log_datasets=False)

    job = client.fine_tuning.jobs.retrieve(job_id)
    [run] = Path("wandb").glob("offline-run-*/*.wandb")
    steps, summary, config = read_run(run)
    csv = client.files.content(job.result_files[0]).text.splitlines()
    assert len(steps) == len(csv) - 1, (steps, csv)
    assert {"train_loss", "train_mean_token_accuracy"} <= steps[0].keys(), steps[0]
    assert (summary["status"], summary["fine_tuned_model"]) == ("succeeded", job.fine_tuned_model), summary
    assert config["hyperparameters"]["n_epochs"] == job.hyperparameters.n_epochs, config
    assert config["result_files"] == job.result_files[0], config
    print("wandb: all is well")


def read_run(path: Path) -> tuple[list[dict[str, object]], dict[str, object], dict[str, object]]:
    """What `wandb sync` would send: the metrics of each step, the summary and the configuration."""
    steps, summary, config = [], {}, {}
    for data in records(path.read_bytes()):
        record = Record.FromString(data)
        if record.HasField("history"):
            values = {name: value for name, value in named(record.history.item).items() if not name.startswith("_")}
            steps.append(values)
        summary |= named(record.summary.update)
        config |= named(record.config.update)
    return steps, summary, config


def named(items: Iterable[Any]) -> dict[str, object]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def records(content: bytes) -> Iterator[bytes]:
    """A `.wandb` file is a log in LevelDB's format: blocks of 32 KiB; chunks of checksum, length, type and data."""
    position, record = 7, b""  # after the file's own header
    while position < len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


if __name__ == "__main__":
    main(sys.argv[1])
