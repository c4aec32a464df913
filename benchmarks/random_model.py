"""`python -m benchmarks.random_model`: writes models with random weights, as the JSON on standard input asks for.

A process of its own, so that whoever measures trainers keeps torch out of its own memory.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM


def main() -> None:
    torch.manual_seed(0)
    for asked in json.load(sys.stdin):
        config = AutoConfig.for_model(**asked["config"])
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, asked["dtype"]))
        model.save_pretrained(Path(asked["folder"]))


if __name__ == "__main__":
    main()
