"""Several hosts on one machine: namespaces with a network between them, to try a cluster on.

Needs Linux, root (or `unshare --user --map-root-user`), util-linux and iproute2.
"""

from tests.support.hosts.disturbance import Disturbance
from tests.support.hosts.hosts import Hosts
from tests.support.hosts.namespaces import why_not
from tests.support.hosts.processor import why_no_limit

__all__ = ["Disturbance", "Hosts", "why_no_limit", "why_not"]
