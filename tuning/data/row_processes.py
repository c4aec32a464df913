"""Rows of a large file are rendered in processes of their own, one for each core; small files by the process itself.

Threads would not do: half of the work is Python. A process is `row_process.py`, asked by pickles on its standard input.
It ends when that is closed, so it cannot outlive whoever started it, even one that is killed. Blocks go out only as
fast as answers are taken, and answers come in the file's order.
"""

import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from queue import SimpleQueue

from tuning.data.blocks import BlockRenderer, RenderedBlock
from tuning.data.lines import Block, join_blocks
from tuning.data.process_slots import taken_slots
from tuning.data.rendering import RenderingError

OWN_BYTES = 4 * 1024 * 1024
"""The beginning of a file is rendered here: starting processes takes as long, and they get the words that it has."""
BLOCK_BYTES = 256 * 1024

_FOLDER = Path(__file__).parents[2]


class RowProcessDied(Exception):
    """Killed, out of memory, or a bug; what it printed is on standard error."""


def render_blocks(blocks: Iterator[Block], renderer: BlockRenderer) -> Iterator[RenderedBlock]:
    """In the order of the blocks. Raises RenderingError, RowProcessDied."""
    done = 0
    for block in blocks:
        done += len(block.content)
        yield renderer.render(block)
        if done >= OWN_BYTES:
            break
    if (first := next(blocks, None)) is None:
        return
    rest = chain([first], blocks)
    with taken_slots() as count:
        if count > 1:
            yield from _render_in_processes(rest, renderer, count)
            return
    yield from map(renderer.render, rest)


def _render_in_processes(blocks: Iterator[Block], renderer: BlockRenderer, count: int) -> Iterator[RenderedBlock]:
    processes = [_start() for _ in range(count)]
    idle: SimpleQueue[_Process] = SimpleQueue()
    threads = ThreadPoolExecutor(count, thread_name_prefix="rows")

    def ask(block: Block) -> RenderedBlock:
        process = idle.get()
        try:
            return _ask(process, block)
        finally:
            idle.put(process)  # a dead one too: whoever waits for it must hear of that

    try:
        for process in processes:
            _send(process, renderer)
            idle.put(process)
        answers: deque[Future[RenderedBlock]] = deque()
        for block in join_blocks(blocks, BLOCK_BYTES):
            answers.append(threads.submit(ask, block))
            if len(answers) > 2 * count:
                yield answers.popleft().result()
        while answers:
            yield answers.popleft().result()
    finally:
        for process in processes:
            process.kill()
        threads.shutdown(cancel_futures=True)
        for process in processes:
            process.communicate()


_Process = subprocess.Popen[bytes]


def _start() -> _Process:
    return subprocess.Popen(
        [sys.executable, "-m", "tuning.data.row_process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_FOLDER
    )


def _ask(process: _Process, block: Block) -> RenderedBlock:
    assert process.stdout is not None
    _send(process, block)
    try:
        answer: RenderedBlock | RenderingError = pickle.load(process.stdout)
    except (EOFError, pickle.UnpicklingError) as error:
        raise _died(process) from error
    if isinstance(answer, RenderingError):
        raise answer
    return answer


def _send(process: _Process, message: Block | BlockRenderer) -> None:
    assert process.stdin is not None
    try:
        pickle.dump(message, process.stdin, pickle.HIGHEST_PROTOCOL)
        process.stdin.flush()
    except BrokenPipeError as error:
        raise _died(process) from error


def _died(process: _Process) -> RowProcessDied:
    process.kill()  # one that is gone already keeps its exit code
    return RowProcessDied(f"a process that renders rows ended with {process.wait()}")
