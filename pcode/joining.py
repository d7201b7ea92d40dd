"""A rank joins the others of its run."""

from pcode.communication import ProcessCommunicator
from pcode.communication.connect import connect
from pcode.config.launch_options import Launch
from pcode.launch.environment import RankEnvironment, rendezvous_address
from pcode.utils.devices import device_of


def join(launch: Launch, place: RankEnvironment) -> ProcessCommunicator:
    """Join as the flags say; the errors are those of `connect`."""
    return connect(
        launch.backend,
        place.rank,
        place.num_ranks,
        device=device_of(launch.on_cuda, launch.world, place.rank),
        limit_seconds=launch.time_limit_seconds,
        address=None if launch.backend == "mpi" else rendezvous_address(),
        comm_device=launch.comm_device,
        all_here=place.all_here,
    )
