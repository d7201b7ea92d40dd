"""A folder of images as one LMDB file, for --use_lmdb_data True.

python -m pcode.tools.to_lmdb data/imagenet/train data/imagenet/train.lmdb
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pcode.datasets.encoded_images import FolderImages, write_lmdb
from pcode.tools.command import Parser, call
from pcode.utils.errors import UserError


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m pcode.tools.to_lmdb", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds a folder of images for each class")
    parser.add_argument("file", type=Path, help="file to write; one that is there is replaced")
    return parser.parse_args(arguments)


def _run(arguments: Sequence[str]) -> None:
    options = _parse(arguments)
    if options.file.is_dir() or not options.file.parent.is_dir():
        raise UserError(f"{options.file}: cannot be written; name a file in an existing folder")
    images = FolderImages(options.folder)
    write_lmdb(images, options.file, show=sys.stderr.isatty())
    size = options.file.stat().st_size / 1e6
    count = f"{len(images.labels)} images of {len(images.classes)} classes"
    print(f"{options.file}: {count}, {size:.1f} MB")


def main(arguments: Sequence[str]) -> int:
    """Write the file; the exit status, 2 for a mistake."""
    return call("to_lmdb", _run, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
