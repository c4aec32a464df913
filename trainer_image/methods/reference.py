"""The model as it was before the first step, which some methods compare the trained one with."""

from collections.abc import Iterator
from contextlib import contextmanager

from peft import PeftModel


class Reference:
    """Made before the first step, and before a state is loaded: of a run that goes on it is the same again.

    A new adapter changes nothing before its first step, so that the base alone is the reference. One that training goes
    on from is kept as it was; that costs its size once more.
    """

    def __init__(self, model: PeftModel, *, is_new_adapter: bool) -> None:
        self._model = model
        trained = (weight for weight in model.parameters() if weight.requires_grad)
        self._weights = [] if is_new_adapter else list(trained)
        self._others = [weight.detach().clone() for weight in self._weights]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Meanwhile the model is the reference."""
        if not self._weights:
            with self._model.disable_adapter():
                yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for number, weight in enumerate(self._weights):
            weight.data, self._others[number] = self._others[number], weight.data
