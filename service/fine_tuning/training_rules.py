"""What a request says about its training that cannot be honoured: refused, each with the field and the remedy."""

from typing import NoReturn

from service.errors import InvalidRequest
from service.fine_tuning.method_schemas import ReinforcementMethod
from service.fine_tuning.schemas import CreateJob
from service.fine_tuning.training_extension import MIN_LENGTH, TrainingExtension, methods_with, stray_key
from tuning.adapter_manifest import AdapterManifest
from tuning.catalogue import CatalogueEntry

_SHAPE = ("r", "lora_alpha", "target_modules", "use_rslora")


def check_training(asked: CreateJob, base: CatalogueEntry) -> None:
    """All that can be known from the request and the catalogue. Raises InvalidRequest."""
    extension = asked.x_training or TrainingExtension()
    _check_method(asked, extension)
    _check_rate(asked, extension)
    _check_lengths(asked, extension, base)
    if asked.validation_file is None:
        _check_without_validation(asked, extension)


def asks_for_shape(extension: TrainingExtension) -> bool:
    return any(getattr(extension, name) is not None for name in (*_SHAPE, "init_lora_weights"))


def check_shape(extension: TrainingExtension, parent: AdapterManifest, model: str) -> None:
    """An adapter that training goes on from keeps its shape. Raises InvalidRequest."""
    for name in _SHAPE:
        given, value = getattr(extension, name), getattr(parent, name)
        if given is not None and (tuple(sorted(given)) if isinstance(given, list) else given) != value:
            _refuse(
                name,
                f"{given!r} is not {_shown(value)} - '{name}': training goes on from the adapter of {model}, which "
                f"keeps its shape. Leave '{name}' out, or start from a base model.",
            )
    if extension.init_lora_weights == "eva":
        _refuse(
            "init_lora_weights",
            f"'eva' is refused - 'init_lora_weights': training goes on from the adapter of {model}, which is not made "
            "anew. Leave it out, or start from a base model.",
        )


def _check_method(asked: CreateJob, extension: TrainingExtension) -> None:
    method = asked.resolved_method
    if extension.method is not None and asked.method is not None:
        _refuse(
            "method",
            f"'method' and 'x_training.method' are both given: '{asked.method.type}' and '{extension.method}'. Leave "
            "one of them out; hyperparameters of the latter go into 'hyperparameters'.",
        )
    if (stray := stray_key(extension, method)) is not None:
        _refuse(stray, f"'{stray}' means nothing for the method '{method}': it is for {methods_with(stray)}.")
    if asked.method is None or asked.method.type != "reinforcement":
        return
    block = asked.method.block
    if not isinstance(block, ReinforcementMethod):
        raise InvalidRequest("Missing required parameter: 'grader'.", param="method.reinforcement.grader")
    if block.response_format is not None:
        raise InvalidRequest(
            "'response_format' is refused: answers are drawn freely, and nothing holds them to a schema while they are "
            "drawn. Leave it out; a grader that reads '{{sample.output_json}}' gives nothing for an answer that is "
            "not JSON.",
            param="method.reinforcement.response_format",
        )
    effort = block.hyperparameters.reasoning_effort if block.hyperparameters else "default"
    if effort not in ("default", "auto"):
        raise InvalidRequest(
            f"'{effort}' is refused - 'reasoning_effort': no base model of this server reasons before it answers. "
            "Leave it out.",
            param="method.reinforcement.hyperparameters.reasoning_effort",
        )


def _check_rate(asked: CreateJob, extension: TrainingExtension) -> None:
    multiplier = asked.asked_training.hyperparameters["learning_rate_multiplier"]
    if extension.learning_rate is not None and multiplier != "auto":
        _refuse(
            "learning_rate",
            f"'learning_rate' ({extension.learning_rate:g}) and 'learning_rate_multiplier' ({multiplier:g}) are both "
            "given. Leave one of them out.",
        )


def _check_lengths(asked: CreateJob, extension: TrainingExtension, base: CatalogueEntry) -> None:
    context = base.context_length
    limit = f"{base.name} has a context of {context} tokens"
    if extension.max_length is not None and extension.max_length > context:
        _refuse(
            "max_length", f"{extension.max_length} is greater than the maximum of {context} - 'max_length': {limit}."
        )
    answer = extension.max_completion_tokens
    if answer is None:
        return
    if (most := context - (extension.max_length or MIN_LENGTH)) < answer:
        _refuse(
            "max_completion_tokens",
            f"{answer} is greater than the maximum of {most} - 'max_completion_tokens': {limit}, and prompts need "
            f"{extension.max_length or 'some'} of them.",
        )


def _check_without_validation(asked: CreateJob, extension: TrainingExtension) -> None:
    given = {
        "keep": extension.keep == "best",
        "eval_steps": extension.eval_steps is not None,
        "early_stopping_patience": extension.early_stopping_patience is not None,
        "evaluation": extension.evaluation is not None and extension.evaluation.rows > 0,
    }
    for name, is_given in given.items():
        if is_given:
            _refuse(name, f"'{name}' needs a 'validation_file' to measure on. Name one, or leave '{name}' out.")
    for name in ("eval_interval", "eval_samples"):
        if asked.asked_training.hyperparameters.get(name, "auto") != "auto":
            raise InvalidRequest(
                f"'{name}' needs a 'validation_file' to measure on. Name one, or leave '{name}' out.",
                param=f"method.reinforcement.hyperparameters.{name}",
            )


def _shown(value: object) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)


def _refuse(name: str, message: str) -> NoReturn:
    raise InvalidRequest(message, param=f"x_training.{name}")
