"""`python -m tests.cluster.images.thin_trainer OUT.tar`: an image without a root file system of its own.

Its pods mount the host's /usr and the virtual environment read-only (`tests/fixtures/cluster_service.py`), so that a
test cluster on the same machine runs the trainer without 3 GB of torch being copied. `trainer_image/Dockerfile` makes
the real one.
"""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

IMAGE = "localhost/fettle-trainer-thin:1"
VENV = "/opt/venv"
"""Where pods mount the virtual environment."""

_FOLDERS = ("usr", "etc", "tmp", "proc", "sys", "dev", "opt", "run", "var")
_LINKS = {"lib": "usr/lib", "lib64": "usr/lib64", "bin": "usr/bin", "sbin": "usr/sbin"}
_FILES = {
    "etc/passwd": b"root:x:0:0::/:/bin/sh\nfettle:x:10001:10001::/tmp:/bin/sh\n",
    "etc/group": b"fettle:x:10001:\n",
}


def write_image(path: Path) -> None:
    """In the format of `docker save`, which containerd imports."""
    layer = _layer()
    digest = hashlib.sha256(layer).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": [f"{VENV}/bin/python", "-m", "trainer_image"], "Env": ["PATH=/usr/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as image:
        _add(image, "config.json", json.dumps(config).encode())
        _add(image, "layer.tar", layer)
        _add(image, "manifest.json", json.dumps(manifest).encode())


def _layer() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as layer:
        for name in _FOLDERS:
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            layer.addfile(folder)
        for name, target in _LINKS.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            layer.addfile(link)
        for name, text in _FILES.items():
            _add(layer, name, text)
    return content.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    archive.addfile(entry, io.BytesIO(content))


if __name__ == "__main__":
    write_image(Path(sys.argv[1]))
