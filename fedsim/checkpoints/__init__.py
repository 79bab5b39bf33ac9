"""Language models as they are published: where they lie, and what the header of a GGUF file says.

Imports neither torch nor transformers; knows nothing of layers and of text.
"""

from fedsim.checkpoints.gguf import Header, read_header
from fedsim.checkpoints.places import PACKAGE, is_place, located

__all__ = ["PACKAGE", "Header", "is_place", "located", "read_header"]
