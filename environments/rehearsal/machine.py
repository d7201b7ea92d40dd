"""How this machine reaches packages, for the steps of an image that ask for some."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

from environments.rehearsal.container import Volume
from pcode.utils.errors import UserError

# An empty folder of every Debian: this machine's files are seen below it while a step runs.
_PLACE = "/mnt"
_OF_NETWORK = re.compile(
    "PIP_.*|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|(https?|no)_proxy", re.IGNORECASE
)
# An absolute path, or that of a file: address.
_PATH = re.compile(r"(?:(?<=file://)|(?<![\w/.:]))/[^\s,:'\"]+")


def variables() -> dict[str, str]:
    """pip's configuration and what names proxies and certificates, as variables for a step.

    Paths in them are those below _PLACE.
    """
    found = {name: text for name, text in os.environ.items() if _OF_NETWORK.fullmatch(name)}
    for line in _output(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if not section.startswith(":"):  # not from the environment
            variable = "PIP_" + option.upper().replace("-", "_")
            found.setdefault(variable, " ".join(ast.literal_eval(value).split()))
    return {
        name: _PATH.sub(lambda path: _PLACE + path[0] if Path(path[0]).exists() else path[0], text)
        for name, text in found.items()
    }


def volumes() -> list[Volume]:
    """What a step sees of this machine: its files, how it finds hosts, and apt's own settings."""
    same = ("/etc/resolv.conf", "/etc/hosts", "/etc/apt/apt.conf.d")
    return [Volume(Path("/"), _PLACE, True), *(Volume(Path(file), file, True) for file in same)]


def apt_sources(suite: str) -> list[tuple[str, str]]:
    """Address and release (the suite, its updates and security) of this machine's Debian archives.

    Raises:
        UserError: it has none for the suite.
    """
    form = "$(ORIGIN) $(REPO_URI) $(RELEASE)"
    found = _output("apt-get", "indextargets", "--format", form).splitlines()
    wanted = re.compile(rf"Debian (?P<uri>\S+) (?P<release>{suite}(?:-updates|-security)?)")
    matches = [match for line in found if (match := wanted.fullmatch(line))]
    sources = sorted({(match["uri"], match["release"]) for match in matches})
    if not any(release == suite for _, release in sources):
        raise UserError(f"apt knows no archive of Debian's {suite} here: apt-get update")
    return sources


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
