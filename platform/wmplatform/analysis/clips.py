"""Clips to analyse: of prepared videos, a run's held-out videos, its replay, or its evaluation.

Shape letters: B clips, T time, C H W image.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wmplatform import assembly
from wmplatform.analysis.results import CannotAnalyse
from wmplatform.checkpoint import Checkpoints
from wmplatform.clip_source import ClipSource
from wmplatform.evaluation import Evaluation
from wmplatform.replay import Manifest, Replay
from wmplatform.replay.chunks import MANIFEST
from wmplatform.saved_agent import SavedAgent
from wmplatform.types import Batch
from wmplatform.videos.clips import Clips
from wmplatform.videos.shards import Shards

__all__ = ["clips_of", "labelled_clips"]

_NEWEST = 20_000
"""Records of a replay that are read, so that a long run's need not fit into memory."""


def clips_of(
    saved: SavedAgent,
    data: Sequence[Path],
    *,
    clips: int,
    length: int,
    seed: int,
    replay: Path | None = None,
) -> dict[str, Tensor]:
    """Draw clips for the agent of a run.

    Args:
        saved: the run's agent.
        data: folders of prepared videos; without one, episodes are played where the run has an
            environment, and else the run's held-out videos are taken.
        clips: B, at most where the run's own videos or episodes are taken.
        length: T, likewise.
        seed: of the choice.
        replay: the run's folder, if clips are to be drawn from what it collected, with its actions;
            no environment is started then.

    Returns:
        Records `[B, T, ...]` on the agent's device; without actions where they are videos.

    Raises:
        CannotAnalyse: the videos do not suit the agent.
        PlatformError: as the videos, or the environment, say.
    """
    if data:
        source = Clips(seed, data=tuple(map(str, data)), batch=clips, length=length, prefetch=0)
        return for_agent(saved, _sampled(source))
    if replay is not None:
        return for_agent(saved, _remembered(saved, replay, clips, length, seed))
    if saved.adapter is not None:
        return for_agent(saved, _played(saved, clips, length, seed))
    if saved.config.parameter(f"{assembly.VIDEOS}.validation") is None:
        raise CannotAnalyse(
            "the run has no held-out videos", hint="name prepared videos: --data FOLDER"
        )
    found = _sampled(assembly.build_part(saved.config, "validation", seed, 0, 1, "cpu"))
    return for_agent(saved, {key: value[:clips, :length] for key, value in found.items()})


def labelled_clips(
    saved: SavedAgent,
    data: Sequence[Path],
    labels: Sequence[str],
    *,
    clips: int,
    length: int,
    seed: int,
) -> dict[str, dict[str, Tensor]]:
    """Cut one clip out of each of up to `clips` different videos of each label.

    No video serves twice: its clips would be near neighbours whatever the model has learned.

    Returns:
        Records by label, as `clips_of` gives them.

    Raises:
        CannotAnalyse: no data, or a label with fewer than two videos that are long enough.
    """
    folders = [Shards(folder) for folder in data]
    if not folders:
        raise CannotAnalyse("labels belong to prepared videos", hint="name some: --data FOLDER")
    random = np.random.default_rng(seed)
    found = {}
    for label in labels:
        places = [
            (shards, number)
            for shards in folders
            for number, own in enumerate(shards.labels)
            if own == label and shards.lengths[number] >= length
        ]
        if len(places) < 2:
            known = sorted({own for shards in folders for own in shards.labels if own})
            raise CannotAnalyse(
                f"{len(places)} videos of the label {label!r} have {length} frames; 2 are needed",
                where=[str(folder) for folder in data],
                hint=f"known labels: {', '.join(known[:20]) or 'none'}",
            )
        cuts = []
        for place in random.permutation(len(places))[:clips]:
            shards, number = places[place]
            start = int(random.integers(int(shards.lengths[number]) - length + 1))
            cuts.append(shards.clip(number, start, length))
        found[label] = for_agent(saved, _records(torch.from_numpy(np.stack(cuts))))
    return found


def for_agent(saved: SavedAgent, records: Batch) -> dict[str, Tensor]:
    """Check that an agent can watch records `[B, T, ...]`, and put them on its device.

    Raises:
        CannotAnalyse: their images have another size, or actions are needed and missing.
    """
    agent = saved.agent
    dynamics = agent.world_model.dynamics
    if "action" not in records and not dynamics.capabilities.action_free:
        raise CannotAnalyse(
            f"{type(dynamics).__name__} needs actions, which videos do not have",
            hint="leave out --data to analyse evaluation episodes, give --replay for collected "
            "ones, or name the pre-training run",
        )
    expected, found = agent.spec.observations["pixels"].shape, tuple(records["pixels"].shape[2:])
    if found != expected:
        raise CannotAnalyse(f"the clips' images have shape {found}, the model's {expected}")
    return {key: value.to(agent.device) for key, value in records.items()}


def _sampled(source: ClipSource) -> dict[str, Tensor]:
    try:
        batch = source.sample()
    finally:
        source.close()
    return {key: batch[key] for key in ("pixels", "is_first")}


def _records(pixels: Tensor) -> dict[str, Tensor]:
    is_first = torch.zeros(pixels.shape[:2], dtype=torch.bool)
    is_first[:, 0] = True
    return {"pixels": pixels, "is_first": is_first}


def _remembered(
    saved: SavedAgent, run_dir: Path, clips: int, length: int, seed: int
) -> dict[str, Tensor]:
    """Draw segments of the newest episodes that a run had collected at its checkpoint."""
    spec, checkpoints = saved.agent.spec, Checkpoints(run_dir / "checkpoints")
    if "replay" not in checkpoints.parts(saved.generation):
        raise CannotAnalyse("the run has no replay", hint="name prepared videos: --data FOLDER")

    def restored(manifest: Manifest) -> Replay:
        heads = manifest["heads"]
        rows = max(min(max(heads), _NEWEST // len(heads)), (spec.time_limit or 0) + 1)
        replay = Replay(spec, len(heads), capacity=rows * len(heads))
        replay.restore(run_dir / "replay", manifest)
        return replay

    replay = checkpoints.restore_part(saved.generation, "replay", MANIFEST, restored)
    replay.sampler.generator.manual_seed(seed)
    found = replay.segments(clips, length)
    return {key: found[key] for key in (*spec.observations, "action", "is_first")}


def _played(saved: SavedAgent, clips: int, length: int, seed: int) -> dict[str, Tensor]:
    """Play two episodes and cut them into clips."""
    assert saved.adapter is not None
    evaluation: Evaluation = assembly.build_part(saved.config, "evaluation")
    evaluation.episodes = evaluation.video_episodes = min(2, clips)
    try:
        result = evaluation.run(saved.adapter, saved.agent, seed, saved.counters)
    finally:
        evaluation.close()
    segments = result.segments(length, clips)
    known = 0 if segments is None else segments["is_first"].shape[1]
    if segments is None or known < length:
        raise CannotAnalyse(
            f"the evaluation episodes have {known} records, {length} are needed",
            hint="set --observed and --predicted lower",
        )
    return segments
