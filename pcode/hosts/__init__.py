"""Several hosts on one machine: namespaces with a network between them, to try a cluster on.

Needs Linux, root (or `unshare --user --map-root-user`), util-linux and iproute2.
"""

from pcode.hosts.hosts import Hosts
from pcode.hosts.namespaces import why_not

__all__ = ["Hosts", "why_not"]
