"""`make bench-memory`: how much memory the trainer takes at its peak, and how far the prediction is from it.

Each run is the real trainer, in a process of its own, on the CPU, with random weights and rows that fill its
micro-batches; its peak is what the kernel counted. `--calibrate` fits the constants of `tuning/memory.py` to those runs
that are meant for it, and prints them; the others show the error on shapes that it has not seen.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory_runs import RUNS, Run, Shape
from tuning.catalogue import DEFAULT_CATALOGUE, Catalogue, CatalogueEntry
from tuning.contract import (
    BaseModelSpec,
    DataSpec,
    JobSpec,
    LoraSpec,
    ProcessesSpec,
    SelectionSpec,
    SupervisedSpec,
)
from tuning.data.receipt import make_receipt
from tuning.data.rendering import ChatRenderer
from tuning.memory import (
    CONSTANTS,
    Constants,
    activations,
    head_tile,
    micro_batch_tokens,
    predict,
)
from tuning.model_shape import ModelShape, read_shape

RESULT = Path(__file__).parent / "results" / "memory.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""Those of fettle-tiny: random weights answer nothing in any vocabulary."""
STEPS = 3
"""The first makes the optimizer's state, and the allocator's heap grows until the third."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibrate", action="store_true", help="fit the constants to the measured peaks, print them")
    parser.add_argument("--again", action="store_true", help="take the peaks that the result file has")
    parser.add_argument("--output", type=Path, default=RESULT)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = write_models(sorted({(run.shape, run.dtype) for run in RUNS}, key=str), Path(folder))
        shapes = {run: read_shape(entry_of(run, models[run.shape, run.dtype])) for run in RUNS}
        known = json.loads(asked.output.read_text())["runs"] if asked.again else []
        peaks = {run: int(each["measured_bytes"]) for run in RUNS for each in known if each["name"] == run.name}
        for run in RUNS:
            if run not in peaks:
                with tempfile.TemporaryDirectory(dir=folder) as work:
                    peaks[run] = measure(run, models[run.shape, run.dtype], Path(work))
                print(f"{run.name:48}{peaks[run] / 1e6:10,.0f} MB", flush=True)
    if asked.calibrate:
        for dtype in ("float32", "bfloat16"):
            runs = [run for run in RUNS if run.dtype == dtype and run.is_fitted]
            CONSTANTS["cpu", dtype] = calibrate(runs, shapes, peaks)
            print(dtype, CONSTANTS["cpu", dtype])
    report = report_of(shapes, peaks)
    asked.output.parent.mkdir(exist_ok=True)
    asked.output.write_text(json.dumps(report, indent=1) + "\n")
    print_report(report)


def calibrate(runs: Sequence[Run], shapes: Mapping[Run, ModelShape], peaks: Mapping[Run, int]) -> Constants:
    """Least squares of the errors in percent."""
    terms, rest = [], []
    for run in runs:
        shape, training = shapes[run], run.training
        parts = predict(shape, training, is_checkpointed=run.is_checkpointed)
        kept, wasted = activations(shape, training, is_checkpointed=run.is_checkpointed)
        counted = parts.weights + parts.adapter + parts.gradients + parts.optimizer + kept
        tile = head_tile(shape, micro_batch_tokens(training))
        waste = (0, wasted) if run.is_checkpointed else (wasted, 0)
        # in gigabytes, because least squares want numbers of one size
        terms.append([1.0, *(value / 1e9 for value in (tile, *waste))])
        rest.append((peaks[run] - counted) / 1e9)
    weights = np.array([1e9 / peaks[run] for run in runs])
    found = np.linalg.lstsq(np.array(terms) * weights[:, None], np.array(rest) * weights, rcond=None)[0]
    process, head, waste, waste_checkpointed = (float(value) for value in found)
    return Constants(
        process=round(process * 1000) * 1_000_000,
        head=round(head, 2),
        waste=max(0.0, round(waste, 2)),
        waste_checkpointed=max(0.0, round(waste_checkpointed, 2)),
    )


def report_of(shapes: Mapping[Run, ModelShape], peaks: Mapping[Run, int]) -> dict[str, Any]:
    runs = []
    for run, peak in peaks.items():
        predicted = predict(shapes[run], run.training, is_checkpointed=run.is_checkpointed).total
        runs.append(
            {
                "name": run.name,
                "parameters": shapes[run].parameters,
                "is_fitted": run.is_fitted,
                "measured_bytes": peak,
                "predicted_bytes": predicted,
                "error_percent": round(100 * (predicted / peak - 1), 1),
            }
        )
    dtypes = ("float32", "bfloat16")
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "libraries": {name: metadata.version(name) for name in ("torch", "transformers", "trl", "peft")},
        "libc": " ".join(platform.libc_ver()),
        "steps": STEPS,
        "constants": {dtype: asdict(CONSTANTS["cpu", dtype]) for dtype in dtypes},
        "worst_percent": max(abs(each["error_percent"]) for each in runs),
        "runs": runs,
    }


def print_report(report: dict[str, Any]) -> None:
    print(f"{report['machine']}, {report['libc']}, {report['libraries']}")
    print(f"{'':48}{'measured MB':>13}{'predicted':>11}{'error':>8}")
    for run in report["runs"]:
        name = run["name"] if run["is_fitted"] else f"{run['name']} (not fitted)"
        measured, predicted = run["measured_bytes"] / 1e6, run["predicted_bytes"] / 1e6
        print(f"{name:48}{measured:13,.0f}{predicted:11,.0f}{run['error_percent']:+8.1f}%")
    print(f"worst: {report['worst_percent']} %")


def measure(run: Run, model: Path, work: Path) -> int:
    """Bytes at the peak."""
    spec = _spec(run, model, work)
    path = work / "spec.json"
    path.write_text(spec.model_dump_json())
    with (work / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer_image", path.as_uri()], stderr=log, stdout=log, env=_environment()
        )
        _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{run.name}:\n{(work / 'log').read_text()[-3000:]}")
    return usage.ru_maxrss * 1024


def write_models(shapes: Sequence[tuple[Shape, str]], folder: Path) -> dict[tuple[Shape, str], Path]:
    """By shape and dtype."""
    paths = {each: folder / f"{each[0].name}-{each[0].family}-{each[1]}" for each in shapes}
    asked = [{"config": shape.config, "dtype": dtype, "folder": str(paths[shape, dtype])} for shape, dtype in paths]
    command = [sys.executable, "-m", "benchmarks.random_model"]
    subprocess.run(command, input=json.dumps(asked), text=True, check=True, env=_environment())
    tokenizer = Path(Catalogue.load(DEFAULT_CATALOGUE).models[0].source)
    for path in paths.values():
        for name in TOKENIZER_FILES:
            shutil.copyfile(tokenizer / name, path / name)
    return paths


def _spec(run: Run, model: Path, work: Path) -> JobSpec:
    entry = entry_of(run, model)
    renderer = ChatRenderer(entry.template, entry.tokenizer_path, entry.stop_tokens, run.longest_row)
    data = work / "rows.jsonl"
    data.write_text("".join(_row(number, run.longest_row) for number in range(run.rows_per_step * STEPS)))
    receipt = make_receipt([data.read_bytes()], renderer, min_rows=1)
    assert receipt.longest_row_tokens == run.longest_row, "the rows do not fill the micro-batch"
    return JobSpec(
        job_id="ftjob-memory",
        attempt=1,
        base_model=BaseModelSpec(
            name=entry.name,
            source=entry.source,
            revision=None,
            dtype=entry.dtype,
            template_path=None,
            template_sha256=entry.template_sha256,
            stop_tokens=entry.stop_tokens,
        ),
        parent_adapter_sha256=None,
        training_data=DataSpec(uri=data.as_uri(), receipt_sha256=receipt.sha256, rows=receipt.trained_rows),
        validation_data=None,
        method=SupervisedSpec(
            n_epochs=1,
            batch_size=run.rows_per_step,
            learning_rate=1e-4,
            lr_scheduler_type="linear",
            warmup_ratio=0.0,
            weight_decay=0.0,
            max_grad_norm=1.0,
            max_length=run.longest_row,
            packing=True,
            gradient_checkpointing="on" if run.is_checkpointed else "off",
        ),
        lora=LoraSpec(r=run.r, lora_alpha=32, lora_dropout=run.dropout, target_modules="all-linear"),
        selection=SelectionSpec(keep="last", eval_steps=None, early_stopping_patience=None),
        seed=1,
        output_uri=(work / "out").as_uri(),
        adapters_uri=(work / "adapters").as_uri(),
        resume_from=None,
        logs_uri=(work / "logs").as_uri(),
        processes=ProcessesSpec(),
        wandb=(),
    )


def entry_of(run: Run, model: Path) -> CatalogueEntry:
    return CatalogueEntry(
        name=run.shape.name,
        source=str(model),
        context_length=8192,
        stop_tokens=("<|im_end|>",),
        dtype=run.dtype,
        learning_rate=1e-4,
    )


def _row(number: int, tokens: int) -> str:
    """Longer than `tokens`, and cut there."""
    answer = " ".join(str(number * 7919 + each * each) for each in range(tokens))
    messages = [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}) + "\n"


def _environment() -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}


if __name__ == "__main__":
    main()
