"""Graders: tried on a sample, and looked over."""

import openai
from strict import client, refused

graders = client.fine_tuning.alpha.graders

SAME = {
    "type": "string_check",
    "name": "same",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}
ALIKE = {
    "type": "text_similarity",
    "name": "alike",
    "evaluation_metric": "fuzzy_match",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}
JUDGED = {
    "type": "score_model",
    "name": "judged",
    "model": "fettle-tiny",
    "input": [{"role": "user", "content": "Is '{{sample.output_text}}' right?"}],
    "sampling_params": {"max_completions_tokens": 4},
}


def check() -> None:
    right = graders.run(grader=SAME, model_sample="four", item={"answer": "four"})
    assert right.reward == 1, right
    assert not any(value for name, value in right.metadata.errors.to_dict().items()), right
    wrong = graders.run(grader=SAME, model_sample="five", item={"answer": "four"})
    assert wrong.reward == 0, wrong

    judged = graders.run(grader=JUDGED, model_sample="four", item={})
    assert judged.metadata.errors.api_model_grader_parse_error, "fettle-tiny answered in JSON, in four tokens"
    assert judged.metadata.sampled_model_name == "fettle-tiny", judged

    both = {"type": "multi", "name": "both", "graders": {"a": SAME, "b": ALIKE}, "calculate_output": "(a + b) / 2"}
    mean = graders.run(grader=both, model_sample="four", item={"answer": "four"})
    assert mean.reward == 1, mean
    assert mean.sub_rewards.keys() == {"a", "b"}, mean

    assert graders.validate(grader=SAME).grader.name == "same"
    # the SDK's type of an answered multi grader has one grader where it sends, and the API answers, several by name
    answer = graders.with_raw_response.validate(grader=both).http_response.json()
    assert answer["grader"]["graders"].keys() == {"a", "b"}, answer
    refused(openai.BadRequestError, lambda: graders.validate(grader=both | {"calculate_output": "__import__('os')"}))
