"""The training runs whose memory is measured: small shapes of the families that people tune."""

from dataclasses import dataclass
from typing import Any

from tuning.memory import Dtype, Training


@dataclass(frozen=True)
class Shape:
    name: str
    family: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    is_tied: bool = True

    @property
    def config(self) -> dict[str, Any]:
        return {
            "model_type": self.family,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.hidden // self.heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": self.is_tied,
            "bos_token_id": None,
            "eos_token_id": 2,
            "pad_token_id": 0,
        }


TINY = Shape("2M", "llama", 192, 512, 4, 6, 2, 1024)
LONG = Shape("15M", "llama", 256, 704, 12, 8, 4, 16_384)
SMALL = Shape("30M", "llama", 512, 1536, 8, 8, 8, 8192)
WORDY = Shape("40M", "qwen3", 384, 1024, 6, 6, 2, 65_536)
PHI = Shape("60M", "phi3", 640, 2048, 10, 10, 10, 16_384, is_tied=False)
DEEP = Shape("100M", "qwen3", 768, 2304, 16, 12, 4, 8192)
WIDE = Shape("150M", "llama", 1024, 4096, 8, 16, 8, 32_768, is_tied=False)


@dataclass(frozen=True)
class Run:
    shape: Shape
    longest_row: int
    rows_per_step: int
    dtype: Dtype = "float32"
    r: int = 16
    dropout: float = 0.0
    is_checkpointed: bool = False
    is_fitted: bool = True
    """Whether constants are fitted to it."""

    @property
    def name(self) -> str:
        words = [self.shape.name, self.shape.family, self.dtype, f"{self.rows_per_step}x{self.longest_row}"]
        words += [f"r={self.r}"] if self.r != 16 else []
        words += ["dropout"] if self.dropout else []
        words += ["checkpointing"] if self.is_checkpointed else []
        return " ".join(words)

    @property
    def training(self) -> Training:
        return Training(
            device="cpu",
            dtype=self.dtype,
            method="supervised",
            r=self.r,
            target_modules="all-linear",
            lora_dropout=self.dropout,
            is_quantized=False,
            batch_size=self.rows_per_step,
            longest_row=self.longest_row,
        )


RUNS = (
    Run(TINY, 256, 8),
    Run(TINY, 1024, 2, is_fitted=False),
    Run(LONG, 512, 4),
    Run(LONG, 512, 4, is_checkpointed=True),
    Run(LONG, 4096, 1),
    Run(SMALL, 512, 4),
    Run(SMALL, 512, 4, dropout=0.1, is_fitted=False),
    Run(SMALL, 256, 2),
    Run(WORDY, 512, 4),
    Run(WORDY, 512, 4, is_checkpointed=True, is_fitted=False),
    Run(PHI, 512, 4, is_fitted=False),
    Run(DEEP, 512, 2),
    Run(DEEP, 512, 2, is_checkpointed=True),
    Run(DEEP, 512, 1, r=64, is_fitted=False),
    Run(WIDE, 512, 2),
    Run(TINY, 256, 8, dtype="bfloat16"),
    Run(LONG, 512, 2, dtype="bfloat16"),
    Run(LONG, 512, 2, dtype="bfloat16", is_checkpointed=True),
    Run(SMALL, 256, 2, dtype="bfloat16"),
    Run(WORDY, 256, 2, dtype="bfloat16", is_checkpointed=True),
    Run(PHI, 256, 2, dtype="bfloat16", is_fitted=False),
)
