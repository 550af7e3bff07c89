"""Loading modules of an earlier run: whole ones, by name, or none at all."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wmplatform.agent import Agent
from wmplatform.checkpoint import Checkpoints
from wmplatform.errors import ExitCode
from wmplatform.transfer import DoesNotFit, NothingToLoad, transfer
from wmplatform.world_model import WorldModel
from wmplugins.dreamer.decoders import ResNetDecoder
from wmplugins.dreamer.encoders import ResNetEncoder
from wmplugins.dreamer.heads import RewardMLP

from .tiny_dreamer import MLP, SPEC
from .toy_clips import Drift, Stacked

WHOLE = ("encoder", "dynamics.action_free", "decoder")


def agent(seed: int, *, stacked: bool = True, depth: int = 2, units: int = 8) -> Agent:
    """A world model as in fine-tuning, or as in pre-training, with batch normalisation."""
    torch.manual_seed(seed)
    parts: dict[str, Any] = {
        "encoder": partial(ResNetEncoder, depth=depth),
        "dynamics": partial(Stacked if stacked else Drift, units=units),
        "decoder": partial(ResNetDecoder, depth=depth),
    }
    if stacked:
        parts["heads"] = {"reward": partial(RewardMLP, **MLP)}
    made = Agent(SPEC, world_model=partial(WorldModel, **parts))
    for name, buffer in made.named_buffers():
        if "running" in name:
            buffer.copy_(torch.rand_like(buffer))
    return made


def save(path: Path, made: Agent, *, updates: int = 7) -> Path:
    """Write what a run leaves behind."""
    state = made.world_model.state_dict()
    checkpoints = Checkpoints(path / "checkpoints")
    loop = {"counters": {"updates": updates}}
    checkpoints.save((checkpoints.latest() or 0) + 1, {"world_model": state, "loop": loop})
    return path


def weights(made: Agent) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in made.world_model.state_dict().items()}


def below(names: Any, *modules: str) -> set[str]:
    return {n for n in names if n.startswith(tuple(f"{m}." for m in modules))}


@pytest.fixture
def pretrained(tmp_path: Path) -> tuple[Path, Agent]:
    made = agent(1, stacked=False)
    return save(tmp_path / "pretrain", made), made


def check_loaded(tuned: Agent, before: dict[str, Tensor], source: Agent, *modules: str) -> None:
    """Everything below `modules` is the source's, bit for bit, and nothing else moved."""
    after, theirs = weights(tuned), weights(source)
    loaded = below(after, *modules)
    assert loaded
    for name in after:
        assert torch.equal(after[name], theirs[name] if name in loaded else before[name]), name


def test_everything_that_was_pretrained_is_loaded_statistics_included(
    pretrained: tuple[Path, Agent],
) -> None:
    path, source = pretrained
    tuned = agent(2)
    before = weights(tuned)
    found = transfer(tuned, path)
    check_loaded(tuned, before, source, *WHOLE)
    assert any("running_mean" in name for name in below(before, "encoder"))
    assert tuple(found.loaded) == WHOLE
    assert found.fresh == ("dynamics.conditional", "heads.reward")
    assert found.unused == ()
    assert found.updates == 7


def test_loading_keeps_the_parameters_of_the_optimiser(pretrained: tuple[Path, Agent]) -> None:
    tuned = agent(2)
    held = dict(tuned.named_parameters())
    transfer(tuned, pretrained[0])
    assert all(held[name] is p for name, p in tuned.named_parameters())


def test_leaving_the_dynamics_out_is_the_encoder_decoder_ablation(
    pretrained: tuple[Path, Agent],
) -> None:
    path, source = pretrained
    tuned = agent(2)
    before = weights(tuned)
    found = transfer(tuned, path, ("encoder", "decoder"))
    check_loaded(tuned, before, source, "encoder", "decoder")
    assert found.fresh == ("dynamics.action_free", "dynamics.conditional", "heads.reward")
    assert found.unused == ("dynamics.action_free",)
    assert "not loaded from the checkpoint: dynamics.action_free" in str(found)


def test_a_part_of_a_component_is_loaded_only_if_named_and_said_so(
    pretrained: tuple[Path, Agent],
) -> None:
    tuned = agent(2)
    before = weights(tuned)
    found = transfer(tuned, pretrained[0], ("dynamics.action_free.prior",))
    check_loaded(tuned, before, pretrained[1], "dynamics.action_free.prior")
    assert "the rest of dynamics.action_free" in found.fresh


class Wrapped(nn.Module):
    """A world model whose encoder lies in another module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.frame = model.get_submodule("encoder")
        self.decoder = model.get_submodule("decoder")


def test_a_module_may_have_another_name_in_the_checkpoint(pretrained: tuple[Path, Agent]) -> None:
    path, source = pretrained
    tuned = agent(2)
    tuned.world_model = Wrapped(tuned.world_model)  # type: ignore[assignment]
    found = transfer(tuned, path, {"encoder.frame": "encoder"})
    assert list(found.loaded) == ["encoder.frame"]
    assert found.fresh == ("decoder",)
    assert found.unused == ("dynamics.action_free", "decoder")
    for name, value in source.world_model.get_submodule("encoder").state_dict().items():
        assert torch.equal(tuned.world_model.encoder.frame.state_dict()[name], value)
    with pytest.raises(NothingToLoad, match="the checkpoint has no module 'enc'"):
        transfer(tuned, path, {"encoder.frame": "enc"})


@pytest.mark.parametrize("modules", [None, WHOLE, ("encoder",)])
def test_other_sizes_are_refused_with_names_and_shapes_and_nothing_is_loaded(
    modules: Any, pretrained: tuple[Path, Agent]
) -> None:
    tuned = agent(2, depth=4)
    before = weights(tuned)
    with pytest.raises(DoesNotFit) as caught:
        transfer(tuned, pretrained[0], modules)
    assert caught.value.exit_code == ExitCode.BAD_RUN
    stem = [line for line in caught.value.problems if "stem" in line and "weight" in line]
    assert "float32 [4, 3, 3, 3] here, float32 [2, 3, 3, 3] in the checkpoint" in stem[0]
    assert "more" in str(caught.value)
    after = weights(tuned)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_other_components_are_refused_unless_left_out_by_name(tmp_path: Path) -> None:
    path = save(tmp_path / "run", agent(1))  # has parts that the model below lacks
    plain = agent(2, stacked=False)
    with pytest.raises(DoesNotFit, match="nothing was loaded") as caught:
        transfer(plain, path)
    assert any(line.startswith("heads.reward.") for line in caught.value.problems)
    assert any(line.startswith("dynamics.conditional.") for line in caught.value.problems)
    found = transfer(plain, path, WHOLE)
    assert found.unused == ("dynamics.conditional", "heads.reward")


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (("context_encoder",), "the checkpoint has no module 'context_encoder'"),
        (("dynamics.conditional",), "the checkpoint has no module 'dynamics.conditional'"),
        (("encoder", "encoder"), "'encoder' is named twice"),
        (("dynamics.action_free", "dynamics.action_free.prior"), "is named twice"),
        ((), "no module is named"),
    ],
)
def test_modules_that_are_not_there_are_refused(
    modules: tuple[str, ...], message: str, pretrained: tuple[Path, Agent]
) -> None:
    with pytest.raises(NothingToLoad) as caught:
        transfer(agent(2), pretrained[0], modules)
    assert message in str(caught.value)
    if modules:
        assert "the checkpoint has encoder, dynamics.action_free, decoder" in str(caught.value)


def test_a_run_its_checkpoints_and_one_generation_can_be_named(tmp_path: Path) -> None:
    old, new = agent(1, stacked=False), agent(3, stacked=False)
    path = save(tmp_path / "run", old, updates=10)
    save(path, new, updates=20)
    for source, updates in [
        (path, 20),
        (path / "checkpoints", 20),
        (path / "checkpoints" / "gen-000000001", 10),
    ]:
        tuned = agent(2)
        assert transfer(tuned, str(source)).updates == updates
        one = old if updates == 10 else new
        check_loaded(tuned, weights(agent(2)), one, *WHOLE)


def test_no_checkpoint_is_an_error_that_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(NothingToLoad, match="no checkpoint to load"):
        transfer(agent(2), tmp_path / "nowhere")


def test_the_record_in_the_run_folder_is_json(
    pretrained: tuple[Path, Agent], tmp_path: Path
) -> None:
    transfer(agent(2), pretrained[0]).record(tmp_path)
    recorded = json.loads((tmp_path / "transfer.json").read_text())
    assert list(recorded["loaded"]) == list(WHOLE)
    assert recorded["fresh"] == ["dynamics.conditional", "heads.reward"]
