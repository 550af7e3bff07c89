"""Every experiment of the repository is valid, reads back the same, and needs no torch to check."""

import subprocess
import sys
from pathlib import Path

import pytest

from wmplatform import configurables
from wmplatform.config import ConfigErrors, load

ROOT = Path(__file__).resolve().parents[3]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.gin"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_is_valid_and_its_resolved_text_reads_back(
    path: Path, tmp_path: Path
) -> None:
    config = load([path])
    resolved = tmp_path / "config.gin"
    resolved.write_text(config.text)
    assert load([resolved]) == config


def test_a_part_of_an_experiment_is_swapped_by_one_binding() -> None:
    config = load([ROOT / "experiments/quickstart.gin"], ["WorldModel.decoder = @decoders.cnn"])
    assert "decoders.cnn" in config.targets
    assert "decoders.cross_attention" not in config.text


def test_checking_all_experiments_imports_no_torch_and_no_simulator() -> None:
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'platform')!r}, {str(ROOT / 'plugins')!r}]\n"
        "from wmplatform.config import load\n"
        f"for path in {[str(p) for p in EXPERIMENTS]!r}: load([path])\n"
        "heavy = {'torch', 'tensordict', 'numpy', 'mujoco', 'gymnasium'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_the_roots_that_are_bound_have_to_be_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "roots_of_test.py").write_text(
        "class One:\n    def __init__(self, *, need: int): ...\n"
        "class Two:\n    def __init__(self, *, need: int): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    names = {"One": "roots_of_test:One", "Two": "roots_of_test:Two"}
    monkeypatch.setattr(configurables, "CONFIGURABLES", names)
    monkeypatch.setattr(configurables, "ROOTS", ("One", "Two"))
    assert load([], ["One.need = 1"]).parameter("One.need") == 1
    with pytest.raises(ConfigErrors) as caught:
        load([])
    assert len(caught.value.problems) == 2
