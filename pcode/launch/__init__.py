"""Starting the nodes of a run: who am I, which mpirun, and how it ends."""
