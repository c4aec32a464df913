import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from tests.fixtures.chat_tokenizers import build_space_adding_tokenizer, build_tokenizer
from tuning.data import encoding
from tuning.data.encoding import TextEncoder

TINY = Path(__file__).parents[4] / "base_models/fettle-tiny/tokenizer.json"
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|im_end|>!", "<|")
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEXTS = ("<tool_call>", "</tool_call>", "system\n", "assistant\n", "user", "lamp", "The lamp", "I'm", '"name": ')
_SPACES = (" ", "  ", "   \n", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "\u200b")
_PIECES = ("<|im_", "|>", "<", ">", "|", "'s", "'S", "12", "3", " 4 5", "a", " b", "B", "{", "}", "()", " (", "/", "-")
_MARKS = ("ä", "a\u0308", "\u0301", "e\u0301", "中文", "\U0001f600", "\U0001f468\u200d\U0001f469")
FRAGMENTS = (*SPECIAL, *_TEXTS, *_SPACES, *_PIECES, *_MARKS)


def byte_level(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(build_tokenizer(folder, SPECIAL)))


def as_qwen(_: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([" ".join(FRAGMENTS), 'The lamp\n\n  is on. {"name": "lamp"}'] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False)])
    return tokenizer


def with_normalized_tokens(folder: Path) -> Tokenizer:
    tokenizer = as_qwen(folder)
    tokenizer.add_tokens([AddedToken(" lamp", normalized=True), AddedToken("ä", normalized=True, lstrip=True)])
    return tokenizer


def as_phi(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(build_space_adding_tokenizer(folder, SPECIAL)))


def with_a_mark_at_the_beginning(_: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator([" ".join(FRAGMENTS)] * 3, trainer)
    return tokenizer


def with_a_space_before_every_part(folder: Path) -> Tokenizer:
    tokenizer = byte_level(folder)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def fettle_tiny(_: Path) -> Tokenizer:
    return Tokenizer.from_file(str(TINY))


@pytest.mark.parametrize(
    "build",
    [
        byte_level,
        as_qwen,
        with_normalized_tokens,
        as_phi,
        with_a_mark_at_the_beginning,
        with_a_space_before_every_part,
        fettle_tiny,
    ],
)
@pytest.mark.parametrize("remembered_characters", [encoding.MAX_REMEMBERED_CHARACTERS, 50])
def test_ids_are_those_of_the_whole_text(
    build: Callable[[Path], Tokenizer], remembered_characters: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "MAX_REMEMBERED_CHARACTERS", remembered_characters)
    tokenizer = build(tmp_path)
    tokenizer.no_truncation()
    encoder = TextEncoder(tokenizer)
    draw = random.Random(0)
    for _ in range(1500):
        texts = ["".join(draw.choices(FRAGMENTS, k=draw.randrange(14))) for _ in range(draw.randrange(1, 4))]
        expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        assert [ids.tolist() for ids in encoder.encode_each(texts)] == expected, texts


def test_what_was_answered_may_be_changed(tmp_path: Path) -> None:
    encoder = TextEncoder(byte_level(tmp_path))
    first = encoder.encode("user<|im_end|>lamp")
    expected = first.tolist()
    first.extend(first)
    assert encoder.encode("user<|im_end|>lamp").tolist() == expected
    plain = encoder.encode("user")
    plain.append(0)
    assert encoder.encode("user").tolist() == plain.tolist()[:-1]
