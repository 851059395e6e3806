"""Parts of a computation on several processes, GPUs or machines: dask.distributed, started here or elsewhere.

    with vt.connect("local:4"):
        effects = stage.resume(vt.patch_heads, vlm, selected, corruption="image")

options      what the user says about a cluster (CLUSTER, CLUSTER_CONFIG), checked
credentials  the certificate that a cluster's members know each other by
start        a cluster's processes
slurm        workers as jobs of Slurm
connection   `vt.connect`: the connection that `Stage.resume` finds open
waiting      what is said while no worker is there, and how many there should be
job          what a worker is told about a computation
worker       what a worker does with a part
parts        how the parts reach the workers, and what becomes of those that fail

A worker writes the very file that resuming finds (`pipeline.checkpoints`) and answers with a few words; no table
travels back.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
