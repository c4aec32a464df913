"""How alike two texts are, measured with the usual libraries, always from 0 to 1.

Apart from `text_similarity.py` because they take a third of a second to import, and seconds for long texts: the service
measures in a process of its own.
"""

import re
from collections.abc import Sequence

from nltk.translate.gleu_score import sentence_gleu
from nltk.translate.meteor_score import meteor_score
from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq
from rapidfuzz.utils import default_process
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sacrebleu.metrics.bleu import BLEU

_WORD = re.compile(r"\w+|[^\w\s]")


class _NoSynonyms:
    """Stands in for WordNet, which has to be downloaded: METEOR then matches words and their stems only."""

    def synsets(self, word: str) -> Sequence[object]:
        return ()


def measure_similarity(metric: str, text: str, reference: str) -> float:
    """`metric` by OpenAI's name, any but `cosine`. Time grows with the length, for `fuzzy_match` with its square."""
    if metric == "fuzzy_match":
        return fuzz.WRatio(text, reference, processor=default_process) / 100
    if metric == "bleu":
        # effective_order: a text of three words has no 4-grams, and is no worse for that
        return min(1.0, BLEU(effective_order=True).sentence_score(text, [reference]).score / 100)
    if metric == "gleu":
        return float(sentence_gleu([_words(reference)], _words(text)))
    if metric == "meteor":
        return float(meteor_score([_words(reference)], _words(text), wordnet=_NoSynonyms()))
    if metric == "rouge_l":
        return _rouge_l(text, reference)
    if metric.startswith("rouge_"):
        name = metric.replace("_", "")
        return float(RougeScorer([name]).score(reference, text)[name].fmeasure)
    raise ValueError(f"no metric {metric!r}")


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _rouge_l(text: str, reference: str) -> float:
    """As RougeScorer(["rougeL"]), whose table of all pairs of words would take gigabytes for long texts."""
    tokenizer = DefaultTokenizer()
    words, reference_words = tokenizer.tokenize(text), tokenizer.tokenize(reference)
    if not words or not reference_words:
        return 0.0
    common = LCSseq.similarity(words, reference_words)
    return 2 * common / (len(words) + len(reference_words))
