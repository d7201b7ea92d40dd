"""`run.py --check`: what a run needs, looked at on every host, without training or writing."""
