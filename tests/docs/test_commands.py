"""Every command and program of README.md and docs/ runs as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.running import LIMIT_SECONDS, run_page
from tests.support.pages import PAGES, blocks
from tests.support.programs import ROOT

# The first that a newcomer meets; the others train as well.
QUICK = ("README.md", "docs/quick-start.md")
PAGE = """
A page.

```bash
value=1
```

<!-- not run: it would fail -->
```bash
exit 7
```

<!-- tested: program -->
```python
from pathlib import Path
import pcode
Path("written").write_text(f"{Path().resolve()} {Path(pcode.__file__).resolve()}")
```

```bash
cat written
echo "value $value"
touch configs/of_mine
```
"""


@pytest.mark.timeout(LIMIT_SECONDS + 60)
@pytest.mark.parametrize(
    "page",
    [page if page in QUICK else pytest.param(page, marks=pytest.mark.slow) for page in PAGES],
)
def test_a_page_runs(page: str, tmp_path: Path) -> None:
    done = run_page(page, tmp_path / "copy")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_says_why(page: str) -> None:
    for block in blocks(page):
        assert block.not_run != ""
        # A comment that is neither mark is a mistake in one.
        marked = block.program is not None or block.not_run is not None
        assert marked or not block.comment, f"{page}, line {block.line}: {block.comment!r}"


def test_blocks_run_in_order_in_a_copy_of_the_repository(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    done = run_page(str(page), tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/copy {ROOT}/pcode/__init__.pyvalue 1\n"
    assert (tmp_path / "copy" / "configs" / "of_mine").exists()
    assert not (ROOT / "configs" / "of_mine").exists()


@pytest.mark.parametrize(
    "use",
    [
        "```bash\npython program.py\n```",
        "```bash\ntouch my_program.py\n```",
        "<!-- tested: other -->\n```python\nimport program\n```",
        "",
    ],
)
def test_a_program_runs_once(use: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"<!-- tested: program -->\n```python\nprint('run')\n```\n\n{use}\n")
    done = run_page(str(page), tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "run\n"


@pytest.mark.parametrize("failing", ["false", "false | cat", 'echo "$nowhere"', "python -c 'a ='"])
def test_a_command_that_fails_fails_the_page_and_is_named(failing: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{PAGE}\n```bash\n{failing}\ntrue\n```\n\n```bash\ntrue\n```\n")
    done = run_page(str(page), tmp_path / "copy")
    assert done.returncode != 0
    line = 2 + PAGE.count("\n")
    places = [said for said in done.stderr.splitlines() if said.startswith(str(page))]
    assert places[-1] == f"{page}, line {line}"


def test_what_a_page_leaves_behind_fails_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```bash\nsetsid sleep 1000 < /dev/null > /dev/null 2>&1 &\n```\n")
    with pytest.raises(AssertionError, match=r"left processes .*sleep"):
        run_page(str(page), tmp_path / "copy")
