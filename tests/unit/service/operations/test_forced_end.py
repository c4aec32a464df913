"""A service that is told to stop ends, whatever hangs in it, and says what that was."""

import subprocess
import sys

import pytest

_SERVICE = """
import asyncio, os, signal, socket, threading
from contextlib import asynccontextmanager
from datetime import timedelta
from fastapi import FastAPI
from service.operations import server
from service.operations.endpoints import Operations
from service.operations.health import Health
from service.operations.metrics import Metrics
from service.settings import Settings

async def hanging_task(): await asyncio.Event().wait()
async def hanging_loop(): threading.Event().wait()
async def hanging_thread(): asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)

@asynccontextmanager
async def lifespan(app):
    health.start({{}})
    asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
    yield
    await {end}()

health = Health()
app = FastAPI(lifespan=lifespan)
app.state.operations = Operations(health, Metrics("all"))
server.ENDING_SECONDS = 2
server.run(app, Settings(stop_grace=timedelta(0)), {listener}, None)
"""


@pytest.mark.parametrize("listener", ["None", "socket.create_server(('127.0.0.1', 0))"])
@pytest.mark.parametrize(
    ("end", "words"),
    [("hanging_task", "has not ended"), ("hanging_loop", "in hanging_loop"), ("hanging_thread", "Thread 0x")],
)
def test_what_hangs_does_not_keep_the_process(end: str, words: str, listener: str) -> None:
    script = _SERVICE.format(end=end, listener=listener)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1, ended.stderr
    assert words in ended.stderr
