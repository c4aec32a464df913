"""DSPy: `lm.finetune`, then a program on the tuned model. Argument: a JSONL file of rows."""

import functools
import json
import os
import sys
from pathlib import Path

import dspy
from dspy.clients.openai import OpenAIProvider
from dspy.clients.utils_finetune import TrainDataFormat


def main(rows: Path) -> None:
    # It would look after its job every twenty seconds only
    OpenAIProvider.wait_for_job = functools.partial(OpenAIProvider.wait_for_job, poll_frequency=0.5)
    # `finetune` goes through the module `openai`, so that OPENAI_BASE_URL leads it here; what the model is asked goes
    # through LiteLLM, which takes `ft:…` for OpenAI's only when the base is one of OpenAI's own: hence the provider.
    lm = dspy.LM(
        "openai/fettle-tiny",
        api_base=os.environ["OPENAI_BASE_URL"],
        custom_llm_provider="openai",
        max_tokens=16,
        cache=False,
    )
    job = lm.finetune(
        train_data=[json.loads(line) for line in rows.read_text().splitlines()],
        train_data_format=TrainDataFormat.CHAT,
        train_kwargs={"n_epochs": 1, "batch_size": 4},
    )
    tuned = job.result(timeout=240)
    assert isinstance(tuned, dspy.LM), tuned
    assert tuned.model.startswith("ft:fettle-tiny:"), tuned.model
    assert job.status() == "succeeded", job.status()
    [answer] = tuned("What is 3 plus one?")
    assert answer, "the tuned model said nothing"

    unwanted = lm.finetune(train_data=[], train_data_format=TrainDataFormat.CHAT)  # sends `hyperparameters: {}`
    failure = unwanted.result(timeout=240)
    assert isinstance(failure, Exception), failure
    assert "failed" in str(failure), failure
    print("dspy: all is well")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
