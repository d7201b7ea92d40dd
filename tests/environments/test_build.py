"""What buildah builds from the Dockerfile, and the smoke test in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.environments.engine import TARGETS, Engine, image
from tests.support.programs import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),  # the first test waits for the images
]
# As docs/containers.md has them.
RESTRICTED = (
    *("--rm", "--read-only", "--tmpfs=/tmp", "--shm-size=1g", "--cap-drop=ALL"),
    *("--security-opt=no-new-privileges", "--network=none"),
)
SMOKE = ("run.py", "--n_mpi_process", "2", "--arch", "mlp", "--num_epochs", "3")


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_says_how_its_containers_run(target: str, engine: Engine) -> None:
    settings = engine.image_settings(target)
    assert settings["User"] == "1000:1000"
    assert settings["WorkingDir"] == "/srv/choco-sgd"
    assert settings["StopSignal"] == "SIGTERM"
    assert settings["Entrypoint"] == ["/opt/choco-sgd/environments/docker/entrypoint"]
    assert settings["Cmd"] == ["run.py"]
    assert list(settings["ExposedPorts"]) == ["2222/tcp"]
    health = ["CMD", "python", "-I", "/opt/choco-sgd/environments/docker/health.py"]
    assert settings["Healthcheck"]["Test"] == health
    variables = dict(entry.split("=", 1) for entry in settings["Env"])
    is_for_gpus = target == "cuda"
    assert ("NVIDIA_VISIBLE_DEVICES" in variables) == is_for_gpus
    assert variables.get("CUDA_VISIBLE_DEVICES") == (None if is_for_gpus else "")


@pytest.mark.parametrize("target", TARGETS)
def test_the_smoke_test_runs_as_the_images_user(
    target: str, engine: Engine, tmp_path: Path
) -> None:
    """Without capabilities, on a root folder that cannot be written to."""
    os.chown(tmp_path, 1000, 1000)
    volume = f"--volume={tmp_path}:/srv/choco-sgd/data"
    engine.output("podman", "run", *RESTRICTED, volume, image(target), *SMOKE)
    (file,) = tmp_path.glob("checkpoint/*/*/*/*/summary.json")
    assert json.loads(file.read_text(encoding="utf-8"))["test_top1"] >= 90
    assert {path.stat().st_uid for path in tmp_path.rglob("*")} == {1000}


def test_kernels_are_those_that_were_compiled_into_the_image(engine: Engine) -> None:
    """A first step adds none to the copies in the cache."""
    count = "find {} -name '*.nbc' | wc -l"
    smoke = "cd /tmp && python /opt/choco-sgd/run.py --backend sim --num_threads 1 --num_epochs 1 "
    smoke += "--arch logistic_regression --comm_op sign >&2"
    counts = f"{count.format('/opt/choco-sgd/kernels')}; {count.format('$NUMBA_CACHE_DIR')}"
    words = ["podman", "run", *RESTRICTED, image("cpu"), "sh", "-c", f"{smoke} && {counts}"]
    in_image, in_cache = engine.output(*words).split()
    assert int(in_image) > 0
    assert in_cache == in_image


def test_no_key_is_in_the_image(engine: Engine) -> None:
    find = "find / -xdev ( -name ssh_host_* -o -name id_* -name *.pub ) -print"
    words = ["podman", "run", *RESTRICTED, "--user=0", image("cuda"), *find.split()]
    assert engine.output(*words) == ""


def test_nothing_is_in_the_context_but_what_the_image_needs(engine: Engine, tmp_path: Path) -> None:
    """Neither keys nor data nor checkpoints that lie in the repository's folder."""
    for name in ("data/x", ".git/config", "id_rsa", "pcode/a.py", "pcode/__pycache__/a", "run.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".dockerignore").write_bytes((ROOT / ".dockerignore").read_bytes())
    (tmp_path / "Dockerfile").write_text("FROM debian:12.15-slim\nCOPY . /context/\n")
    file = ["--file", str(tmp_path / "Dockerfile")]
    engine.output("buildah", "build", "--quiet", *file, "--tag", "context", str(tmp_path))
    find = ["find", "/context", "-type", "f", "-printf", "%P\\n"]
    found = engine.output("podman", "run", *RESTRICTED, "context", *find).split()
    assert set(found) == {"pcode/a.py", "run.py"}
