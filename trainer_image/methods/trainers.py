"""Which trainer runs which method."""

from trainer_image.methods.kto import KtoTrainer
from trainer_image.methods.preference import DpoTrainer, OrpoTrainer
from trainer_image.methods.reinforcement import ReinforcementTrainer
from trainer_image.methods.step_trainer import StepTrainer
from trainer_image.methods.supervised import SupervisedTrainer
from tuning.contract import MethodName

TRAINERS: dict[MethodName, type[StepTrainer]] = {
    "supervised": SupervisedTrainer,
    "dpo": DpoTrainer,
    "orpo": OrpoTrainer,
    "kto": KtoTrainer,
    "reinforcement": ReinforcementTrainer,
}
