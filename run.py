"""Decentralized training: started by hand it launches the nodes, started by MPI it is one."""

import sys

from pcode.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
