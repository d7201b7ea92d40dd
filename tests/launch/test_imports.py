"""What supervises ranks starts at once: it imports nothing that computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Slow to import, themselves or by what they import, and none of a supervisor's business.
UNWANTED = ("torch", "numpy", "joblib", "pcode.training", "pcode.config", "pcode.optim")
# Says which modules it imported, and which are there then.
PROGRAM = """
import importlib, pkgutil, sys
import pcode.launch
names = [found.name for found in pkgutil.walk_packages(pcode.launch.__path__, "pcode.launch.")]
for name in names:
    importlib.import_module(name)
print(*names)
print(*sys.modules)
"""


def test_nothing_that_computes_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    imported, loaded = (line.split() for line in done.stdout.splitlines())
    assert "pcode.launch.supervise" in imported
    unwanted = sorted(set(UNWANTED) & set(loaded))
    assert not unwanted, f"launching ranks must not wait for the import of {', '.join(unwanted)}"
