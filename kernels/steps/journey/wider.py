"""Step 17, which helps few heads alone: tiles of 256 rows.

The kernels of step 14 with other settings. Right for contiguous inputs, N a multiple of the tile's
rows, D and Dv powers of two from 16 on (64 for bfloat16).
"""

from functools import partial

from . import passes, reciprocal
from .passes import Tile

# [settings:begin]
SETTINGS = passes.Settings(
    state=Tile(rows=256, num_stages=3), output=Tile(rows=256, num_stages=3),
)  # fmt: skip
# [settings:end]

forward = partial(reciprocal.forward, settings=SETTINGS)
