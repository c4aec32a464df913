"""The metrics of text_similarity: the libraries' own numbers, from 0 to 1, whatever the texts."""

import pytest
from rouge_score.rouge_scorer import RougeScorer

from tuning.graders.similarity_metrics import measure_similarity

METRICS = ["fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"]

ANSWER, REFERENCE = "fuzzy wuzzy had no hair", "fuzzy wuzzy was a bear"


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("fuzzy_match", 0.7556),  # rapidfuzz.fuzz.WRatio, of OpenAI's own example
        ("gleu", 3 / 14),  # of 5+4+3+2 n-grams three are common: two words and their pair
        ("meteor", 0.375),  # 2 of 5 words, in one chunk: 0.4 · (1 - 0.5 · (1/2)³)
        ("rouge_1", 0.4),
        ("rouge_2", 0.25),
        ("rouge_3", 0.0),
        ("rouge_l", 0.4),
    ],
)
def test_a_known_pair_has_its_known_similarity(metric: str, expected: float) -> None:
    assert measure_similarity(metric, ANSWER, REFERENCE) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_equal_texts_are_more_alike_than_others(metric: str) -> None:
    text = "The lamp in the kitchen is on, and so is the heating."
    other = "The lamp in the kitchen is off, and so is the radio."
    same, close, far = (measure_similarity(metric, text, each) for each in (text, other, "Nothing of the sort"))
    assert same == pytest.approx(1.0, abs=1e-3)  # METEOR takes a ten-thousandth off for one chunk
    assert same > close > far


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("text", "reference"),
    [("", ""), ("", "a"), ("a", ""), (" \n", "."), ("日本語", "日本語です"), ("😀" * 50, "a" * 5000)],
)
def test_odd_texts_stay_between_0_and_1(metric: str, text: str, reference: str) -> None:
    assert 0 <= measure_similarity(metric, text, reference) <= 1


def test_meteor_knows_stems_and_needs_no_word_list() -> None:
    assert measure_similarity("meteor", "he walks", "he walked") > measure_similarity("meteor", "he runs", "he walked")


@pytest.mark.parametrize("text", ["a b c d e f", "d e a b c", "x a y b z", "nothing here", ""])
def test_rouge_l_is_what_rouge_score_computes(text: str) -> None:
    expected = RougeScorer(["rougeL"]).score("a b c d e f", text)["rougeL"].fmeasure
    assert measure_similarity("rouge_l", text, "a b c d e f") == pytest.approx(expected)
