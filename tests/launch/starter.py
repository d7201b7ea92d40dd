"""What run.py does to start mpirun: `starter.py LIMIT COMMAND...`."""

import sys

from pcode.launch import supervise

supervise.END_LIMIT_SECONDS = float(sys.argv[1])
sys.exit(supervise.launch(sys.argv[2:]))
