"""The folder with the state of one service on one machine; two must not work on it at once."""

import fcntl
from pathlib import Path
from typing import TextIO


class DataDirInUse(Exception):
    """Another service works on the same folder."""


def lock_data_dir(data_dir: Path) -> TextIO:
    """Makes the folder. It is locked until the returned file is closed, also by a crash. Raises DataDirInUse."""
    data_dir.mkdir(parents=True, exist_ok=True)
    file = (data_dir / "lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise DataDirInUse(f"{data_dir} is in use by another fettle; stop it or give another --data-dir") from None
    return file
