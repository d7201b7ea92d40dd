"""What run.py does to start mpirun: `starter.py END_LIMIT SAVE_LIMIT COMMAND...`."""

import sys

from pcode.launch import supervise

supervise.END_LIMIT_SECONDS, supervise.SAVE_LIMIT_SECONDS = map(float, sys.argv[1:3])
sys.exit(supervise.launch(sys.argv[3:]).status)
