"""Installs Fettle into `.venv` from the lock that fits this machine; run by `make install`, with any Python 3.

    cpu.txt       Linux on x86-64 or aarch64 without an NVIDIA GPU: the community CPU build of vLLM
    cuda.txt      Linux with an NVIDIA GPU: the official vLLM and its CUDA torch
    portable.txt  everything else, and where a wheel of the CPU build is missing: everything but serving

Locks are complete, so pip installs them with --no-deps and resolves nothing. A stamp in the environment makes a second
run a matter of milliseconds. FETTLE_TORCH_INDEX_URL is where the CPU build of torch is looked for when pip's own
indexes do not have it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
LOCKS = PROJECT / "requirements"
VENV = PROJECT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "fettle-install"
LOG = VENV / "fettle-install.log"

TORCH_INDEX_URL = os.environ.get("FETTLE_TORCH_INDEX_URL", "https://download.pytorch.org/whl/cpu")
OLDEST, NEWEST = (3, 11), (3, 14)
MISSING_WHEEL = "No matching distribution found"


def main() -> None:
    parser = argparse.ArgumentParser(description="Install Fettle into .venv.")
    parser.add_argument("--python", default="", help="interpreter to build .venv with (default: a fitting one in PATH)")
    parser.add_argument("--lock", choices=("cpu", "cuda", "portable"), help="instead of the one that fits this machine")
    arguments = parser.parse_args()
    lock = arguments.lock or lock_for_this_machine()
    if STAMP.is_file() and STAMP.read_text(encoding="utf-8") == stamp_of(lock):
        return
    started = time.monotonic()
    if venv_version() is None:
        interpreter = find_python(arguments.python)
        with Stage(f"creating .venv with {interpreter}"):
            create_venv(interpreter)
    LOG.write_text("", encoding="utf-8")
    missing = install(lock)
    STAMP.write_text(stamp_of(lock), encoding="utf-8")
    print(f"Installed in {time.monotonic() - started:.0f} s; pip's own words are in {LOG.relative_to(PROJECT)}.")
    if missing:
        print(
            f"vLLM cannot be had for {platform.system()} {platform.machine()} with Python {venv_version()}: {missing}."
        )
        print("Everything but serving works: models can be trained, not asked.")


def install(lock: str) -> str | None:
    """Returns why vLLM is missing, where it is."""
    if lock == "cuda":
        with Stage("vLLM, CUDA torch and the rest (several GB)"):
            run_pip("-r", lock_path(lock)).check()
        missing = None
    else:
        install_cpu_torch(lock)
        missing = "no build of it is published" if lock == "portable" else install_with_vllm()
        if missing:
            with Stage("trainer and service"):
                run_pip("-r", lock_path("portable")).check()
    with Stage("fettle"):
        # setuptools came with the lock, so building needs no network
        run_pip("--no-build-isolation", "--editable", str(PROJECT)).check()
    return missing


def install_with_vllm() -> str | None:
    """Returns pip's sentence where a wheel does not exist for this platform; any other failure ends the install."""
    with Stage("vLLM, trainer and service") as stage:
        result = run_pip("-r", lock_path("cpu"))
        if MISSING_WHEEL not in result.output:
            result.check()
            return None
        stage.note("not to be had")
    return next(line for line in result.output.splitlines() if MISSING_WHEEL in line).removeprefix("ERROR: ")


def install_cpu_torch(lock: str) -> None:
    """First from the indexes that pip is configured with; nothing waits for an index that they make unnecessary."""
    if sys.platform != "linux":
        return  # PyPI's torch for other systems is the CPU build; it comes with the lock
    version = next(
        line.split()[0]
        for line in (LOCKS / f"{lock}.txt").read_text(encoding="utf-8").splitlines()
        if line.startswith("torch==") and "+cpu" in line
    )
    with Stage(version) as stage:
        result = run_pip(version)
        if MISSING_WHEEL in result.output:
            stage.note(f"from {TORCH_INDEX_URL}")
            result = run_pip("--extra-index-url", TORCH_INDEX_URL, version)
        result.check()


def lock_for_this_machine() -> str:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return "portable"
    return "cuda" if has_nvidia_gpu() else "cpu"


def has_nvidia_gpu() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    listing = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return listing.returncode == 0 and "GPU" in listing.stdout


def stamp_of(lock: str) -> str:
    """Changes with the lock, the project's own metadata (its entry points) and the environment's Python."""
    digest = hashlib.sha256()
    for path in (LOCKS / f"{lock}.txt", LOCKS / "portable.txt", PROJECT / "pyproject.toml"):
        digest.update(path.read_bytes())
    return f"{lock} {venv_version()} {digest.hexdigest()}\n"


def venv_version() -> str | None:
    """Of the environment's Python as "3.11"; None when there is no usable one."""
    configuration = VENV / "pyvenv.cfg"
    if not (PYTHON.exists() and configuration.is_file() and any(VENV.glob("lib/python*/site-packages/pip"))):
        return None
    lines = (line.partition("=") for line in configuration.read_text(encoding="utf-8").splitlines())
    values = {key.strip(): value.strip() for key, _, value in lines}
    version = tuple(int(part) for part in values["version"].split(".")[:2])
    return ".".join(map(str, version)) if OLDEST <= version <= NEWEST else None


def find_python(wanted: str) -> str:
    candidates = [wanted] if wanted else ["python3", "python3.13", "python3.12", "python3.11", "python3.14"]
    for candidate in candidates:
        command = [candidate, "-c", "import sys; print(*sys.version_info[:2])"]
        try:
            answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            continue
        if answer.returncode == 0 and OLDEST <= tuple(map(int, answer.stdout.split())) <= NEWEST:
            return candidate
    sys.exit(
        f"Fettle needs Python 3.11 to 3.14; {' and '.join(candidates)} "
        f"{'is' if wanted else 'are'} missing or of another version. Name one: make install PYTHON=/path/to/python3.12"
    )


def create_venv(python: str) -> None:
    if VENV.exists():
        shutil.rmtree(VENV)
    made = subprocess.run([python, "-m", "venv", str(VENV)], capture_output=True, text=True)
    if made.returncode == 0:
        return
    # Debian keeps ensurepip in python3-venv. Without it an environment can still be made, and the pip of the system
    # can put a pip into it.
    shutil.rmtree(VENV, ignore_errors=True)
    subprocess.run([python, "-m", "venv", "--without-pip", str(VENV)], capture_output=True)
    site_packages = next(VENV.glob("lib/python*/site-packages"), None)
    if site_packages is not None:
        pip = [python, "-m", "pip", "install", "--quiet", "--target", str(site_packages), "pip"]
        if subprocess.run(pip, capture_output=True).returncode == 0:
            return
    shutil.rmtree(VENV, ignore_errors=True)
    sys.exit(
        f"{made.stdout}{made.stderr}\n{python} cannot make environments. On Debian and Ubuntu: apt install python3-venv"
    )


class PipResult:
    def __init__(self, returncode: int, output: str) -> None:
        self.returncode = returncode
        self.output = output

    def check(self) -> None:
        if self.returncode != 0:
            sys.exit("\n" + "\n".join(self.output.splitlines()[-25:]) + f"\npip failed; all it said is in {LOG}")


def run_pip(*arguments: str) -> PipResult:
    """Runs `pip install --no-deps`; what pip says goes to the log."""
    command = [str(PYTHON), "-m", "pip", "install", "--no-deps", "--disable-pip-version-check", *arguments]
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=PROJECT)
    with LOG.open("a", encoding="utf-8") as log:
        log.write(f"$ {' '.join(command)}\n{finished.stdout}\n")
    return PipResult(finished.returncode, finished.stdout)


def lock_path(lock: str) -> str:
    return str(LOCKS / f"{lock}.txt")


class Stage:
    """A line of output: what is done, and when it is done the seconds that it took."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.started = time.monotonic()

    def __enter__(self) -> Stage:
        print(f"  {self.title} …", end="", flush=True)
        return self

    def note(self, text: str) -> None:
        print(f" {text} …", end="", flush=True)

    def __exit__(self, *exception: object) -> None:
        print(f" {time.monotonic() - self.started:.0f} s" if exception[0] is None else " failed", flush=True)


if __name__ == "__main__":
    main()
