"""Which channels are one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.models.building import build
from fedsim.models.options import MobileNet, Plain, ResNet
from fedsim.pruning.reconvene.coupling import Coupling, couple
from fedsim.pruning.reconvene.tracing import Port, trace
from tests.pruning.reconvene.networks import IMAGES, Dense, Depthwise, Projected, Squeeze


def sets(
    model: nn.Module, images: Tensor = IMAGES, **options: tuple[str, ...]
) -> dict[str, tuple[int, tuple[str, ...]]]:
    """By the first layer: how many units, and all layers that make them."""
    return {each.name: (each.units, each.layers) for each in couple(model, images, **options).sets}


def test_a_chain() -> None:
    """Each convolution's outputs are their own; the input's channels and the classifier's outputs belong to none."""
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.Flatten(), nn.Linear(20, 3))
    assert sets(model) == {"0": (6, ("0",)), "2": (5, ("2",))}
    places = couple(model, IMAGES).sets[1].places
    assert places[Port("4", "in")].tolist() == [[4 * c, 4 * c + 1, 4 * c + 2, 4 * c + 3] for c in range(5)]


def test_residual_branches_share_their_units() -> None:
    """What is added must be cut alike; what lies inside a branch is its own."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1), Projected(4, 6, "bn"), Projected(6, 6, "bn"), nn.Conv2d(6, 3, 1))
    assert sets(model) == {
        "0": (4, ("0",)),
        "1.first": (7, ("1.first",)),
        "1.second": (6, ("1.second", "1.shortcut")),
        "2.first": (7, ("2.first",)),
        "2.second": (6, ("2.second", "2.shortcut")),
    }


def test_depthwise_layers_and_gates_follow() -> None:
    """A depthwise convolution makes no units, gates those of what they scale, and a squeezed layer its own."""
    model = nn.Sequential(Depthwise(2, 4, "bn"), Squeeze(4, 6, "bn"), nn.Conv2d(6, 3, 1))
    assert sets(model) == {
        "0.expand": (4, ("0.expand",)),
        "0.project": (4, ("0.project",)),
        "1.conv": (6, ("1.conv", "1.excite")),
        "1.squeeze": (3, ("1.squeeze",)),
    }
    assert Port("0.filter", "out") in couple(model, IMAGES).sets[0].places


def test_a_shortcut_around_the_first_layer_keeps_it_whole() -> None:
    """What is added to the input cannot lose a channel."""
    model = nn.Sequential(Depthwise(2, 2, "bn"), nn.Conv2d(2, 3, 1))
    assert sets(model) == {"0.expand": (4, ("0.expand",))}


def test_concatenated_parts_are_cut_by_themselves() -> None:
    """Each at its own place in what reads them."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1), Dense(4, 3, "bn"), Dense(7, 2, "bn"), nn.Conv2d(9, 3, 1))
    coupling = couple(model, IMAGES)
    assert [(each.name, each.units) for each in coupling.sets] == [("0", 4), ("1.conv", 3), ("2.conv", 2)]
    assert [each.places[Port("3", "in")].ravel().tolist() for each in coupling.sets] == [
        [0, 1, 2, 3],
        [4, 5, 6],
        [7, 8],
    ]


class Twice(nn.Module):
    """The same map twice over, added to a wider one: channel c is one with channels c and c + 3 of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide, self.out = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 6, 1), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Three outputs a place."""
        y = self.narrow(x)
        made: Tensor = self.out(torch.cat([y, y], 1) + self.wide(x))
        return made


def test_what_is_coupled_by_way_of_another_layer() -> None:
    """One unit has two places in the wider layer, which torch-pruning's group of that layer alone does not show."""
    (only,) = couple(Twice(), IMAGES).sets
    assert only.layers == ("narrow", "wide")
    assert only.units == 3
    assert only.places[Port("wide", "out")].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_padded_shortcut_couples_the_first_channels() -> None:
    """The stream of ResNet-20 is three sets: what all stages have, what the second adds, and what the third does."""
    model = build("resnet20", Plain(), input=(3, 8, 8), classes=4, kind="image", device="cpu")
    found = {name: (units, len(layers)) for name, (units, layers) in sets(model, torch.zeros(2, 3, 8, 8)).items()}
    assert found["stem.0"] == (16, 10)
    assert found["block2_1.conv2"] == (16, 6)
    assert found["block3_1.conv2"] == (32, 3)
    assert found["block1_1.conv1"] == (16, 1)
    assert len(found) == 12


class Foreign(nn.Module):
    """Operators that do not only pass channels on."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.last, self.kind = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 3, 1), kind

    def forward(self, x: Tensor) -> Tensor:
        """Three outputs a place."""
        y = self.first(x)
        match self.kind:
            case "shuffle":
                y = y.view(len(y), 2, 2, *y.shape[2:]).transpose(1, 2).flatten(1, 2)
            case "padded":
                y = nn.functional.pad(y[:, :2], (0, 0, 0, 0, 1, 1))
            case "halves":
                y = torch.cat(y.chunk(2, 1)[::-1], 1)
            case "attention":
                y = y * y.amax(1, keepdim=True)
            case "turned":
                y = y.transpose(1, 2).flip(1).transpose(1, 2)
            case _:
                pass
        made: Tensor = self.last(y)
        return made


@pytest.mark.parametrize("kind", ["shuffle", "padded", "halves", "attention", "turned"])
def test_channels_that_are_moved_or_mixed_stay(kind: str) -> None:
    """Nothing is cut that could not be followed; without such an operator the layer can be."""
    assert sets(Foreign("")) == {"first": (4, ("first",))}
    assert sets(Foreign(kind)) == {}


def test_layers_of_other_kinds_stay() -> None:
    """Grouped convolutions, layers on sequences, layers called by two names, and layers with one channel."""
    grouped = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 3, 1))
    assert sets(grouped) == {}
    tied = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1))
    tied[2].weight = tied[1].weight
    assert sets(tied) == {}
    layer = nn.Conv2d(2, 2, 1)
    assert sets(nn.Sequential(layer, layer, nn.Conv2d(2, 4, 1), nn.Conv2d(4, 3, 1))) == {"2": (4, ("2",))}
    assert sets(nn.Sequential(nn.Conv2d(2, 1, 1), nn.Conv2d(1, 3, 1))) == {}
    rows = nn.Sequential(nn.Flatten(2), nn.Linear(36, 5), nn.Linear(5, 3))
    assert sets(rows) == {}


def test_protected_outputs() -> None:
    """A module's outputs stay with everything that is one with them; what lies inside it need not."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1), Projected(4, 6, "bn"), nn.Conv2d(6, 5, 1), nn.Conv2d(5, 3, 1))
    assert sets(model, protected=("1",)).keys() == {"0", "1.first", "2"}
    assert sets(model, protected=("1.shortcut", "0")).keys() == {"1.first", "2"}
    with pytest.raises(UserError, match="protected: there is no module 7 in this model; its parts are 0, 1, 2, 3"):
        couple(model, IMAGES, protected=("7",))


def test_a_scope_keeps_what_others_read() -> None:
    """Nothing outside changes shape, so what is read outside stays whole."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1), Projected(4, 6, "bn"), nn.Conv2d(6, 5, 1), nn.Conv2d(5, 3, 1))
    assert sets(model, scope=("0", "1")).keys() == {"0", "1.first"}
    assert sets(model, scope=("2", "3")).keys() == {"2"}
    assert sets(model, scope=("1.fir",)) == {}


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [("resnet50", ResNet(width_ratio=0.0625), 37), ("mobilenetv3_large", MobileNet(width_ratio=0.1), 27)],
)
@pytest.mark.slow
def test_networks_of_the_zoo(name: str, options: object, count: int) -> None:
    """Everything but the classifier can be cut."""
    model = build(name, options, input=(3, 32, 32), classes=4, kind="image", device="cpu")
    coupling: Coupling = couple(model, torch.zeros(2, 3, 32, 32))
    makers = {layer for each in coupling.sets for layer in each.layers}
    whole = [n for n, p in model.named_modules() if isinstance(p, nn.Conv2d) and n not in makers and p.groups == 1]
    assert not whole
    assert len(coupling.sets) == count


def test_the_model_is_left_as_it_was() -> None:
    """Modes, hooks and statistics."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4).eval(), nn.Conv2d(4, 3, 1)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model[1].eval()
    trace(model, IMAGES, ("0",))
    assert [part.training for part in model.modules()] == [True, True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


class Untraceable(nn.Sequential):
    """Gives a word beside its output."""

    def forward(self, input: Tensor) -> tuple[Tensor, str]:
        """Three outputs a place."""
        made: Tensor = self[0](input)
        return made, "word"


def test_a_model_that_cannot_be_traced() -> None:
    """With the reason."""
    with pytest.raises(UserError, match=r"the model does not take inputs of shape \(2, 2, 6, 6\): .*expected input"):
        trace(nn.Sequential(nn.Conv2d(5, 4, 1)), IMAGES)
    with pytest.raises(UserError, match="torch-pruning cannot trace this model: AttributeError"):
        trace(Untraceable(nn.Conv2d(2, 4, 1)), IMAGES)
