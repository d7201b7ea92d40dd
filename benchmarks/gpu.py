"""Every benchmark that needs a GPU, one after another: what a release is measured with.

    python benchmarks/gpu.py [--results FOLDER]

The tables go to stdout, the figures to FOLDER/DATE-gpu_NAME.json, benchmarks/results by default.
Where there is no GPU it says so and ends with status 2.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

from gpu_device import require_gpu

# By the name of what they leave: program and arguments.
PROGRAMS: dict[str, tuple[str, ...]] = {
    "gpu_kernels": ("gpu_kernels.py",),
    "gpu_steps": ("gpu_steps.py",),
    "gpu_steps_2_ranks": ("gpu_steps.py", "--ranks", "2", "--batch", "64"),
    "gpu_simulation": ("gpu_simulation.py",),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    here = Path(__file__).parent
    parser.add_argument("--results", type=Path, default=here / "results")
    arguments = parser.parse_args()
    require_gpu()
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    statuses = []
    for name, (program, *flags) in PROGRAMS.items():
        output = arguments.results / f"{date}-{name}.json"
        command = [sys.executable, str(here / program), *flags, "--output", str(output)]
        print(f"\n## {name}\n", flush=True)
        statuses.append(subprocess.run(command, check=False).returncode)
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main())
