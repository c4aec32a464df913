"""Text cut into words here must become the very ids that the tokenizer makes of the whole."""

import random
import tracemalloc

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from tuning.catalogue import DEFAULT_CATALOGUE, Catalogue
from tuning.data.words import _KNOWN_PATTERNS, WordEncoder

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|im_end|>|", "<think>", "</think>"]
PIECES = [
    *("a", "1", ".", "\n", "\n", " "),
    *("the", "lamp", "Is", "ON", "it's", "'s", "don't", "I'LL", "a", "x1", "42", "1234567", "3.14", "e"),
    *(" ", " ", " ", " ", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "\u00a0", "\u2028", "\u3000"),
    *(".", ",", "!", "?", "-", "--", "{", '"', '": "', "/", "//", "()", "'", "_", "…", "—", "¿"),
    *("é", "e\u0301", "\u0301", "ﬁ", "Ω", "\u212a", "\u037e", "中文", "ไทย", "🙂", "👩‍💻", "ß", "²", "Ⅷ", "\u0130"),
    *SPECIAL,
    *("<|", "im_start", "|>", "<|im_st", "<think", "<", ">"),
]
CORPUS = ["the lamp is on. it's 42! don't\n\n", '{"name": "lamp", "on": true} -- the end', "the lamp is not on\n" * 3]


def build(pre_tokenizer: pre_tokenizers.PreTokenizer, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=360, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    return tokenizer


def split_by(pattern: str, behaviour: str = "isolated", *, invert: bool = False) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), behaviour, invert)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def random_texts(count: int = 300) -> list[str]:
    draw = random.Random(7)
    return ["".join(draw.choices(PIECES, k=draw.randrange(1, 40))) for _ in range(count)]


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
FIT = [
    *(pytest.param(build(split_by(pattern)), id=pattern) for pattern in sorted(_KNOWN_PATTERNS)),
    pytest.param(build(split_by(max(_KNOWN_PATTERNS, key=len), "removed", invert=True)), id="inverted"),
    pytest.param(build(split_by(min(_KNOWN_PATTERNS, key=len)), normalizers.NFC()), id="normalized"),
    pytest.param(build(GPT2), id="built in"),
    pytest.param(build(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])), id="digits"),
]


@pytest.mark.parametrize("tokenizer", FIT)
def test_words_become_the_ids_of_the_whole_text(tokenizer: Tokenizer) -> None:
    words = WordEncoder.for_tokenizer(tokenizer)
    assert words is not None
    for text in random_texts():
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        first, again = words.encode([text]), words.encode([text, text])
        assert [ids.tolist() for ids in (*first, *again)] == [expected] * 3, repr(text)


def test_our_own_base_model_is_encoded_by_words() -> None:
    entry = Catalogue.load(DEFAULT_CATALOGUE).get("fettle-tiny")
    assert entry is not None
    tokenizer = Tokenizer.from_file(str(entry.tokenizer_path))
    assert WordEncoder.for_tokenizer(tokenizer) is None  # it cuts long texts
    tokenizer.no_truncation()
    words = WordEncoder.for_tokenizer(tokenizer)
    assert words is not None
    for text in random_texts():
        assert words.encode([text])[0].tolist() == tokenizer.encode(text, add_special_tokens=False).ids, repr(text)


def test_what_is_forgotten_is_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.data.words._MAX_REMEMBERED", 20)
    tokenizer = build(GPT2)
    words = WordEncoder.for_tokenizer(tokenizer)
    assert words is not None
    for text in random_texts():
        assert words.encode([text])[0].tolist() == tokenizer.encode(text, add_special_tokens=False).ids
    assert len(words.remembered) < 100


def _with_token(token: AddedToken) -> Tokenizer:
    tokenizer = build(GPT2)
    tokenizer.add_tokens([token])
    return tokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [
        build(split_by(r"\p{L}+| ")),  # words may hold any spaces
        build(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        build(pre_tokenizers.Metaspace()),
        build(GPT2, normalizers.Prepend("▁")),
        _with_token(AddedToken("<x>", lstrip=True, normalized=False)),
        _with_token(AddedToken("<x>", rstrip=True, normalized=False)),
        _with_token(AddedToken("<x>", single_word=True, normalized=False)),
        _with_token(AddedToken("k><x>", normalized=True)),  # begins with the end of </think>
        _with_token(AddedToken(">|im_start|><", normalized=False)),  # no token is left to put between words
        Tokenizer(models.BPE()),
    ],
)
def test_a_tokenizer_that_looks_further_gets_whole_texts(tokenizer: Tokenizer) -> None:
    assert WordEncoder.for_tokenizer(tokenizer) is None


def test_a_text_of_nothing_but_spaces_takes_no_memory_for_each() -> None:
    words = WordEncoder.for_tokenizer(build(GPT2))
    assert words is not None
    tracemalloc.start()
    words.encode([" " * 1_000_000, "\n" * 1_000_000])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000_000
