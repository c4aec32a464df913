"""Writes train.jsonl, validation.jsonl and held_out.jsonl from the docstrings of the running Python's standard library.

Each row asks which module a text documents. The text is as its authors left it: with code, tables, odd characters,
and now and then longer than a model's context. Modules are parsed, never imported.
"""

import argparse
import ast
import json
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 11
VALIDATION_SHARE, HELD_OUT_ROWS = 0.05, 100
SHORTEST_DOCSTRING = 20  # characters: below it ("See above.") no one could tell the module
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"}
DIGEST_EVERY = 40  # one row in forty is a whole page of documentation, several times the length of the others
DIGEST_ENTRIES = 25

QUESTIONS = [
    "Which module of the Python standard library is this from?\n\n{text}",
    "{text}\n\nName the module.",
    "Module for: {text}",
]

Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    module: str
    name: str
    docstring: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent)
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name, rows in make_rows(Path(sysconfig.get_paths()["stdlib"])).items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (output / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}.jsonl: {len(rows)} rows")


def make_rows(library: Path) -> dict[str, list[Row]]:
    rng = random.Random(SEED)
    entries = list({entry.docstring: entry for entry in _read_library(library)}.values())
    rng.shuffle(entries)
    validation_rows = int(len(entries) * VALIDATION_SHARE)
    held_out, validation = entries[:HELD_OUT_ROWS], entries[HELD_OUT_ROWS : HELD_OUT_ROWS + validation_rows]
    train = entries[HELD_OUT_ROWS + validation_rows :]
    rows = [_row(rng, entry.docstring, entry.module) for entry in train] + _digest_rows(rng, train)
    rng.shuffle(rows)
    return {
        "train": rows,
        "validation": [_row(rng, entry.docstring, entry.module) for entry in validation],
        "held_out": [_row(rng, entry.docstring, entry.module) for entry in held_out],
    }


def _read_library(library: Path) -> Iterator[Entry]:
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if SKIPPED_FOLDERS.isdisjoint(parts[:-1]):
            yield from _read_module(path, _module_name(parts))


def _module_name(parts: tuple[str, ...]) -> str:
    names = [*parts[:-1], parts[-1].removesuffix(".py")]
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def _read_module(path: Path, module: str) -> Iterator[Entry]:
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError):  # templates and samples that are not meant to be compiled
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=True)
            if docstring and len(docstring) >= SHORTEST_DOCSTRING:
                yield Entry(module, getattr(node, "name", module), docstring)


def _digest_rows(rng: random.Random, entries: list[Entry]) -> list[Row]:
    """Rows of many docstrings of one module: most are longer than 1,024 tokens, and stay that long on purpose."""
    by_module: dict[str, list[Entry]] = {}
    for entry in entries:
        by_module.setdefault(entry.module, []).append(entry)
    documented = [module for module, group in by_module.items() if len(group) >= DIGEST_ENTRIES // 3]
    rows = []
    for _ in range(len(entries) // DIGEST_EVERY):
        module = rng.choice(documented)
        group = rng.sample(by_module[module], k=min(DIGEST_ENTRIES, len(by_module[module])))
        page = "\n\n".join(f"{entry.name}\n{'-' * len(entry.name)}\n{entry.docstring}" for entry in group)
        rows.append(_row(rng, page, module))
    return rows


def _row(rng: random.Random, text: str, module: str) -> Row:
    question = rng.choice(QUESTIONS).format(text=text)
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": module}]}


if __name__ == "__main__":
    main()
