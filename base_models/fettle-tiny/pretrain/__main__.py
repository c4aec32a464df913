"""Makes fettle-tiny from nothing: `python base_models/fettle-tiny/pretrain --steps 1400`."""

import argparse
import itertools
import os
import re
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # set before transformers is imported: nothing here is fetched from anywhere
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads are slow when cores are shared

import torch
from corpus import copy_rows, mixed_rows
from make_tokenizer import SPECIAL_TOKENS, TAGS, train_tokenizer
from train_model import Limits, make_batches, new_model, train_model
from transformers.utils.chat_template_utils import render_jinja_template

MODEL_FOLDER = Path(__file__).resolve().parent.parent
COPY_STEPS = 600  # copying first: it appears suddenly, and on short rows it costs a fifth of the time
TOKENIZER_ROWS = 6000
TOKENIZER_SEED, TRAINING_SEED, WEIGHTS_SEED = 1, 2, 3


def main() -> None:
    options = _read_options()
    chat_template = (MODEL_FOLDER / "chat_template.jinja").read_text(encoding="utf-8")
    started = time.monotonic()
    tokenizer = train_tokenizer(_tokenizer_texts(chat_template), chat_template)
    print(f"tokenizer: {len(tokenizer)} entries  {time.monotonic() - started:.0f} s", flush=True)

    torch.manual_seed(WEIGHTS_SEED)
    model = new_model(tokenizer)
    print(f"model: {model.num_parameters():,} parameters", flush=True)
    limits = Limits(steps=options.steps, seconds=options.minutes * 60)
    copying, mixed = (make_batches(tokenizer, rows(TRAINING_SEED)) for rows in (copy_rows, mixed_rows))
    steps = train_model(model, itertools.chain(itertools.islice(copying, COPY_STEPS), mixed), limits)

    options.output.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(options.output)
    model.save_pretrained(options.output)
    print(f"saved to {options.output} after {steps} steps, {time.monotonic() - started:.0f} s in all")


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1400, help="the same steps give nearly the same model")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop earlier if this much time has passed")
    parser.add_argument("--output", type=Path, default=MODEL_FOLDER)
    return parser.parse_args()


def _tokenizer_texts(chat_template: str) -> list[str]:
    """Rendered rows without the tokens that are whole from the start."""
    whole = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS + TAGS))
    sample = list(itertools.islice(mixed_rows(TOKENIZER_SEED), TOKENIZER_ROWS))
    texts = [_render(row, chat_template) for row in sample]
    return [piece for text in texts for piece in whole.split(text) if piece]


def _render(row: dict, chat_template: str) -> str:
    rendered, _ = render_jinja_template([row["messages"]], tools=row.get("tools"), chat_template=chat_template)
    return rendered[0]


if __name__ == "__main__":
    main()
