"""Scale-out on Ray: the work of one process as an actor for each GPU, or each core, of a cluster.

`screen_on_ray` does what `screen_library` does, with many workers and into a folder of the same
form. `embed_dataset` is a step of a pipeline of Ray Data that is your own. Ray is an extra (`ray`)
and is imported when one of them is called.
"""

from rdgeodiff.distributed.dataset import embed_dataset
from rdgeodiff.distributed.screen import screen_on_ray

__all__ = ["embed_dataset", "screen_on_ray"]
