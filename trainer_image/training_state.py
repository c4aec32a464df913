"""Everything that training goes on from after a step, in object storage: saved when a run is stopped, read by the next.

A state is the folder `state/step-<n>-<start>/` under the prefix of the run that saved it. Its files are those that
transformers' Trainer saves and loads, and the metrics so far; none of them is a pickle that may run code. The manifest
comes last and names every file with its hash: a state without it is torn, and one of another job, other data or other
hyperparameters is foreign. Neither is ever trained on.

Only an event makes a state the newest of its run. So what a start saves that has been taken over is never read, and
never mixes with what the other one saves after the same step: each save has a folder of its own.
"""

import hashlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from trainer_image import artifacts
from trainer_image.parent_adapter import WEIGHTS_NAME
from trainer_image.selection import SELECTION_NAME
from tuning.adapter_manifest import MANIFEST_NAME, AdapterFile, describe_file
from tuning.contract import METRICS_CSV_NAME, JobSpec, ProcessesSpec, state_name

STATE_FILES = (
    WEIGHTS_NAME,
    "optimizer.pt",
    "rng_state.pth",  # of Python, NumPy and torch
    "scheduler.pt",
    SELECTION_NAME,
    METRICS_CSV_NAME,
    "trainer_state.json",  # the step, from which the position in the data follows, and the tokens seen
)
"""What the Trainer saves besides (its own arguments, as a pickle) stays where it is."""


class StateUnusable(Exception):
    """The message says what is wrong with it."""


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    step: int
    training_sha256: str
    files: tuple[AdapterFile, ...]


@dataclass(frozen=True)
class TrainingState:
    """On the local disk, as the Trainer loads it."""

    folder: Path
    step: int

    @property
    def metrics_csv(self) -> Path:
        """A row for each of the steps so far."""
        return self.folder / METRICS_CSV_NAME


def save_state(folder: Path, spec: JobSpec, step: int) -> str:
    """`folder` holds STATE_FILES. Answers where they are now, relative to the run's prefix."""
    target = f"{state_name(step)}-{secrets.token_hex(4)}"
    uri = f"{spec.output_uri}/{target}"
    files = tuple(describe_file(folder / name) for name in STATE_FILES)
    manifest = _Manifest(step=step, training_sha256=_training_digest(spec), files=files)
    for name in STATE_FILES:
        artifacts.upload_file(folder / name, f"{uri}/{name}")
    artifacts.write_bytes(f"{uri}/{MANIFEST_NAME}", manifest.model_dump_json(indent=1).encode())
    return target


def load_state(uri: str, spec: JobSpec, folder: Path) -> TrainingState:
    """Raises StateUnusable; storage that cannot be read raises OSError, and says nothing about the state."""
    try:
        manifest = _Manifest.model_validate_json(artifacts.read_bytes(f"{uri}/{MANIFEST_NAME}"))
    except FileNotFoundError as error:
        raise StateUnusable("it is not whole") from error
    except ValidationError as error:
        raise StateUnusable("its manifest is damaged") from error
    if manifest.training_sha256 != _training_digest(spec):
        raise StateUnusable("it belongs to another job, other data or other hyperparameters")
    if tuple(file.name for file in manifest.files) != STATE_FILES:
        raise StateUnusable("it holds other files than this version saves")
    folder.mkdir(exist_ok=True)  # another state was tried before, and some of its files were whole
    for file in manifest.files:
        try:
            artifacts.fetch_file(f"{uri}/{file.name}", folder / file.name, file)
        except FileNotFoundError as error:
            raise StateUnusable(f"its file {file.name} is missing") from error
        except artifacts.WrongContent as error:
            raise StateUnusable(f"its file {file.name} is damaged") from error
    return TrainingState(folder, manifest.step)


def _training_digest(spec: JobSpec) -> str:
    """Of all that decides about the weights: the spec without the attempt, the places and who is told."""
    decisive = spec.model_dump(
        mode="json",
        exclude={
            "attempt": True,
            "output_uri": True,
            "adapters_uri": True,
            "resume_from": True,
            "logs_uri": True,
            "wandb": True,
            "base_model": {"source", "template_path"},
            "training_data": {"uri"},
            "validation_data": {"uri"},
        },
    )
    if spec.processes == ProcessesSpec():
        del decisive["processes"]  # so that states of release 0.1 stay usable: it knew of no more than one
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
