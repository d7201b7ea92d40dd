"""The container image without a container engine: its Dockerfile in a bare Debian, and its pods.

`python -m environments.rehearsal --help` says what it does; it needs Linux, root and debootstrap.
"""
