"""What an auxiliary head costs beside its device block, and whether that is too much. Plain data; no torch here."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.costs import Cost, total
from fedsim.models.measure import ModelMeasure, backward_cost, forward_cost
from fedsim.models.options import Auxiliary
from fedsim.units import human_count


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadCost:
    """An auxiliary head in numbers. MACs are those of one sample."""

    model: str
    cut: int
    options: Auxiliary
    parameters: int
    bytes: int
    """Bytes of its parameters and buffers, which travel with the device block."""
    macs: int  # m_a
    """Forward, the products that belong to its loss included."""
    block_macs: int  # m_d
    """Forward through the device block."""
    block_bytes: int
    """Bytes of the device block's parameters and buffers."""
    training_macs: int
    """A device's for a trained sample: forward and backward of block and head."""
    split_macs: int
    """A device's for a trained sample without a head, where the gradient comes from the server (SFL)."""

    @property
    def macs_share(self) -> float:
        """The head's MACs over the device block's; infinite for a block that multiplies nothing."""
        return self.macs / self.block_macs if self.block_macs else float("inf")

    @property
    def bytes_share(self) -> float:
        """The head's bytes over the device block's."""
        return self.bytes / self.block_bytes if self.block_bytes else float("inf")

    @property
    def warning(self) -> str | None:
        """A sentence where the head outweighs the device block, judged by the two digits that it prints."""
        if round(self.macs_share, 2) <= self.options.warn:
            return None
        block = f"{self.macs_share:.2f} times its device block's {human_count(self.block_macs, 'MAC')}"
        whole = f"; devices compute {self.training_macs / max(1, self.split_macs):.3g} times what split learning asks"
        ways = {
            f"a ratio below {self.options.ratio:g}": self.options.kind in ("scaled_layer", "mirror", "mlp"),
            "vocabulary: sampled": self.options.vocabulary == "full",
            "kind: linear": self.options.kind != "linear",
            "a later cut": True,
        }
        return (
            f"the auxiliary head of {self.model} behind unit {self.cut} takes {human_count(self.macs, 'MAC')} a "
            f"sample, {block if self.block_macs else 'and its device block nothing'} (limit {self.options.warn:g})"
            f"{whole if self.split_macs else ''}; choose {' or '.join(way for way, open in ways.items() if open)}"
        )


def head_cost(model: ModelMeasure, cut: int, options: Auxiliary, head: ModelMeasure) -> HeadCost:
    """What `head`, measured, costs behind the first `cut` units of `model`."""
    block = model.units[:cut]
    alone = forward_cost(block, 1) + backward_cost(block, 1, to_input=False)
    loss = Cost(tuple(op.at(1) for op in (*head.loss_forward, *head.loss_backward)), 1)
    added = total((forward_cost(head.units, 1), loss, backward_cost(head.units, 1, to_input=True)))
    return HeadCost(
        model=model.name,
        cut=cut,
        options=options,
        parameters=head.parameters,
        bytes=sum(unit.state_bytes for unit in head.units),
        macs=added.forward_macs,
        block_macs=forward_cost(block, 1).macs,
        block_bytes=sum(unit.state_bytes for unit in block),
        training_macs=alone.macs + added.macs,
        split_macs=alone.macs,
    )
