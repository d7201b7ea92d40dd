"""A folder of images as one LMDB file, for --use_lmdb_data True.

python -m pcode.tools.to_lmdb data/imagenet/train data/imagenet/train.lmdb
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from pcode.datasets.encoded_images import FolderImages, write_lmdb
from pcode.tools.command import Parser, tool
from pcode.utils.errors import UserError


@tool("to_lmdb")
def main(arguments: Sequence[str]) -> None:
    """Write the file."""
    parser = Parser(prog="python -m pcode.tools.to_lmdb", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds a folder of images for each class")
    parser.add_argument("file", type=Path, help="file to write; one that is there is replaced")
    options = parser.parse_args(arguments)
    if options.file.is_dir() or not options.file.parent.is_dir():
        raise UserError(f"{options.file}: cannot be written; name a file in an existing folder")
    images = FolderImages(options.folder)
    write_lmdb(images, options.file, show=sys.stderr.isatty())
    size = options.file.stat().st_size / 1e6
    count = f"{len(images.labels)} images of {len(images.classes)} classes"
    print(f"{options.file}: {count}, {size:.1f} MB")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
