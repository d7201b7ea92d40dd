"""Programs beside run.py: `python -m pcode.tools.NAME --help`."""
