"""Write requirements.txt and constraints.txt anew: `python environments/docker/pin.py`.

To be run with the image's Python version, on Linux. It asks pip, with its own settings, what it
would install for setup.py, and keeps the versions: of what every image holds as requirements, of
what PyTorch's CUDA wheels bring along as constraints, which hold only where something asks for it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
_OF_CUDA = ("cuda-", "nvidia-", "triton")
_HEAD = "# {}: written by environments/docker/pin.py with Python {}.{}\n"


def main() -> None:
    """Ask pip and write both files."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        ask = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", report.name]
        subprocess.run([sys.executable, "-m", "pip", *ask, str(ROOT)], check=True)
        found = json.loads(Path(report.name).read_text(encoding="utf-8"))["install"]
    pins = {each["metadata"]["name"].lower(): each["metadata"]["version"] for each in found}
    del pins["choco-sgd"]
    of_cuda = {name for name in pins if name.startswith(_OF_CUDA)}
    _write("requirements.txt", "what every image holds", pins, pins.keys() - of_cuda)
    _write("constraints.txt", "what PyTorch's CUDA wheels bring along", pins, of_cuda)


def _write(name: str, what: str, pins: dict[str, str], chosen: set[str]) -> None:
    # A local version, such as +cpu, is of the index that was asked.
    lines = [f"{package}=={pins[package].partition('+')[0]}\n" for package in sorted(chosen)]
    head = _HEAD.format(what, *sys.version_info[:2])
    (HERE / name).write_text(head + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
