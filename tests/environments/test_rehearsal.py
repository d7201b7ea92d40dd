"""The rehearsal reads a Dockerfile as an engine does, or says what it does not understand."""

from __future__ import annotations

from pathlib import Path

import pytest

from environments.rehearsal import machine
from environments.rehearsal.__main__ import main
from environments.rehearsal.dockerfile import needed, read_stages
from environments.rehearsal.here import image_settings
from environments.rehearsal.image import Image, with_setting
from environments.rehearsal.layers import Layers
from pcode.utils.errors import UserError

FILE = r"""
# A comment.
FROM debian:12.15-slim AS first
ENV A=1 B="two words"
FROM first AS unused
FROM first AS second
ENV C=$A/$B \
    D=\$A
WORKDIR /work
USER 7:7
ENTRYPOINT ["program", "a b"]
HEALTHCHECK --interval=1s CMD ["check"]
FROM debian:12.15-slim AS third
COPY --from=second /a /b
CMD ["flag"]
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "Dockerfile"
    file.write_text(text, encoding="utf-8")
    return file


def test_stages_come_after_what_they_need(tmp_path: Path) -> None:
    stages = read_stages(written(tmp_path, FILE))
    assert [stage.name for stage in needed(stages, "third")] == ["first", "second", "third"]
    assert [stage.name for stage in needed(stages, "unused")] == ["first", "unused"]


def test_settings_are_those_of_the_stages(tmp_path: Path) -> None:
    stages = read_stages(written(tmp_path, FILE))
    image = image_settings(needed(stages, "second"))
    assert image.variables.items() >= {"A": "1", "B": "two words", "C": "1/two words"}.items()
    assert image.variables["D"] == "$A"
    assert (image.work_dir, image.user_id) == ("/work", 7)
    assert (image.entrypoint, image.health) == (("program", "a b"), ("check",))


@pytest.mark.parametrize(
    ("argument", "given", "expected"),
    [
        ("X", {}, {}),
        ("X", {"X": "1"}, {"X": "1"}),
        ("X=2", {}, {"X": "2"}),
        ("X=2", {"X": "1"}, {"X": "1"}),
        ("X", {"Y": "1"}, {}),
    ],
)
def test_an_argument_is_set_if_it_is_given_or_has_a_default(
    tmp_path: Path, argument: str, given: dict[str, str], expected: dict[str, str]
) -> None:
    stages = read_stages(written(tmp_path, f"FROM image AS stage\nARG {argument}\n"))
    (instruction,) = stages["stage"].instructions
    assert with_setting(Image(), instruction, given).arguments == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FROM image\n", "line 1: expected FROM IMAGE AS NAME"),
        ("ARG a\nFROM image AS stage\n", "line 1: ARG before the first FROM"),
        ("FROM image AS stage\nONBUILD RUN true\n", "line 2: ONBUILD is not understood"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        image_settings(needed(read_stages(written(tmp_path, text)), "stage"))


def test_paths_of_this_machine_are_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a step reads of pip's settings lies elsewhere for it; addresses stay."""
    monkeypatch.setenv("PIP_CERT", str(tmp_path))
    monkeypatch.setenv("PIP_FIND_LINKS", f"file://{tmp_path} {tmp_path}/none")
    monkeypatch.setenv("PIP_INDEX_URL", "https://name:word@example.org/simple/path")
    found = machine.variables()
    assert found["PIP_CERT"] == f"/mnt{tmp_path}"
    assert found["PIP_FIND_LINKS"] == f"file:///mnt{tmp_path} {tmp_path}/none"
    assert found["PIP_INDEX_URL"] == "https://name:word@example.org/simple/path"


def test_a_file_of_two_names_is_counted_once(tmp_path: Path) -> None:
    layers = Layers(tmp_path)
    layer = layers.add()
    file = layers.files(layer) / "file"
    file.write_bytes(bytes(1000))
    (file.with_name("other")).hardlink_to(file)
    (file.with_name("link")).symlink_to(file)
    assert layers.bytes(layer) == 1000


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--kind", "deployment"]) == 2
    assert capsys.readouterr().err.startswith("rehearsal: error: argument --kind: invalid choice")
