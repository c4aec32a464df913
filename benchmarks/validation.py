"""`make bench-validation`: how fast a training file is validated, and with how much memory.

The other one in the comparison is what a training script does: `datasets.load_dataset("json")`, then `.map` of
transformers' `apply_chat_template` to token ids and the mask of the assistant's tokens, in as many processes as there
are cores. Both get the same file, by turns. It writes its ids to disk; ours checks every row and makes the receipt.

Ours is timed from the start of its process to its end; the other one without starting Python and importing libraries.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chat_rows import write_rows
from tuning.catalogue import DEFAULT_CATALOGUE, Catalogue, CatalogueEntry

RESULT = Path(__file__).parent / "results" / "validation.json"
MODEL = "fettle-tiny"
MAX_LENGTH = 1 << 20  # nothing is cut
SAMPLE_SECONDS = 0.5


@dataclass(frozen=True)
class Run:
    seconds: float
    cpu_seconds: float
    """Of all its processes, imports included."""
    peak_mb: float
    """Of all its processes together; pages that several of them share count once (PSS)."""
    tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=20, help="of the file that both read by turns")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="*", default=[100, 1000], help="megabytes that only ours reads")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--other", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.other:
        run_other(asked.other)
        return
    report = measure(asked.megabytes, asked.turns, asked.memory)
    asked.output.parent.mkdir(exist_ok=True)
    asked.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({key: value for key, value in report.items() if key != "turns"}, indent=1))


def measure(megabytes: int, turns: int, memory: list[int]) -> dict[str, Any]:
    entry = Catalogue.load(DEFAULT_CATALOGUE).get(MODEL)
    assert entry is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        rows = write_rows(path, megabytes * 1_000_000)
        runs = []
        for turn in range(turns):
            runs.append((_ours(entry, path), _other(path)))
            print(f"turn {turn + 1}: ours {runs[-1][0]}, the other {runs[-1][1]}", flush=True)
        report = _compare(runs, rows, path.stat().st_size)
        report["memory_of_ours"] = {}
        for size in memory:
            rows = write_rows(path, size * 1_000_000)
            run = _ours(entry, path)
            report["memory_of_ours"][f"{size} MB"] = {"rows": rows, **asdict(run)}
            print(f"{size} MB: {run}", flush=True)
    return report


def _compare(runs: list[tuple[Run, Run]], rows: int, size: int) -> dict[str, Any]:
    def speed(each: list[Run]) -> dict[str, float]:
        seconds = statistics.median(run.seconds for run in each)
        return {
            "rows_per_second": round(rows / seconds, 1),
            "mb_per_second": round(size / 1e6 / seconds, 2),
            "cpu_microseconds_per_row": round(1e6 * statistics.median(run.cpu_seconds for run in each) / rows, 1),
            "peak_mb": max(run.peak_mb for run in each),
        }

    ours, others = [own for own, _ in runs], [other for _, other in runs]
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_at_the_end": round(os.getloadavg()[0], 1),
        "model": MODEL,
        "file": {"megabytes": round(size / 1e6, 1), "rows": rows, "tokens": ours[0].tokens},
        "same_tokens": len({run.tokens for run in (*ours, *others)}) == 1,
        "ours": speed(ours),
        "datasets_and_apply_chat_template": speed(others),
        "ratio": round(statistics.median(other.seconds / own.seconds for own, other in runs), 2),
        "cpu_ratio": round(statistics.median(other.cpu_seconds / own.cpu_seconds for own, other in runs), 2),
        "turns": [{"ours": asdict(own), "other": asdict(other)} for own, other in runs],
    }


def _ours(entry: CatalogueEntry, path: Path) -> Run:
    """The very process that the service starts."""
    question = {
        "entry": entry.model_dump(mode="json"),
        "method": "supervised",
        "max_length": MAX_LENGTH,
        "files": [{"uri": path.as_uri(), "param": "training_file"}],
        "s3": {},
    }
    started = time.perf_counter()
    answer, cpu_seconds, peak_mb = _run(["service.fine_tuning.validation_worker"], json.dumps(question))
    [receipt] = answer["receipts"]
    return Run(round(time.perf_counter() - started, 2), cpu_seconds, peak_mb, receipt["tokens"])


def _other(path: Path) -> Run:
    answer, cpu_seconds, peak_mb = _run(["benchmarks.validation", "--other", str(path)], "")
    return Run(answer["seconds"], cpu_seconds, peak_mb, answer["tokens"])


def run_other(path: Path) -> None:
    """In a process of its own."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import datasets
    import pyarrow.compute as pc
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    entry = Catalogue.load(DEFAULT_CATALOGUE).get(MODEL)
    assert entry is not None
    tokenizer = AutoTokenizer.from_pretrained(entry.source, model_max_length=MAX_LENGTH)

    def render(row: dict[str, Any]) -> Any:
        return tokenizer.apply_chat_template(
            row["messages"],
            tools=row.get("tools"),
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=folder)
        rendered = rows.map(render, num_proc=os.cpu_count(), remove_columns=rows.column_names)
        seconds = time.perf_counter() - started
        tokens = pc.sum(pc.list_value_length(rendered.data.column("input_ids"))).as_py()
    print(json.dumps({"seconds": round(seconds, 2), "tokens": tokens}))


def _run(module: list[str], question: str) -> tuple[Any, float, float]:
    """The answer, CPU seconds and peak memory of a program and all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", *module]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process, _watched(process.pid) as peak:
        output, _ = process.communicate(question)
    if process.returncode:
        raise SystemExit(f"{module[0]} ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(output.strip().splitlines()[-1]), round(cpu_seconds, 2), round(max(peak) / 1e6, 1)


@contextmanager
def _watched(pid: int) -> Iterator[list[int]]:
    """Bytes of memory of a process and all below it, again and again."""
    sizes = [0]
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(SAMPLE_SECONDS):
            sizes.append(_memory(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield sizes
    finally:
        is_over.set()
        watcher.join()


def _memory(pid: int) -> int:
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in family:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue  # it has just ended
    return total


if __name__ == "__main__":
    main()
