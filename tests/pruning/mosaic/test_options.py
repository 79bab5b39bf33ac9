"""Options of Mosaic and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from fedsim.pruning.mosaic.options import Mosaic


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sparsity": 1.0}, "sparsity 1.0 must be 0 or more and below 1, such as 0.6"),
        ({"most": -0.1}, "most -0.1 must be"),
        ({"alpha": 1.5}, "alpha 1.5 must be between 0 .unstructured. and 1"),
        ({"strength": 0.5}, "strength 0.5 must be 0 or more and below 0.5"),
        ({"outlier_factor": 0.0}, "outlier_factor 0.0 must be above 0"),
        ({"damping": 0.0}, "damping 0.0 must be above 0"),
        ({"columns": 0}, "columns 0 must be 1 or more"),
        ({"round_to": 0}, "round_to 0 must be 1 or more"),
        ({"protect_blocks": -1}, "protect_blocks -1 must be 0 or more"),
        ({"uniform_widths": True, "protect_blocks": 1}, "uniform_widths needs all blocks"),
        ({"uniform_widths": True, "scope": ("block1",)}, "uniform_widths needs all blocks"),
        ({"policy": "layers"}, "policy 'layers' is none of uniform, layer, projection-released"),
        ({"pruner": "obs"}, "pruner 'obs' is none of sparsegpt, wanda, magnitude"),
        ({"pattern": "2:4"}, "pattern 2:4 is the same share everywhere; set policy: uniform"),
        ({"pattern": "4:2", "policy": "uniform"}, "pattern '4:2' must be n:m with n below m"),
        ({"pattern": "2:4", "policy": "uniform", "alpha": 0.5}, "for unstructured pruning; set alpha: 0"),
        ({"pattern": "2:4", "policy": "uniform", "pruner": "magnitude"}, "not for magnitude"),
        ({"pattern": "1:4", "policy": "uniform"}, "removes 0.25; set sparsity: 0.25"),
        ({"pattern": "1:3", "policy": "uniform", "sparsity": 1 / 3}, "columns 128 must be a multiple of 3"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    """Every check says the value and the way out."""
    with pytest.raises(ValueError, match=message):
        Mosaic(**given)


def test_a_pattern_is_two_numbers() -> None:
    """n and m of n:m."""
    assert Mosaic(pattern="2:4", policy="uniform").zeros_of == (2, 4)
