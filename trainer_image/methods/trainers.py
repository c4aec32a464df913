"""Which trainer runs which method."""

from trainer_image.methods.step_trainer import StepTrainer
from trainer_image.methods.supervised import SupervisedTrainer
from tuning.contract import MethodName

TRAINERS: dict[MethodName, type[StepTrainer]] = {"supervised": SupervisedTrainer}
