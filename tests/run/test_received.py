"""A run that was received from others starts nothing that its files name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pcode.utils.errors import USER_ERROR
from tests.run.runs import finished, run, run_folder

SMALL = ("--arch", "logistic_regression", "--num_epochs", "1")


@pytest.fixture(scope="module")
def received(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was honest once."""
    folder = tmp_path_factory.mktemp("received")
    finished(folder, *SMALL, "--backend", "sim")
    return run_folder(folder)


def plant(folder: Path, flag: str) -> str:
    """Lay a program in a folder that leaves a file beside it; the flag's value that starts it."""
    program = "#!/bin/sh\ntouch {}/started\n"
    if flag == "mpi_env":
        module = folder / "planted"
        module.mkdir()
        (module / "sitecustomize.py").write_text(f"open({str(folder / 'started')!r}, 'w')\n")
        return f"PYTHONPATH={module}"
    if flag == "hostfile":
        (folder / "hosts").write_text("elsewhere.invalid slots=2\n")
        return str(folder / "hosts")
    if flag == "work_dir":
        (folder / "there").mkdir()
        return str(folder / "there")
    file = folder / ("bin/mpirun" if flag == "mpi_path" else "python")
    file.parent.mkdir(exist_ok=True)
    file.write_text(program.format(folder))
    file.chmod(0o755)
    return str(folder if flag == "mpi_path" else file)


@pytest.mark.parametrize("flag", ["mpi_path", "python_path", "mpi_env", "hostfile", "work_dir"])
@pytest.mark.parametrize("way", ["resume", "evaluate", "config", "include", "included"])
def test_no_flag_of_launching_is_taken_from_a_run(
    received: Path, tmp_path: Path, flag: str, way: str
) -> None:
    (tmp_path / "planted").mkdir()
    copy = tmp_path / "copy"
    shutil.copytree(received, copy)
    value = plant(tmp_path / "planted", flag)
    config = copy / "config.yaml"
    # Its sender leaves out the first line, its digest.
    lines = [
        f"{flag}: {value}" if line.startswith(f"{flag}: ") else line
        for line in config.read_text().splitlines()[1:]
    ]
    assert f"{flag}: {value}" in lines
    config.write_text("\n".join(lines))
    if way == "include":
        config.rename(copy / "flags.yaml")
        config.write_text("include: flags.yaml\n")
    (tmp_path / "mine.yaml").write_text(f"include: {config}\n")
    flags = {
        "resume": ("--resume", str(copy), "--num_epochs", "2"),
        "evaluate": ("--resume", str(copy), "--evaluate", "True"),
        "config": ("--config", str(config)),
        "include": ("--config", str(config)),
        "included": ("--config", str(tmp_path / "mine.yaml")),
    }[way]
    done = run(tmp_path, *flags, "--backend", "mpi", "--n_mpi_process", "2")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "planted/started").exists()
    notice = f"run.py: warning: --{flag}: not taken from {copy}/"
    assert [line for line in done.stderr.splitlines() if line.startswith(notice)]


def test_flags_of_launching_that_are_given_again_are_followed(
    received: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(received, copy)
    config = copy / "config.yaml"
    lines = config.read_text().splitlines()[1:]
    config.write_text("\n".join(line.replace("mpi_env: null", "mpi_env: A=1") for line in lines))
    file = tmp_path / "hosts.yaml"
    file.write_text("mpi_env: GIVEN=1\nn_mpi_process: 2\nbackend: mpi\n")
    resume = ("--resume", str(copy), "--backend", "mpi", "--dry_run")
    assert "--mpi_env: not taken from" in run(tmp_path, *resume).stderr
    for given in (("--config", str(file)), ("--mpi_env", "GIVEN=1")):
        done = run(tmp_path, *resume, *given)
        assert done.returncode == 0
        assert "-x GIVEN=1" in done.stdout
        assert "not taken from" not in done.stderr


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((".lock", "pipe"), ("0/log.jsonl", "link"), ("tensorboard", "link")),
        pytest.param("checkpoints", "link", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_written_through_what_lies_in_a_run(
    received: Path, tmp_path: Path, name: str, kind: str
) -> None:
    copy, other = tmp_path / "copy", tmp_path / "other"
    shutil.copytree(received, copy)
    (copy / name).rename(other)
    before = sorted(path.name for path in other.rglob("*")) or other.read_bytes()
    if kind == "link":
        (copy / name).symlink_to(other)
    else:
        os.mkfifo(copy / name)
    done = run(tmp_path, "--resume", str(copy), "--num_epochs", "2", "--backend", "sim")
    assert done.returncode == USER_ERROR
    (line,) = done.stderr.splitlines()
    place = f"{copy}/{name} is a link, or neither a file nor a folder"
    assert line == f"run.py: error: --resume {copy}: {place}"
    assert (sorted(path.name for path in other.rglob("*")) or other.read_bytes()) == before


def test_a_model_that_is_a_pipe_is_not_waited_for(received: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(received, copy)
    (copy / "0/model.pt").unlink()
    os.mkfifo(copy / "0/model.pt")
    done = run(tmp_path, "--resume", str(copy), "--evaluate", "True", "--backend", "sim")
    assert done.returncode == USER_ERROR
    assert f"there is no model {copy}/0/model.pt" in done.stderr.splitlines()[-1]


def test_values_of_variables_for_the_ranks_are_not_written(tmp_path: Path) -> None:
    finished(
        tmp_path,
        *SMALL,
        *("--mpi_env", "TYPED=the-first-secret,KEPT_HERE"),
        KEPT_HERE="the-second-secret",
    )
    with_comma = run(tmp_path, *SMALL, "--backend", "sim", "--mpi_env", "A=1,b-secret,c_secret")
    assert with_comma.returncode == 0
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in files if b"secret" in file.read_bytes()]
    configs = [file.read_text() for file in files if file.name == "config.yaml"]
    assert len([text for text in configs if "mpi_env: TYPED,KEPT_HERE\n" in text]) == 1
    assert len([text for text in configs if "mpi_env: A\n" in text]) == 1


def test_errors_show_no_value_of_a_variable(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("mpi_env: TOKEN=the-secret: x\n")
    for flags in (("--mpi_env", "TOKEN=the-secret\tx"), ("--config", "mine.yaml")):
        done = run(tmp_path, *flags)
        assert done.returncode == USER_ERROR
        assert "error: --" in done.stderr
        assert "secret" not in done.stderr
