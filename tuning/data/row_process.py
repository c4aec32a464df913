"""`python -m tuning.data.row_process`: what `row_processes` starts. A renderer first, then blocks, one at a time."""

import os
import pickle
import signal
import sys

from tuning.data.blocks import BlockRenderer, RenderedBlock
from tuning.data.rendering import RenderingError


def main() -> None:
    # The process that asks is told to stop, and decides; a signal to its whole group must not look like a crash.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    questions = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    renderer: BlockRenderer = pickle.load(questions)
    while True:
        try:
            block = pickle.load(questions)
            pickle.dump(_render(renderer, block), answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()
        except (EOFError, BrokenPipeError):
            os._exit(0)  # nobody asks any more


def _render(renderer: BlockRenderer, block: object) -> RenderedBlock | RenderingError:
    try:
        return renderer.render(block)  # type: ignore[arg-type]
    except RenderingError as error:
        return error


if __name__ == "__main__":
    main()
