"""Which of the evaluated steps becomes the result, and when training on is no longer worth it."""

import math
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tuning.contract import JobSpec, StepMetrics

SELECTION_NAME = "selection.json"


class Best(BaseModel):
    """A step whose adapter is published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metrics: StepMetrics
    adapter_sha256: str | None = None
    """Known to the trainer that published it: of several, the leader. None too where the last step is what is kept."""


class _Saved(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    best: Best | None
    evaluations_without_better: int


class Selection:
    """Fed with every step. Of several trainers all decide the same, because their metrics are the same."""

    def __init__(self, spec: JobSpec) -> None:
        self._keeps_best = spec.selection.keep == "best"
        self._patience = spec.selection.early_stopping_patience
        self._is_reward = spec.method.type == "reinforcement"
        self.best: Best | None = None
        self.evaluations_without_better = 0

    def take(self, metrics: StepMetrics) -> bool:
        """Whether this step is what would be kept now: its adapter must be published, and `name_best` called."""
        value = self._value(metrics)
        if value is None:
            return False
        best = None if self.best is None else self._value(self.best.metrics)
        if not math.isfinite(value) or (best is not None and value <= best):
            self.evaluations_without_better += 1
            return False
        self.best, self.evaluations_without_better = Best(metrics=metrics), 0
        return self._keeps_best

    def name_best(self, adapter_sha256: str | None) -> None:
        assert self.best is not None
        self.best = Best(metrics=self.best.metrics, adapter_sha256=adapter_sha256)

    @property
    def is_exhausted(self) -> bool:
        return self._patience is not None and self.evaluations_without_better >= self._patience

    @property
    def kept(self) -> Best | None:
        """None: the last step."""
        return self.best if self._keeps_best else None

    def _value(self, metrics: StepMetrics) -> float | None:
        """The higher, the better. None: this step was not evaluated on all validation rows."""
        if self._is_reward:
            return metrics.full_valid_reward_mean
        return None if metrics.full_valid_loss is None else -metrics.full_valid_loss

    # --- in a training state --------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        saved = _Saved(best=self.best, evaluations_without_better=self.evaluations_without_better)
        (folder / SELECTION_NAME).write_text(saved.model_dump_json(indent=1), "utf-8")

    def load(self, folder: Path) -> None:
        saved = _Saved.model_validate_json((folder / SELECTION_NAME).read_bytes())
        self.best, self.evaluations_without_better = saved.best, saved.evaluations_without_better
