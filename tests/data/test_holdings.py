"""Who holds what, as numbers and as text."""

import numpy as np

from fedsim.data import Dirichlet, Iid, Shards, holdings, holdings_table
from fedsim.seeds import generator


def test_counts() -> None:
    """Counts are of classes on devices; of text, of tokens."""
    shards = Shards.of(np.array([0, 1, 0]), 3)
    assert holdings(shards, np.array([0, 1, 1]), 3).tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    text = np.array([[0, 0], [1, 2], [2, 2]])
    assert holdings(shards, text, 3).tolist() == [[2, 0, 2], [0, 1, 1], [0, 0, 0]]


def test_small_table() -> None:
    """Every device has a row, with a shade a class, and the spread stands below."""
    shards = Shards.of(np.array([0] * 8 + [1] * 5), 2)
    labels = np.array([0] * 8 + [0, 1, 1, 1, 1])
    assert holdings_table(shards, labels, 3).split("\n") == [
        "  device  samples  classes  class",
        "       0        8        1  █··",
        "       1        5        2  ▁▄·",
        "     min        5        1",
        "  median      6.5      1.5",
        "     max        8        2",
        "     all       13        2  █▄·",
    ]


def test_large_table_is_short() -> None:
    """A thousand devices are summarised: the ends, how many are left out, and the spread."""
    labels = generator(0, -1, "labels").integers(0, 10, 50_000)
    shards = Dirichlet(alpha=0.3).deal(labels, None, 1000, generator(0, -1, "partition"))
    lines = holdings_table(shards, labels, 10).split("\n")
    assert len(lines) == 14
    assert "992 more" in lines[5]
    assert lines[6].split()[0] == "996"
    assert str(shards.sizes().max()) in lines[-2]


def test_many_classes_share_columns() -> None:
    """Two hundred classes fit a terminal."""
    labels = np.arange(1000) % 200
    table = holdings_table(Iid().deal(labels, None, 4, generator(0, -1, "partition")), labels, 200)
    assert "class (200 in 50 columns)" in table
    assert max(map(len, table.split("\n"))) <= 80
