"""Files of flags that include others."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcode.config import parse
from pcode.utils.errors import UserError


def write(folder: Path, files: dict[str, str]) -> str:
    """Files in `folder`; the path of `a.yaml`."""
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return str(folder / "a.yaml")


def test_a_file_wins_over_what_it_includes_and_the_command_line_over_all(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {
            "a.yaml": "include: [bases/b.yaml, bases/c.yaml]\nlr: 1\nnum_epochs: 11\n",
            "bases/b.yaml": "include: d.yaml\nlr: 2\nbatch_size: 12\nmanual_seed: 2\n",
            # another spelling of --lr_change_epochs, and a file that is included twice
            "bases/c.yaml": "include: ./d.yaml\nlr: 3\nbatch_size: 13\nlr_milestones: [3, 4]\n",
            "bases/d.yaml": "lr: 4\nbatch_size: 14\nmomentum_factor: .4\nlr_change_epochs: 1,2\n",
        },
    )
    parsed = parse(["--config", path, "--num_epochs", "20"])
    flat = parsed.config.flat()
    assert (flat["lr"], flat["num_epochs"]) == (1.0, 20)
    assert (flat["batch_size"], flat["lr_change_epochs"]) == (13, (3.0, 4.0))
    assert (flat["manual_seed"], flat["momentum_factor"]) == (2, 0.4)
    assert parsed.given == {
        *("lr", "num_epochs", "batch_size", "lr_change_epochs", "manual_seed", "momentum_factor")
    }


def test_an_included_flag_without_effect_is_warned_about_unless_it_is_the_default(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path,
        {"a.yaml": "include: b.yaml\ncomm_op: sign\n", "b.yaml": "quantize_level: 4\n"},
    )
    assert parse(["--config", path]).warnings == (
        "--quantize_level: it has no effect with --comm_op sign",
    )
    write(tmp_path, {"b.yaml": "quantize_level: 8\n"})
    assert parse(["--config", path]).warnings == ()


@pytest.mark.parametrize(
    ("files", "file", "said"),
    [
        ({"a.yaml": "include: b.yaml"}, "a.yaml", "b.yaml: No such file"),
        ({"a.yaml": "include: ."}, "a.yaml", "directory"),
        ({"a.yaml": "include: a.yaml"}, "a.yaml", "cycle"),
        ({"a.yaml": "include: b.yaml", "b.yaml": "include: ./a.yaml"}, "b.yaml", "cycle"),
        ({"a.yaml": "include: {b: 1}"}, "a.yaml", "expected the path"),
        ({"a.yaml": "include: [[b.yaml]]"}, "a.yaml", "expected the path"),
        ({"a.yaml": "include:"}, "a.yaml", "expected the path"),
        ({"a.yaml": 'include: "b\\0"'}, "a.yaml", "expected the path"),
        ({"a.yaml": "includes: b.yaml"}, "a.yaml", "did you mean include?"),
        ({"a.yaml": "include: b.yaml", "b.yaml": "- lr"}, "b.yaml", "expected `flag: value`"),
        ({"a.yaml": "include: b.yaml", "b.yaml": "lr: [1"}, "b.yaml", "not a YAML file"),
        ({"a.yaml": "include: b.yaml", "b.yaml": "lrr: 1"}, "b.yaml", "did you mean"),
        ({"a.yaml": "include: b.yaml", "b.yaml": "lr: fast"}, "b.yaml", "--lr 'fast': expected"),
        ({"a.yaml": "include: b.yaml", "b.yaml": "lr: -1"}, "b.yaml", "--lr -1.0: must be"),
        ({"a.yaml": "include: b.yaml", "b.yaml": "comm_op: zip"}, "b.yaml", "--comm_op 'zip'"),
        ({"a.yaml": "include: b.yaml\nlr: -1", "b.yaml": "lr: 1"}, "a.yaml", "must be"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file(
    tmp_path: Path, files: dict[str, str], file: str, said: str
) -> None:
    path = write(tmp_path, files)
    with pytest.raises(UserError) as caught:
        parse(["--config", path])
    message = str(caught.value)
    assert "\n" not in message
    assert said in message
    # the first file that is named is the one to mend
    assert message.removeprefix("--config ").startswith(str(tmp_path / file))


def test_a_mistake_on_the_command_line_names_no_file(tmp_path: Path) -> None:
    path = write(tmp_path, {"a.yaml": "lr: 1"})
    with pytest.raises(UserError) as caught:
        parse(["--config", path, "--lr", "-1"])
    assert str(caught.value).startswith("--lr -1")
