"""How much memory a training run takes at its peak, from the base model's shape: no torch, and nothing is loaded.

What lies in memory all the time and what a forward pass keeps for the backward pass are counted; what the output layer
and the allocator take besides are constants that `benchmarks/memory.py` fits to the trainer's measured peaks on a CPU.
docs/estimates.md has the error.
"""

from dataclasses import dataclass
from typing import Final, Literal

from tuning.contract import MethodName
from tuning.model_shape import ModelShape

Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16"]

TOKENS_PER_MICRO_BATCH: Final[dict[str, int]] = {"cuda": 8192, "cpu": 2048}
"""Padded tokens in one forward pass; a step with more is split, which changes its memory and not its result. A CPU
is fastest while the activations fit its caches and a forward pass is not too short: of 1024, 2048, 4096 and 8192
tokens, 2048 and 4096 took the least time for each step of a 1.8 M parameter model."""

_BYTES: Final[dict[Dtype, int]] = {"float32": 4, "bfloat16": 2}
_ADAPTER_BYTES: Final = 4  # PEFT keeps adapters in float32, whatever the base has
_ADAMW_BYTES: Final = 8  # two moments in float32
_NF4_BYTES: Final = (
    0.5 + 1 / 64 + 4 / (64 * 256)
)  # a scale of a byte for each 64 weights, and one for each 256 of those
_SEQUENCES_A_ROW: Final[dict[MethodName, int]] = {"supervised": 1, "dpo": 2, "orpo": 2, "kto": 2, "reinforcement": 1}
"""That a method's loss needs in one forward pass."""

_HEAD_TILE: Final = (4096, 32_768)
"""TRL scores so many tokens against so many words of the vocabulary at once."""

_LARGEST_IN_HEAP: Final = 32 * 2**20
"""glibc's largest M_MMAP_THRESHOLD."""


@dataclass(frozen=True)
class Constants:
    process: int
    """Bytes of a trainer that has loaded its libraries and taken a step of nearly nothing; on a GPU, of CUDA."""
    head: float
    """Float32 numbers for each token and word of one tile of the output layer."""
    waste: float
    """Freed memory that is not used again, as a share of what a forward pass of all layers keeps: glibc's allocator
    leaves holes between tensors. Nobody knows when it will be better, nor on which machine."""
    waste_checkpointed: float
    """The same share, of what a forward pass would keep without checkpointing."""


CONSTANTS: Final[dict[tuple[Device, Dtype], Constants]] = {
    ("cpu", "float32"): Constants(process=680_000_000, head=7.75, waste=1.02, waste_checkpointed=0.76),
    ("cpu", "bfloat16"): Constants(process=688_000_000, head=7.94, waste=0.27, waste_checkpointed=0.0),
    # Not measured. CUDA takes about 600 MB; TRL's kernel works in one tile; torch's own allocator leaves few holes.
    ("cuda", "float32"): Constants(process=600_000_000, head=1.0, waste=0.1, waste_checkpointed=0.1),
    ("cuda", "bfloat16"): Constants(process=600_000_000, head=0.5, waste=0.1, waste_checkpointed=0.1),
}
"""Those of the CPU are fitted by `make bench-memory`."""

ERROR_PERCENT: Final = 12.4
"""How far the worst of the measured runs was from its prediction, as benchmarks/results/memory.json has it."""


@dataclass(frozen=True)
class Training:
    """What decides about memory."""

    device: Device
    dtype: Dtype
    method: MethodName
    r: int
    target_modules: str | tuple[str, ...]
    lora_dropout: float
    is_quantized: bool
    batch_size: int
    longest_row: int
    """Tokens; for reinforcement with the longest answer."""


@dataclass(frozen=True)
class MemoryParts:
    """Bytes."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    """Of the output layer's tile, while it is worked on."""
    process: int
    """Python, torch and the other libraries; on a GPU, CUDA's own."""

    @property
    def total(self) -> int:
        return sum(vars(self).values())


def predict(shape: ModelShape, training: Training, *, is_checkpointed: bool) -> MemoryParts:
    """Of one trainer at its peak: in the machine's memory on a CPU, in the GPU's on a GPU."""
    constants = CONSTANTS[training.device, training.dtype]
    trainable = shape.lora_parameters(training.r, training.target_modules)
    tokens = micro_batch_tokens(training)
    kept, wasted = activations(shape, training, is_checkpointed=is_checkpointed)
    waste = constants.waste_checkpointed if is_checkpointed else constants.waste
    return MemoryParts(
        weights=_weights(shape, training),
        adapter=trainable * _ADAPTER_BYTES,
        gradients=trainable * _ADAPTER_BYTES,
        optimizer=trainable * _ADAMW_BYTES,
        activations=round(kept + waste * wasted),
        head=round(constants.head * head_tile(shape, tokens)),
        process=constants.process,
    )


def micro_batch_tokens(training: Training) -> int:
    """The most that a forward pass gets: full rows of the longest one's length, a whole row at least."""
    sequences = _SEQUENCES_A_ROW[training.method]
    fitting = max(sequences, TOKENS_PER_MICRO_BATCH[training.device] // max(1, training.longest_row))
    return training.longest_row * min(fitting, training.batch_size * sequences)


def error_percent(training: Training) -> float | None:
    """None: nobody has measured such runs."""
    is_measured = training.device == "cpu" and training.method == "supervised" and not training.is_quantized
    return ERROR_PERCENT if is_measured else None


def _weights(shape: ModelShape, training: Training) -> int:
    size = _BYTES[training.dtype]
    if not training.is_quantized:
        return shape.parameters * size
    quantized = sum(layer.inputs * layer.outputs for layer in shape.linear_layers)
    return round(quantized * _NF4_BYTES + (shape.parameters - quantized) * size)


def head_tile(shape: ModelShape, tokens: int) -> int:
    """Bytes of one tile of the output layer in float32."""
    return 4 * min(tokens, _HEAD_TILE[0]) * min(shape.vocabulary, _HEAD_TILE[1])


def activations(shape: ModelShape, training: Training, *, is_checkpointed: bool) -> tuple[int, int]:
    """Bytes that a forward pass keeps for the backward pass, and bytes that the allocator may waste a share of."""
    token_bytes = _BYTES[training.dtype] * micro_batch_tokens(training)
    layer = _kept_in_layer(shape, training) + _kept_by_dropout(shape, training)
    # With checkpointing each layer keeps its input alone, and one layer at a time is computed again.
    kept = shape.layers * shape.hidden_size + layer if is_checkpointed else shape.layers * layer
    # What is too large for its heap, glibc gives back to the system as soon as it is freed.
    largest = 4 * shape.intermediate_size if token_bytes * shape.intermediate_size > _LARGEST_IN_HEAP else 0
    return token_bytes * kept, token_bytes * shape.layers * (_kept_in_layer(shape, training) - largest)


def _kept_in_layer(shape: ModelShape, training: Training) -> int:
    """Numbers for each token: found by counting what autograd saves in a layer of Llama, Qwen3 and Phi3."""
    hidden, query, key_value = shape.hidden_size, shape.query_size, shape.key_value_size
    targets = list(shape.targets(training.target_modules))
    between = 4 * hidden  # with float32, two norms and two sums; with bfloat16, the inputs of the norms in float32
    if training.dtype == "bfloat16":
        inputs = sum(layer.inputs for layer in targets) // shape.layers  # each adapter has a copy of its own
    else:
        inputs = query + shape.intermediate_size  # those that are inputs of something else are counted already
    attention = query + 2 * key_value + (0 if training.dtype == "float32" else query)
    fused = query + 2 * key_value if shape.has_fused_attention else 0  # parts of it are kept, and so it is whole
    ranks = training.r * len(targets) // shape.layers
    return between + inputs + attention + fused + 3 * shape.intermediate_size + ranks


def _kept_by_dropout(shape: ModelShape, training: Training) -> int:
    """The noise, and what it leaves of the input, in front of each adapter."""
    if not training.lora_dropout:
        return 0
    return 2 * sum(layer.inputs for layer in shape.targets(training.target_modules)) // shape.layers
