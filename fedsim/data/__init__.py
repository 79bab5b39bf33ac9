"""Data sets and how they are spread over devices. Knows nothing of models, networks or schedulers.

Everything is NumPy. Importing this package imports neither torch nor pyarrow; a reader imports what it reads with.
"""

from fedsim.data.catalogue import DataInfo, names
from fedsim.data.custom import resolve
from fedsim.data.dataset import DataSet, Split, from_arrays
from fedsim.data.holdings import holdings, holdings_table
from fedsim.data.loading import default_folder, describe, load
from fedsim.data.partitions import PARTITIONS, ByShards, Contiguous, Dirichlet, Iid, Natural, Partition, Quantity
from fedsim.data.shards import Shards
from fedsim.data.text import Tokenizer, TokenOptions

__all__ = [
    "PARTITIONS",
    "ByShards",
    "Contiguous",
    "DataInfo",
    "DataSet",
    "Dirichlet",
    "Iid",
    "Natural",
    "Partition",
    "Quantity",
    "Shards",
    "Split",
    "TokenOptions",
    "Tokenizer",
    "default_folder",
    "describe",
    "from_arrays",
    "holdings",
    "holdings_table",
    "load",
    "names",
    "resolve",
]
