"""What the rank server does before it forks: imports, and kernels from their cache.

Nothing that starts a thread: neither threads of torch nor its backward pass outlive a fork.
"""

import torch

from pcode import main  # noqa: F401
from pcode.compression import COMPRESSORS, Message, make_compressor
from pcode.utils.layout import Layout

_LAYOUT = Layout.of_sizes((40, 8))
for _name in COMPRESSORS:
    _compressor = make_compressor(_name)
    _payload = torch.empty(_compressor.message_bytes(_LAYOUT), dtype=torch.uint8)
    _message = Message(_payload, 1)
    _compressor.encode(_LAYOUT, torch.ones(48), torch.zeros(48), _message)
    _compressor.accumulate(_LAYOUT, [_message], [torch.zeros(48)], [[1.0]])
