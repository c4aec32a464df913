"""torch's random numbers, so that what failed halfway can be done again with the same ones."""

import torch

RandomState = tuple[torch.Tensor, torch.Tensor | None]
"""Of the CPU, and of the GPU where there is one."""


def random_state() -> RandomState:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def set_random_state(state: RandomState) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
