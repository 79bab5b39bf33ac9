"""What Mosaic can be told. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

POLICIES: Final = ("uniform", "layer", "projection-released", "projection", "projection-own")
PRUNERS: Final = ("sparsegpt", "wanda", "magnitude")
Score = Literal["wanda", "magnitude", "taylor", "fluctuation"]
_PATTERN: Final = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True, kw_only=True)
class Mosaic:
    """How much is removed from the decoder blocks of a language model, and by which rules.

    Defaults are those of the public Mosaic code where it has the step; `alpha` above 0 (structured and composite
    pruning) is our reconstruction.
    """

    sparsity: float = 0.5  # s
    """Share of the parameters of the seven projections, over the blocks in scope, that is removed."""
    policy: str = "projection"
    """How the share differs between projections: `uniform`, `layer` (as OWL), `projection-released` (the public code),
    `projection` (the same with an exact budget), `projection-own` (each by its own outliers), or `module:Class`."""
    strength: float = 0.08  # lambda
    """Half the span of the shares over the blocks."""
    outlier_factor: float = 5.0  # M
    """A metric above so many times its mean is an outlier."""
    most: float = 0.95  # s_max
    """No projection loses a greater share."""
    alpha: float = 0.0
    """Part of the removed share that is cut out in whole heads and channels: 0 is unstructured, 1 is structured."""
    order: Literal["structured-first", "unstructured-first"] = "structured-first"
    """Which step is first where there are both."""
    pruner: str = "sparsegpt"
    """What sets weights to zero: `sparsegpt`, `wanda`, `magnitude`, or `module:Class`."""
    pattern: str | None = None
    """`n:m` sets n of every m consecutive weights of a row to zero, such as `2:4`; null has no pattern."""
    columns: int = 128
    """Columns of a matrix that `sparsegpt` chooses from at once."""
    damping: float = 0.01
    """What is added to a Hessian's diagonal, as a share of its mean, for `sparsegpt` and `least_squares`."""
    kv_unit: Literal["group", "query_head"] = "group"
    """What is cut from attention: a key and value head with its query heads, or one query head of every such group,
    which leaves the KV cache as it is."""
    unit_score: Score = "wanda"
    """By what heads and channels are chosen: the sum of the metric or of the magnitudes over their weights, the first
    order of the loss (LLM-Pruner), or the variance of their outputs (FLAP)."""
    protect_blocks: int = 0
    """So many first and last blocks of those in scope lose no heads and channels."""
    round_to: int = 8
    """Widths of MLPs stay multiples of this."""
    update: Literal["least_squares", "none"] = "least_squares"
    """Whether what stays of the output projections makes up for what was cut, on the calibration windows."""
    uniform_widths: bool = False
    """Give all blocks the same widths, which transformers' own file format needs."""
    scope: tuple[str, ...] = ()
    """Blocks to prune, by prefixes of their modules' names, such as `block1`; empty is all of them."""
    adapter: str | None = None
    """What finds the blocks, as `module:Class`; null knows Llama, Mistral, Qwen2 and Qwen3."""
    seed: int = 0
    """Of all that is drawn."""

    def __post_init__(self) -> None:
        _check_share("sparsity", self.sparsity, below=1.0)
        _check_share("most", self.most, below=1.0)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha {self.alpha} must be between 0 (unstructured) and 1 (structured)")
        if not 0 <= self.strength < 0.5:
            raise ValueError(f"strength {self.strength} must be 0 or more and below 0.5, such as 0.08")
        if not self.outlier_factor > 0:
            raise ValueError(f"outlier_factor {self.outlier_factor} must be above 0, such as 5")
        if not self.damping > 0:
            raise ValueError(f"damping {self.damping} must be above 0, such as 0.01")
        for name in ("columns", "round_to"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be 1 or more")
        if self.protect_blocks < 0:
            raise ValueError(f"protect_blocks {self.protect_blocks} must be 0 or more")
        if self.uniform_widths and (self.protect_blocks or self.scope):
            raise ValueError("uniform_widths needs all blocks; leave protect_blocks and scope out")
        for name, known in (("policy", POLICIES), ("pruner", PRUNERS)):
            value = getattr(self, name)
            if value not in known and ":" not in value:
                raise ValueError(f"{name} {value!r} is none of {', '.join(known)}, nor written as module:Class")
        if self.pattern is not None:
            self._check_pattern()

    def _check_pattern(self) -> None:
        zeros, group = self.zeros_of
        if self.policy != "uniform":
            raise ValueError(f"pattern {self.pattern} is the same share everywhere; set policy: uniform")
        if self.alpha:
            raise ValueError(f"pattern {self.pattern} is for unstructured pruning; set alpha: 0")
        if self.pruner == "magnitude":
            raise ValueError(f"pattern {self.pattern} is for pruner sparsegpt or wanda, not for magnitude")
        if Fraction(zeros, group) != Fraction(self.sparsity).limit_denominator(10**6):
            raise ValueError(f"pattern {self.pattern} removes {zeros / group}; set sparsity: {zeros / group}")
        if self.columns % group:
            raise ValueError(f"columns {self.columns} must be a multiple of {group}, for pattern {self.pattern}")

    @property
    def zeros_first(self) -> bool:
        """Whether what is cut depends on which weights are zero by then."""
        return self.order == "unstructured-first" and 0 < self.alpha < 1

    @property
    def data_free(self) -> bool:
        """Whether nothing depends on a text: all by magnitudes, and the same share everywhere."""
        cuts, zeros = self.alpha > 0, self.alpha < 1
        by_units = not cuts or (self.update == "none" and (self.unit_score == "magnitude" or self.zeros_first))
        return self.policy == "uniform" and by_units and (not zeros or self.pruner == "magnitude")

    @property
    def zeros_of(self) -> tuple[int, int]:
        """n and m of a pattern."""
        found = _PATTERN.fullmatch(self.pattern or "")
        zeros, group = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 0 < zeros < group:
            raise ValueError(f"pattern {self.pattern!r} must be n:m with n below m, such as 2:4")
        return zeros, group


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Training of a pruned model on text, after which what was zero is zero. Rank, rate and epochs are LLM-Pruner's."""

    kind: Literal["lora", "full"] = "lora"
    """Whether products of two small matrices (LoRA, arXiv 2106.09685) are added to the projections, or all parameters
    are trained."""
    rank: int = 8
    """Of the products."""
    scale: float = 2.0
    """What products are multiplied by; LLM-Pruner's 16 over a rank of 8."""
    lr: float = 1e-4
    """Learning rate of Adam."""
    epochs: int = 2
    """Passes over the windows."""
    batch: int = 4
    """Windows of a step."""
    clip: float = 1.0
    """Most that the norm of all gradients may be."""
    seed: int = 0
    """Of the first values of the products, and of the order of windows."""

    def __post_init__(self) -> None:
        for name in ("rank", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be 1 or more")
        for name in ("scale", "lr", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)} must be above 0")


def _check_share(name: str, share: float, below: float) -> None:
    if not 0 <= share < below:
        raise ValueError(f"{name} {share} must be 0 or more and below {below:g}, such as 0.6")
