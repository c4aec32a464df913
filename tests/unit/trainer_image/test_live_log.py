import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.contract.test_contract import SPEC
from tests.fixtures.service import wait_until
from trainer_image import live_log
from trainer_image.live_log import MAX_BYTES, LiveLog
from trainer_image.reporting import TakenOver
from tuning.contract import JobSpec

log = logging.getLogger("trainer")


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    return SPEC.model_copy(update={"logs_uri": (tmp_path / "logs").as_uri(), "attempt": 2})


@contextmanager
def running(spec: JobSpec) -> Iterator[None]:
    """As the trainer does: what it logs goes to stderr, which is copied while the run lasts."""
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with LiveLog(spec):
            yield
    finally:
        logging.getLogger().removeHandler(handler)


def stored(tmp_path: Path, container: str = "trainer") -> str:
    return (tmp_path / "logs" / f"0002-{container}.log").read_text()


def test_what_is_logged_and_printed_is_uploaded_and_still_printed(
    spec: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sys.stdout, sys.stderr
    with running(spec):
        log.info("step 1")
        print("a library's word")
    assert stored(tmp_path) == "step 1\na library's word\n"
    printed = capsys.readouterr()
    assert (printed.err, printed.out) == ("step 1\n", "a library's word\n")
    assert (sys.stdout, sys.stderr) == before


def test_the_log_grows_while_the_run_lasts(spec: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_log, "SECONDS_BETWEEN_UPLOADS", 0.05)
    monkeypatch.setenv("FETTLE_CONTAINER_NAME", "ftjob-1-abcde")
    path = tmp_path / "logs" / "0002-ftjob-1-abcde.log"
    with running(spec):
        log.info("step 1")
        wait_until(path.exists, 10, "the log is not there")
        log.info("step 2")
        wait_until(lambda: "step 2" in path.read_text(), 10, "the log did not grow")


def test_of_a_long_log_the_end_is_kept(spec: JobSpec, tmp_path: Path) -> None:
    with running(spec):
        for number in range(20_000):
            log.info("%05d %s", number, "ä" * 60)
    lines = stored(tmp_path).splitlines()
    assert "cut" in lines[0]
    assert lines[1:] == [f"{number:05d} {'ä' * 60}" for number in range(20_000 - len(lines) + 1, 20_000)]
    assert MAX_BYTES * 0.99 < len(stored(tmp_path).encode()) < MAX_BYTES + 100


def test_secrets_of_the_environment_are_blackened(
    spec: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-value")
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    with running(spec):
        log.info("a library says very-secret-value and hf_0123456789")
    assert stored(tmp_path) == "a library says … and …\n"


def test_a_storage_that_fails_disturbs_nothing_and_is_told_once(
    spec: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live_log, "SECONDS_BETWEEN_UPLOADS", 0.01)
    (tmp_path / "logs").write_text("a file where the folder must be")
    with running(spec):
        log.info("step 1")
        wait_until(lambda: "cannot be uploaded" in caplog.text, 10, "the failure was not told")
        log.info("step 2")
    assert caplog.text.count("cannot be uploaded") == 1


def test_a_start_that_was_taken_over_leaves_the_log_alone(spec: JobSpec, tmp_path: Path) -> None:
    with pytest.raises(TakenOver), running(spec):
        log.info("step 1")
        raise TakenOver("somebody else goes on")
    assert not (tmp_path / "logs").exists()


def test_the_log_of_a_crash_has_been_uploaded(spec: JobSpec, tmp_path: Path) -> None:
    with pytest.raises(SystemExit), running(spec):
        log.info("step 1")
        sys.exit(75)
    assert stored(tmp_path) == "step 1\n"
