"""`fedsim prune` in this process: its tables, its JSON, every option, what it writes, and what it says of mistakes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fedsim.cli import main
from fedsim.models.building import build
from fedsim.models.options import Plain
from fedsim.pruning.storing import read
from tests.experiment.pruning.models import IMAGES, LENGTH, LLAMA, published, text, tokenizer

VGG = ("vgg5", *IMAGES, "--set", "budget.params=40 %")
ADVISE = ("--advise", "--profile", "jetson-nano")
METHODS = "tests.experiment.pruning.models"

KEYS = {
    "schema",
    "model",
    "method",
    "options",
    "seed",
    "privacy",
    "calibration",
    "advice",
    "targets",
    "parent",
    "pruned",
    "baselines",
    "layers",
    "outliers",
    "checks",
    "checked",
    "recovery",
    "reinitialised",
    "timings",
    "peak_memory_bytes",
    "profile",
    "threads",
    "evaluated",
    "notices",
    "notes",
    "written",
}
MODEL_KEYS = {
    "parameters",
    "nonzero",
    "decoder",
    "decoder_nonzero",
    "macs",
    "disk",
    "wire",
    "update",
    "resident",
    "cache",
    "quality",
    "time",
    "priced",
}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))


class Said:
    """What a command has printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def document(self, *arguments: str) -> dict[str, Any]:
        """Of a command that works, with --json."""
        status = main(["prune", *arguments, "--json"])
        out, err = self._capsys.readouterr()
        assert (status, err) == (0, "")
        found: dict[str, Any] = json.loads(out)
        return found

    def table(self, *arguments: str) -> tuple[str, str]:
        """Of a command that works: standard output and standard error."""
        assert main(["prune", *arguments]) == 0
        found = self._capsys.readouterr()
        return found.out, found.err

    def error(self, *arguments: str, status: int = 2) -> str:
        """Of one that does not; it has written nothing."""
        before = _files()
        assert main(["prune", *arguments]) == status
        out, err = self._capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1, "one sentence"
        assert _files() == before
        return err.removeprefix("error: ").strip()


def page_of(folder: str) -> str:
    """The report as it is read."""
    return unescape((Path(folder) / "report.html").read_text(encoding="utf-8"))


def _files() -> set[str]:
    return {str(path) for path in Path().rglob("*") if not str(path).startswith("cache")}


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Commands, and what they print."""
    return Said(capsys)


def llama(*more: str, sparsity: float = 0.5) -> tuple[str, ...]:
    """A tiny llama, pruned on the words."""
    calibrated = ("--calibration", text(Path()), "--length", str(LENGTH), "--windows", "4")
    return (*LLAMA, "--set", f"sparsity={sparsity}", *calibrated, *more)


# ------------------------------------------------------------------------------------------------ output


@pytest.mark.slow
def test_the_table_says_target_sizes_checks_and_what_is_reconstruction(said: Said) -> None:
    """For people; the place of the folder last."""
    out, err = said.table(*VGG, "--out", "small")
    for piece in (
        "params of the parent's",
        "40.00 %",
        "parameters held",
        "bytes on disk",
        "bytes on the wire",
        "bytes resident",
        "MACs of a sample",
        "conv3.0",
        "runs",
        "equivalent",
        "predicted size",
        "something removed",
        "shared weights",
        "study",
        "peak memory",
        "reconvene is a reconstruction after the paper's abstract",
    ):
        assert piece in out
    assert out.rstrip().endswith("small")
    assert err == ""
    assert {path.name for path in Path("small").iterdir()} == {"manifest.json", "model.safetensors", "report.html"}


@pytest.mark.slow
def test_the_json_of_images_has_its_keys(said: Said) -> None:
    """And the figures agree with one another."""
    found = said.document(*VGG, "--out", "small")
    assert found.keys() == KEYS
    assert found["parent"].keys() == found["pruned"].keys() == MODEL_KEYS
    assert found["schema"] == 1
    assert found["method"] == "reconvene"
    assert found["model"]["input"] == [1, 8, 8]
    (target,) = found["targets"]
    assert target["target"] == 0.4
    assert target["realised"] == found["pruned"]["parameters"] / found["parent"]["parameters"] <= 0.4
    assert found["checks"]["removed"] == found["parent"]["parameters"] - found["pruned"]["parameters"]
    assert found["pruned"]["disk"] == Path("small/model.safetensors").stat().st_size
    assert found["timings"].keys() >= {"load", "study", "plan", "cut", "verify", "rectify"}
    assert found["written"]["folder"] == "small"
    assert found["outliers"] is None
    assert len(found["checked"]) == 5


@pytest.mark.slow
def test_the_json_of_text_has_projections_and_outliers(said: Said) -> None:
    """Seven of each block, target and realised within a tenth of a point or one weight; a heat map's figures."""
    found = said.document(*llama("--set", "alpha=0.5", "--set", "round_to=1", "--out", "small"))
    assert found.keys() == KEYS
    assert len(found["layers"]) == 14
    for row in found["layers"]:
        assert row["realised"] == pytest.approx(row["target"], abs=max(0.001, 2 / row["held"]))
        assert row["zeros"] == pytest.approx(row["zeros_target"], abs=max(0.001, 2 / row["held"]))
    (target,) = found["targets"]
    assert target["realised"] == pytest.approx(0.5, abs=0.002)
    assert found["pruned"]["decoder_nonzero"] == pytest.approx(0.5 * found["parent"]["decoder"], rel=0.004)
    assert found["pruned"]["decoder"] < found["parent"]["decoder"]
    assert [block["projections"].keys() for block in found["outliers"]["blocks"]] == [
        {"q", "k", "v", "o", "gate", "up", "down"}
    ] * 2
    assert found["calibration"] == "4 windows of 16 tokens of words.txt by tokenizer bytes, seed 0"
    assert any("zeros" in notice for notice in found["notices"])
    page = Path("small/report.html").read_text(encoding="utf-8")
    assert "Outlier distribution" in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.slow
def test_cutting_alone_leaves_no_zeros_and_no_notice_of_them(said: Said) -> None:
    """Every weight that is held may be other than zero."""
    found = said.document(*llama("--set", "alpha=1", "--set", "round_to=1"))
    assert not any("zeros" in notice for notice in found["notices"])
    assert all(row["zeros"] == 0 for row in found["layers"])


# ------------------------------------------------------------------------------------------------ options


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "key", "differs"),
    [
        (("--seed", "1"), "model", True),
        (("--norm", "gn"), "model", True),
        (("--classes", "7"), "model", True),
        (("--input", "3x8x8"), "model", True),
        (("--set", "score=magnitude"), "layers", True),
        (("--threads", "1"), "layers", False),
    ],
)
def test_options_of_the_model_and_the_method_change_it(
    more: Sequence[str], key: str, differs: bool, said: Said
) -> None:
    """And those that do not concern it leave it as it is."""
    assert (said.document(*VGG)[key] != said.document(*VGG, *more)[key]) is differs


@pytest.mark.slow
def test_trained_weights_are_kept_and_a_note_says_so(said: Said) -> None:
    """Ordinary structured pruning, then; nothing gets new initial values."""
    network = build("vgg5", Plain(), input=(1, 8, 8), classes=10, kind="image", device="cpu", seed=5)
    save_file(network.state_dict(), "trained.safetensors")
    found = said.document(*VGG, "--weights", "trained.safetensors", "--out", "small")
    assert found["reinitialised"] == []
    assert any("weights are trained" in note for note in found["notes"])
    kept = read(Path("small")).module.get_parameter("conv1.0.weight")
    assert torch.equal(kept, network.get_parameter("conv1.0.weight")[: len(kept)])
    assert said.document(*VGG)["reinitialised"] != []


@pytest.mark.slow
def test_a_profile_prices_a_forward_and_budgets_of_time(said: Said) -> None:
    """By its cost model, parent and pruned."""
    found = said.document("vgg5", *IMAGES, "--profile", "pi-tier-1", "--set", "budget.latency=60 %")
    assert found["profile"] == "pi-tier-1"
    (target,) = found["targets"]
    assert target["name"] == "latency"
    assert target["realised"] <= 0.6
    assert found["pruned"]["priced"] / found["parent"]["priced"] == pytest.approx(target["realised"])


@pytest.mark.slow
def test_a_batch_is_what_a_budget_of_memory_is_for(said: Said) -> None:
    """The more samples, the more the same budget takes away."""
    sizes = [
        said.document("mlp", "--input", "64", "--set", "budget.memory=45 kB", "--batch", batch)["pruned"]["parameters"]
        for batch in ("1", "64")
    ]
    assert sizes[0] > sizes[1]


@pytest.mark.slow
def test_a_stopwatch_times_the_parent_beside_it(said: Said) -> None:
    """Batches of images; a prompt of text; nothing without --time."""
    found = said.document(*VGG, "--time", "--threads", "1")
    for model in (found["parent"], found["pruned"]):
        assert model["time"].keys() == {"forward, batch 1", "forward, batch 32"}
        assert all(0 < each["p50"] <= each["p95"] and each["repeats"] >= 5 for each in model["time"].values())
    assert said.document(*llama("--time"))["pruned"]["time"].keys() == {f"prompt of {LENGTH} tokens"}
    assert said.document(*VGG)["pruned"]["time"] == {}
    out, _ = said.table(*VGG, "--time")
    assert "forward, batch 1, p95 (this host, 1 thread)" in out


@pytest.mark.slow
def test_both_are_evaluated_on_named_data(said: Said) -> None:
    """On as many samples as are asked for; the data set gives shape and classes."""
    found = said.document("vgg5", "--data", "digits", "--set", "budget.params=0.4", "--evaluate", "digits")
    assert found["model"]["input"] == [1, 8, 8]
    assert found["parent"]["quality"].keys() == {"accuracy", "loss", "samples"}
    assert found["pruned"]["quality"]["samples"] == 360
    fewer = said.document(*VGG, "--evaluate", "digits", "--samples", "20")
    assert fewer["pruned"]["quality"]["samples"] == 20
    out, _ = said.table(*VGG, "--evaluate", "digits", "--samples", "20")
    assert "accuracy (digits, 20 samples)" in out


@pytest.mark.slow
def test_text_has_perplexity_with_its_windows(said: Said) -> None:
    """Of untrained bytes about 256."""
    found = said.document(*llama("--evaluate", text(Path()), "--samples", "5"))
    assert found["parent"]["quality"].keys() == {"perplexity", "top1", "windows", "length"}
    assert (found["pruned"]["quality"]["windows"], found["pruned"]["quality"]["length"]) == (5, LENGTH)
    assert found["parent"]["quality"]["perplexity"] == pytest.approx(256, rel=0.2)
    out, _ = said.table(*llama("--evaluate", text(Path()), "--samples", "5"))
    assert "perplexity (words.txt, 5 windows of 16)" in out


@pytest.mark.slow
def test_a_named_text_is_calibrated_on_one_part_and_evaluated_on_the_other(said: Said) -> None:
    """On the validation file and on the test file."""
    Path("wikitext2-valid.txt").write_text("the cat sat on a mat . " * 60, encoding="utf-8")
    Path("wikitext2-test.txt").write_text("while birds sang over the lake , " * 60, encoding="utf-8")
    common = (*LLAMA, "--length", str(LENGTH), "--windows", "4", "--set", "sparsity=0.5", "--data-path", ".")
    named = said.document(*common, "--calibration", "wikitext2", "--evaluate", "wikitext2", "--samples", "4")
    files = ("--calibration", "wikitext2-valid.txt", "--evaluate", "wikitext2-test.txt", "--samples", "4")
    found = said.document(*common, *files)
    assert named["pruned"]["quality"] == found["pruned"]["quality"]
    assert named["layers"] == found["layers"]
    other = said.document(*common, "--calibration", "wikitext2-test.txt", "--evaluate", "wikitext2-valid.txt")
    assert other["pruned"]["quality"] != found["pruned"]["quality"]


@pytest.mark.slow
def test_scores_that_look_at_data_get_some(said: Said) -> None:
    """What was cut is then known to depend on public data, or on the devices' own."""
    asked = ("vgg5", "--data", "digits", "--set", "budget.params=0.4", "--set", "score=snip")
    assert said.document(*asked)["privacy"] == "public"
    private = said.document(*asked, "--private")
    assert private["privacy"] == "device-private"
    assert any("data of devices" in notice for notice in private["notices"])
    assert said.document(*llama("--private"))["privacy"] == "device-private"


@pytest.mark.slow
def test_baselines_are_of_its_size_and_have_folders_beside_it(said: Said) -> None:
    """All but the dense one, which is the parent."""
    found = said.document(*VGG, "--baselines", "all", "--out", "small", "--evaluate", "digits", "--samples", "20")
    assert set(found["baselines"]) == {"upai", "uniform", "all-layers", "random-layers", "inverted"}
    for name, each in found["baselines"].items():
        assert each["nonzero"] == pytest.approx(found["pruned"]["parameters"], rel=0.03), name
        assert each["quality"]["samples"] == 20
        assert found["written"]["baselines"][name] == f"small-{name}"
        assert read(Path(f"small-{name}")).manifest.counts.nonzero == each["nonzero"]
    assert found["baselines"]["upai"]["parameters"] == found["parent"]["parameters"]
    assert said.document(*VGG, "--baselines", "uniform,dense")["baselines"].keys() == {"uniform"}
    out, _ = said.table(*VGG, "--baselines", "uniform")
    assert "uniform" in out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "text"])
def test_a_ranking_is_made_once_and_serves_other_targets(kind: str, said: Said) -> None:
    """The same file, byte for byte; the same plan as without it."""
    first, other = (
        (VGG, ("vgg5", *IMAGES, "--set", "budget.params=20 %")) if kind == "images" else (llama(), llama(sparsity=0.3))
    )
    said.document(*first, "--ranking", "ranks/known")
    made = Path("ranks/known").read_bytes()
    again = said.document(*other, "--ranking", "ranks/known")
    assert Path("ranks/known").read_bytes() == made
    assert again["layers"] == said.document(*other)["layers"]
    assert again["written"]["ranking"] == "ranks/known"


@pytest.mark.slow
def test_a_ranking_of_public_text_hides_no_private_text(said: Said) -> None:
    """Zeros are chosen on what is at hand now; both texts are named."""
    text(Path(), "other.txt", 30)
    said.document(*llama("--ranking", "rank"))
    private = ("--calibration", "other.txt", "--private", "--out", "small", "--ranking", "rank")
    found = said.document(*llama(*private))
    assert found["privacy"] == "device-private"
    assert found["calibration"] == (
        "ranked on 4 windows of 16 tokens of words.txt by tokenizer bytes, seed 0; pruned on 4 windows of 16 tokens of "
        "other.txt by tokenizer bytes, seed 0"
    )
    assert json.loads(Path("small/manifest.json").read_text())["ranking"]["calibration"] == found["calibration"]
    free = ("policy=uniform", "pruner=magnitude", "update=none")
    chosen = said.document(*llama("--private", *(f"--set={each}" for each in free)))
    assert chosen["privacy"] == "data-free"


@pytest.mark.slow
def test_published_models_go_with_their_tokenizer(said: Said) -> None:
    """So that a folder is evaluated without being told."""
    published(Path("model"))
    tokenizer(Path("model/tokenizer.json"))
    asked = ("model", "--calibration", text(Path()), "--length", "8", "--windows", "4", "--set", "sparsity=0.5")
    found = said.document(*asked, "--evaluate", text(Path()), "--samples", "3", "--out", "small")
    assert (Path("small") / "tokenizer.json").is_file()
    again = said.document("small", "--evaluate", text(Path()), "--samples", "3", "--length", "8")
    assert again["pruned"]["quality"] == found["pruned"]["quality"]
    assert again["parent"] is None
    assert again["method"] == "mosaic"
    assert again["layers"] == found["layers"]
    assert again["checks"] == found["checks"]
    assert again["pruned"]["disk"] == found["pruned"]["disk"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "kind", "alpha"),
    [
        ((), "unstructured", 0.0),
        (("--set", "needs.download=110 kB"), "unstructured", 0.0),
        (("--set", "needs.seconds=1027 us"), "structured", 1.0),
        (("--set", "needs.download=110 kB", "--set", "alpha=0.25"), "composite", 0.25),
        (
            ("--set", "needs.download=110 kB", "--set", "alpha=0.25", "--set", "order=unstructured-first"),
            "composite",
            0.25,
        ),
    ],
)
def test_a_device_decides_on_the_kind_and_the_share(more: tuple[str, ...], kind: str, alpha: float, said: Said) -> None:
    """What is cut is what the advice says, and what was asked for holds."""
    found = said.document(*llama("--set", "round_to=1", *ADVISE, *more, "--out", "small"))
    advice = found["advice"]
    assert (advice["kind"], advice["alpha"]) == (kind, alpha)
    assert (found["options"]["sparsity"], found["options"]["alpha"]) == (advice["sparsity"], alpha)
    assert found["pruned"]["parameters"] * 4 == advice["pruned"]["weights"]
    (target,) = found["targets"]
    assert target["realised"] == pytest.approx(advice["sparsity"], abs=0.01)
    if more:
        limit = "download" if "needs.download=110 kB" in more else "seconds"
        most = 110e3 if limit == "download" else 1.027e-3
        assert advice["pruned"][limit] <= most < advice["dense"][limit]
        assert advice["binds"] == ["download" if limit == "download" else "time"]
    else:
        assert (advice["binds"], advice["sparsity"]) == ([], 0.5)
    assert f"advice for jetson-nano: {advice['text']}" in page_of("small")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_what_was_pruned_is_trained_and_stays_pruned(kind: str, said: Said) -> None:
    """Its loss falls, it says so, and the folder has the trained weights with their zeros."""
    given = llama("--set", "sparsity=0.5", "--seed", "3")
    evaluated = ("--evaluate", "words.txt", "--samples", "4")
    before = said.document(*given, *evaluated)
    trained = ("--recover", kind, "--set", "recover.epochs=3", "--set", "recover.lr=0.01", "--set", "recover.batch=2")
    found = said.document(*given, *evaluated, *trained, "--out", "small")
    assert before["recovery"] is None
    recovery = found["recovery"]
    assert recovery["options"] == {
        "kind": kind, "rank": 8, "scale": 2.0, "lr": 0.01, "epochs": 3, "batch": 2, "clip": 1.0, "seed": 3
    }  # fmt: skip
    assert recovery["steps"] == 6
    assert recovery["losses"][0] > recovery["losses"][-1]
    assert found["pruned"]["quality"]["perplexity"] < 0.9 * before["pruned"]["quality"]["perplexity"]
    assert found["pruned"]["nonzero"] <= before["pruned"]["nonzero"]
    assert "recover" in found["timings"]
    stored = read(Path("small"))
    for name, mask in stored.support.masks.items():
        weight = stored.module.state_dict()[name]
        assert not weight[~torch.from_numpy(mask)].any()
    assert f"recovery: {kind}, 6 steps of 2 windows" in page_of("small")
    again = said.document("small", "--length", str(LENGTH), *evaluated)
    assert again["recovery"] == recovery
    assert again["pruned"]["quality"] == found["pruned"]["quality"]


@pytest.mark.slow
def test_models_whose_blocks_are_alike_go_to_hugging_face(said: Said) -> None:
    """And can be pruned from there again; the embedding stays tied."""
    published(Path("model"))
    asked = ("--tokenizer", "bytes", "--calibration", text(Path()), "--length", str(LENGTH), "--set", "sparsity=0.4")
    widths = ("--set", "alpha=1", "--set", "round_to=1", "--set", "uniform_widths=true")
    found = said.document("model", *asked, *widths, "--hugging-face", "smaller", "--time")
    assert found["checks"]["shared"] == [["model.embed_tokens.weight", "lm_head.weight"]]
    assert f"one token after {LENGTH}" in found["pruned"]["time"]
    assert found["written"]["hugging_face"] == "smaller"
    again = said.document("smaller", *asked, *widths)
    assert again["parent"]["parameters"] == found["pruned"]["parameters"]


@pytest.mark.slow
def test_networks_of_images_go_to_onnx(said: Said) -> None:
    """Which gives the same outputs."""
    onnxruntime = pytest.importorskip("onnxruntime")
    said.document(*VGG, "--out", "small", "--onnx", "small.onnx")
    stored = read(Path("small")).module.eval()
    inputs = torch.rand(3, 1, 8, 8)
    session = onnxruntime.InferenceSession("small.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), stored(inputs), rtol=1e-4, atol=1e-5)
    said.document("small", "--onnx", "again.onnx")
    assert Path("again.onnx").stat().st_size > 0


@pytest.mark.slow
def test_a_method_of_ones_own_is_named_by_module_and_class(said: Said) -> None:
    """With its own options; masks of its own are in the table."""
    asked = ("vgg5", *IMAGES, "--method", "tests.experiment.cropping:Crop")
    found = said.document(*asked, "--set", "keep=8", "--set", "masked=0.5", "--out", "small")
    assert found["method"] == "crop"
    rows = {row["layer"]: row for row in found["layers"]}
    assert rows["conv1.0"]["kept"] == 8
    assert rows["conv2.0.weight"]["realised"] == pytest.approx(0.5, abs=0.01)
    assert found["targets"] == []


@pytest.mark.slow
def test_a_portfolio_has_variants_without_empty_filters(said: Said) -> None:
    """Smaller and smaller, each measured, and in a folder of its own."""
    given = ("vgg5", "--data", "digits", "--portfolio", "1,16,64")
    found = said.document(*given, "--profile", "jetson-nano", "--evaluate", "digits", "--time", "--out", "some")
    assert list(found["variants"]) == ["1", "16", "64"]
    first, _, last = found["variants"].values()
    assert first["units"].keys() == {"live"}
    assert first["quality"]["accuracy"] == found["parent"]["quality"]["accuracy"]
    assert first["parameters"] < found["parent"]["parameters"], "batch norms are fused"
    assert last["parameters"] < first["parameters"] / 16
    for variant in found["variants"].values():
        sent = 4 * variant["nonzero"] + (0 if variant is first else variant["parameters"] / 8)
        assert variant["wire"] == pytest.approx(sent, rel=0.05), "zeros are not sent"
    assert last["units"]["live"] < first["units"]["live"]
    for variant in found["variants"].values():
        assert variant["difference"] <= 1e-5
        assert variant["switching"] > 0
        assert 0 < variant["priced"] < found["parent"]["priced"]
        assert variant["time"].keys() == found["parent"]["time"].keys() != set()
    index = json.loads(Path("some/portfolio.json").read_text(encoding="utf-8"))
    assert index["64"]["quality"] == last["quality"]
    assert index["64"]["counts"]["parameters"] == last["parameters"]
    assert {path.name for path in Path("some").iterdir()} == {"1", "16", "64", "portfolio.json"}
    out, _ = said.table(*given)
    for piece in ("whole", "64 times", "filters removed", "it is not trained", "reconstruction of DNNShifter"):
        assert piece.replace("it is", "the network is") in out


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "pieces"),
    [
        (("vgg6",), ("unknown model 'vgg6'", "did you mean vgg16?", ".gguf")),
        (("missing.gguf",), ("missing.gguf does not exist", "package:NAME")),
        (("./nowhere",), ("nowhere does not exist",)),
        (("package:no_such_package",), ("no such package is installed",)),
        (("vgg5", "--method", "reconvne"), ("unknown pruning method 'reconvne'", "did you mean reconvene?")),
        (("vgg5", "--method", f"{METHODS}:NoMethod"), ("is no pruning method", "@dataclass")),
        (("vgg5", "--method", f"{METHODS}:Half"), ("has no study", "Method")),
        (("vgg5", *IMAGES), ("neither a budget nor a density", "--set budget.params='25 %'")),
        (("vgg5", "--set", "budgt.params=1"), ("budgt: unknown key", "did you mean budget?")),
        (("vgg5", "--set", "budget.parms=1"), ("budget.parms: unknown key", "did you mean params?")),
        (("vgg5", "--set", "budget.params=-3 %"), ("budget", "above 0")),
        (("vgg5", "--set", "sparsity"), ("not of the form key=value",)),
        (("vgg5", "--set", "a..b=1"), ("not of the form key=value",)),
        (("vgg5", "--set", "budget=1", "--set", "budget.params=1"), ("budget was set to 1 before",)),
        (("vgg5", "--set", "gamma=[1"), ("--set gamma", "close the")),
        (("vgg5", "--set", "model=3"), ("--set model=3 names no option", "--set model.width_ratio=0.25")),
        (("vgg11", "--set", "model.width=1"), ("model vgg11: model.width: unknown key", "width_ratio")),
        ((*VGG, "--norm", "batch"), ("unknown norm 'batch'", "bn")),
        ((*VGG, "--input", "3x32"), ("--input '3x32' is no shape", "3x32x32")),
        ((*VGG, "--input", "0x8x8"), ("is no shape",)),
        ((*VGG, "--data", "digits", "--input", "3x8x8"), ("--input 3x8x8, but samples of digits have 1x8x8",)),
        ((*VGG, "--data", "digits", "--classes", "3"), ("--classes 3, but samples of digits have 10",)),
        ((*VGG, "--weights", "none"), ("there are no weights in none",)),
        ((*VGG, "--profile", "raspberry"), ("unknown profile 'raspberry'",)),
        ((*VGG, "--evaluate", "fashion-mnst"), ("unknown data set 'fashion-mnst'", "fashion-mnist")),
        (("vgg5", "--set", "budget.params=1", "--evaluate", "digits"), ("samples of 1x8x8", "--input")),
        ((*VGG, "--baselines", "uniform,dens"), ("unknown baseline 'dens'", "dense")),
        ((*VGG, "--calibration", "words.txt"), ("--calibration is text", "--data NAME")),
        ((*VGG, "--set", "score=snip"), ("score snip looks at samples", "--data NAME")),
        ((*VGG, "--set", "budget.latency=50 %"), ("budget.latency 50 %", "--profile NAME")),
        ((*VGG, "--hugging-face", "x"), ("is no language model of transformers", "ONNX")),
        (("vgg5", "--method", "mosaic"), ("method mosaic prunes language models", "reconvene")),
        (("llama", "--method", "reconvene"), ("method reconvene prunes networks of convolutions", "mosaic")),
        (("llama", "--length", "16"), ("there is none; give --calibration FILE",)),
        (("llama", "--input", "3x8x8"), ("--input 3x8x8 is for images", "--length")),
        (("llama", "--calibration", "nothing.txt"), ("text nothing.txt does not exist",)),
        (("llama", "--calibration", "tinyshakespear"), ("unknown text 'tinyshakespear'", "--data-path")),
        ((*VGG, "--advise", "--profile", "jetson-nano"), ("--advise is for method mosaic", "budget")),
        ((*VGG, "--recover", "lora"), ("--recover is for method mosaic",)),
        (("vgg5", "--portfolio", "4,2"), ("--portfolio '4,2' names no compressions", "1,2,4")),
        (("vgg5", "--portfolio", "0.5"), ("numbers from 1 to a million",)),
        (("vgg5", "--set", "density=0.3", "--set", "round_to=1000"), ("makes no layer narrower", "round_to 1000")),
        (("vgg5", "--input", "3x99999x99999", "--set", "density=0.5"), ("--input '3x99999x99999' is", "are the most")),
        (("vgg5", "--portfolio", "two"), ("names no compressions",)),
        (("vgg5", "--portfolio", "2", "--onnx", "x"), ("--onnx is for one pruned model",)),
        (("vgg5", "--portfolio", "2", "--set", "gamma=1"), ("--set gamma is for one pruned model",)),
        (("llama", "--portfolio", "2"), ("llama is a language model", "--weights")),
        (("vgg5", *IMAGES, "--set", "budget.params=0.001 %"), ("cannot be reached", "the smallest is")),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    arguments: Sequence[str], pieces: Sequence[str], said: Said
) -> None:
    """What, the value, the rule, the way out; exit status 2."""
    message = said.error(*arguments, "--out", "small")
    for piece in pieces:
        assert piece in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "pieces"),
    [
        (("--windows", "10000"), ("calibration windows", "fewer or shorter")),
        (("--evaluate", "short.txt"), ("make no window of 16", "--length")),
        (("--tokenizer", "words"), ("unknown tokenizer 'words'",)),
        (("--classes", "100"), ("no tokenizer is known for llama", "--tokenizer")),
        (("--classes", "100", "--tokenizer", "bytes"), ("tokenizer bytes has 256 tokens, but llama knows 100",)),
        (("--baselines", "all"), ("--baselines are for method reconvene",)),
        (("--onnx", "x.onnx"), ("--onnx is for networks of images", "--hugging-face")),
        (("--set", "polcy=uniform"), ("polcy: unknown key; did you mean policy?",)),
        (("--set", "alpha=0.9", "--set", "sparsity=0.99"), ("sparsity",)),
        (("--advise",), ("none is named; give --profile NAME",)),
        ((*ADVISE, "--set", "needs.download=3"), ("needs.download: 3 has no unit", "500 MB")),
        ((*ADVISE, "--set", "needs.contxt=3"), ("needs.contxt: unknown key; did you mean context?",)),
        ((*ADVISE, "--set", "needs.context=0"), ("context 0 must be 1 or more",)),
        ((*ADVISE, "--set", "needs.download=1 B"), ("no unstructured pruning makes the model fit jetson-nano",)),
        (("--set", "needs.context=3"), ("--set needs.context is for advice", "--advise")),
        (("--set", "recover.epochs=3"), ("--set recover.epochs is for training", "--recover lora")),
        (("--recover", "sgd"), ("recovery sgd: recover.kind", "give lora or full")),
        (("--recover", "lora", "--set", "recover.kind=full"), ("--recover lora says the kind already",)),
        (("--recover", "lora", "--set", "recover.rank=0"), ("rank 0 must be 1 or more",)),
        (("--set", "scope=[block7]"), ("scope 'block7' matches no decoder block",)),
    ],
)
def test_a_mistake_with_text_is_one_sentence_too(more: Sequence[str], pieces: Sequence[str], said: Said) -> None:
    """Before or after the ranking; nothing is written, the ranking neither."""
    Path("short.txt").write_text("too short", encoding="utf-8")
    message = said.error(*llama(*more), "--out", "small", "--ranking", "ranking")
    for piece in pieces:
        assert piece in message


@pytest.mark.slow
def test_places_that_are_taken_are_refused_before_anything_is_read(said: Said) -> None:
    """Folders with something in them, and files."""
    Path("full").mkdir()
    Path("full/x").write_text("x", encoding="utf-8")
    Path("small-uniform").mkdir()
    Path("small-uniform/x").write_text("x", encoding="utf-8")
    assert "full already exists" in said.error("no-such-model", "--out", "full")
    assert "full already exists" in said.error("no-such-model", "--hugging-face", "full")
    assert "--onnx full/x already exists" in said.error("no-such-model", "--onnx", "full/x")
    assert "small-uniform already exists" in said.error("no-such-model", "--out", "small", "--baselines", "uniform")
    assert "small-uniform already exists" in said.error(*VGG, "--out", "small", "--baselines", "all")


@pytest.mark.slow
def test_a_failed_check_is_status_1_and_nothing_is_written(said: Said) -> None:
    """The error names what is wrong."""
    asked = ("vgg5", *IMAGES, "--method", f"{METHODS}:Miscounting", "--out", "small")
    assert "but the plan predicts" in said.error(*asked, status=1)


@pytest.mark.slow
def test_what_cannot_be_exported_takes_the_folder_with_it(said: Said) -> None:
    """All that was asked for, or nothing: blocks of different widths have no place in Hugging Face's format."""
    asked = llama("--set", "alpha=1", "--set", "round_to=1", "--set", "protect_blocks=1", sparsity=0.1)
    published(Path("model"), num_hidden_layers=3)
    named = ("model", "--tokenizer", "bytes", *asked[len(LLAMA) :])
    message = said.error(*named, "--hugging-face", "hf", "--out", "small", "--ranking", "known")
    assert "one width for all blocks" in message


@pytest.mark.slow
def test_a_folder_that_was_pruned_is_only_looked_at(said: Said) -> None:
    """It is neither pruned nor written again; damage is found."""
    said.document(*VGG, "--out", "small")
    found = said.document("small", "--evaluate", "digits", "--samples", "10", "--time", "--profile", "pi-tier-1")
    assert found["pruned"]["quality"]["samples"] == 10
    assert found["pruned"]["priced"] > 0
    assert found["pruned"]["time"].keys() == {"forward, batch 1", "forward, batch 32"}
    for more in (("--method", "reconvene"), ("--set", "gamma=1"), ("--ranking", "x"), ("--baselines", "all")):
        assert f"small was pruned already, so {more[0]}" in said.error("small", *more)
    assert "nothing to write to --out" in said.error("small", "--out", "again")
    assert "--norm is for models of the catalogue" in said.error("small", "--norm", "gn")
    weights = bytearray(Path("small/model.safetensors").read_bytes())
    weights[-1] ^= 1
    Path("small/model.safetensors").write_bytes(weights)
    assert "is not the one that was written" in said.error("small")
    Path("small/manifest.json").write_text("{}", encoding="utf-8")
    assert "has schema null" in said.error("small")


@pytest.mark.slow
@pytest.mark.parametrize("change", ["seed", "iterations", "kind"])
def test_a_ranking_of_something_else_is_refused(change: str, said: Said) -> None:
    """Of other weights, with other options, or no ranking at all."""
    said.document(*VGG, "--ranking", "known")
    match change:
        case "seed":
            assert "a model with other weights" in said.error(*VGG, "--seed", "1", "--ranking", "known")
        case "iterations":
            message = said.error(*VGG, "--set", "iterations=10", "--ranking", "known")
            assert "made with iterations 30, and now iterations is 10" in message
        case _:
            assert "is no ranking" in said.error(*llama("--ranking", "known"))
            own = ("vgg5", *IMAGES, "--method", "tests.experiment.cropping:Crop", "--ranking", "other")
            assert "what Crop studies is not kept" in said.error(*own)


@pytest.mark.slow
def test_a_run_folder_is_no_model_but_its_weights_are(said: Said) -> None:
    """The error says how to name them."""
    Path("run").mkdir()
    Path("run/model.json").write_text("{}", encoding="utf-8")
    message = said.error("run")
    assert "is a run folder" in message
    assert "--weights run" in message
