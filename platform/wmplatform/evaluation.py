"""Evaluation: whole episodes with the quiet policy, in an environment and randomness of its own.

Training does not notice: its random states, its modules' modes and its environment's clock are the
same afterwards. Shape letters: B clips, T time.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

import gymnasium
import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor, nn

from wmplatform.agent import Agent
from wmplatform.collect.faults import FaultReport, describe_error, make_env, recoverable
from wmplatform.edge import Edge
from wmplatform.errors import PlatformError
from wmplatform.interfaces.env_adapter import EnvAdapter
from wmplatform.logging import RunLogger
from wmplatform.pictures import Picture, enlarge, to_rgb
from wmplatform.playing import Player, env_action
from wmplatform.prediction import predict
from wmplatform.sums import REDUCTIONS

__all__ = [
    "Episode",
    "Evaluation",
    "EvaluationFailed",
    "EvaluationResult",
    "eval_mode",
    "own_randomness",
]

OnFault: TypeAlias = Callable[[FaultReport], None]
"""Is told of a fault; raises where it was one too many."""

_TRIES = 2


class EvaluationFailed(PlatformError):
    """An environment raised an error of its own in the middle of an evaluation episode.

    Args:
        name: of the adapter.
        seed: of the episode.
        agent_steps: into the episode.
        error: what was raised.
    """

    def __init__(self, name: str, seed: int, agent_steps: int, error: Exception) -> None:
        self.name, self.seed, self.agent_steps, self.error = name, seed, agent_steps, error
        super().__init__(
            f"evaluation: {type(error).__name__} from the environment: {error}",
            where=f"{name}, episode of seed {seed}, after agent step {agent_steps}",
            hint="`wmplatform check envs <name>` and `wmplatform doctor` look for the cause",
        )


@dataclass
class Episode:
    """One evaluation episode."""

    seed: int
    return_: float = 0.0
    length: int = 0
    """Agent steps."""
    signals: dict[str, float] = field(default_factory=dict)
    """Summed up by the rules of the spec."""
    records: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Observations, `action` and `is_first`, `[length + 1, ...]` each; empty if not recorded."""


@dataclass
class EvaluationResult:
    """All episodes of one evaluation."""

    episodes: list[Episode]
    failed: int = 0
    """Episodes that the environment could not finish, also at a second try."""

    def metrics(self) -> dict[str, float]:
        """Average over episodes: return, length and signals, and the return's spread."""
        missing = {"eval/failed_episodes": float(self.failed)} if self.failed else {}
        if not self.episodes:
            return missing
        returns = [episode.return_ for episode in self.episodes]
        found = {
            "eval/return": float(np.mean(returns)),
            "eval/return_std": float(np.std(returns)),
            "eval/length": float(np.mean([episode.length for episode in self.episodes])),
            "eval/episodes": float(len(self.episodes)),
            **missing,
        }
        for name in self.episodes[0].signals:
            values = [episode.signals[name] for episode in self.episodes]
            found[f"eval/{name}"] = float(np.mean(values))
        return found

    def film(self, key: str = "pixels") -> Picture | None:
        """Join the recorded episodes into one video uint8 `[T, H, W, 3]`; None if there is none."""
        takes = [e.records[key] for e in self.episodes if key in e.records]
        return np.stack([to_rgb(image) for take in takes for image in take]) if takes else None

    def segments(self, length: int, clips: int) -> dict[str, Tensor] | None:
        """Cut evenly spaced segments out of the recorded episodes.

        Args:
            length: records of each; fewer where an episode is shorter.
            clips: B, in all; fewer where the episodes do not hold so many different ones.

        Returns:
            Records `[B, T, ...]`, `is_first` at index 0 as in replay's segments: a model knows
            nothing of the records before. None where nothing was recorded.
        """
        takes = [e.records for e in self.episodes if e.records]
        if not takes:
            return None
        length = min([length, *(len(take["is_first"]) for take in takes)])
        chosen: dict[tuple[int, int], dict[str, NDArray[Any]]] = {}
        for number in range(clips):
            which, turn = number % len(takes), number // len(takes)
            take, turns = takes[which], -(-clips // len(takes))
            start = (len(take["is_first"]) - length) * turn // max(1, turns - 1)
            cut = {key: value[start : start + length] for key, value in take.items()}
            chosen[which, start] = cut  # a short episode may give the same segment again
        cuts = list(chosen.values())
        found = {key: torch.from_numpy(np.stack([cut[key] for cut in cuts])) for key in cuts[0]}
        found["is_first"][:, 0] = True
        return found


class Evaluation:
    """Plays evaluation episodes; keeps its environment open from one evaluation to the next."""

    def __init__(
        self,
        *,
        episodes: Annotated[int, Ge(1)] = 10,
        video_episodes: Annotated[int, Ge(0)] = 1,
        video_scale: Annotated[int, Ge(1)] = 4,
        fps: Annotated[int, Ge(1)] = 20,
        prediction_records: Annotated[int, Ge(2)] = 50,
        observed_records: Annotated[int, Ge(1)] = 5,
        prediction_clips: Annotated[int, Ge(1)] = 6,
        longest_episode: Annotated[int, Ge(1)] = 10_000,
    ) -> None:
        """Choose how much is played and shown.

        Args:
            episodes: of each evaluation; the same seeds every time.
            video_episodes: how many of them are filmed, and serve for predictions.
            video_scale: size of one pixel in videos.
            fps: frames per second of videos; one frame is one agent step.
            prediction_records: length of an open-loop prediction.
            observed_records: how many records of it the model sees.
            prediction_clips: how many predictions a video shows side by side.
            longest_episode: agent steps after which an episode without an end is left.
        """
        self.episodes, self.video_episodes = episodes, min(video_episodes, episodes)
        self.video_scale, self.fps = video_scale, fps
        self.prediction_records, self.observed_records = prediction_records, observed_records
        self.prediction_clips, self.longest_episode = prediction_clips, longest_episode
        self._env: gymnasium.Env[Any, Any] | None = None
        self._made = self._played = False

    def run(
        self,
        adapter: EnvAdapter,
        agent: Agent,
        seed: int,
        counters: Mapping[str, int],
        *,
        on_fault: OnFault | None = None,
    ) -> EvaluationResult:
        """Play `episodes` episodes.

        Args:
            adapter: makes the environment at the first call.
            agent: acts in eval mode; left as it was.
            seed: of the run; the episodes' seeds come from it and from nothing else.
            counters: `agent_steps` is the explorer's clock.
            on_fault: is told when an environment failed in such a way that another one may do
                better, and may raise. Then the episode is played again, once; if that fails too, it
                is left out. Unless given, any error ends the evaluation.

        Raises:
            EvaluationFailed: the environment raised an error; it is closed.
            PlatformError: as the environment or `on_fault` says; the environment is closed.
        """
        result = EvaluationResult([])
        with own_randomness(_seed_of(seed, 0)), eval_mode(agent):
            play = _Play(adapter, agent, counters.get("agent_steps", 0), self.longest_episode)
            for index in range(self.episodes):
                record = index < self.video_episodes
                for _ in range(_TRIES):
                    episode = Episode(_seed_of(seed, index))
                    if self._attempt(play, episode, on_fault, record=record):
                        result.episodes.append(episode)
                        break
                else:
                    result.failed += 1
        return result

    def report(
        self,
        result: EvaluationResult,
        agent: Agent,
        logger: RunLogger,
        counters: Mapping[str, int],
    ) -> None:
        """Log a result: one line of metrics, the policy's video, an open-loop prediction.

        Raises:
            DiskFull: there is no space.
        """
        film = result.film() if "pixels" in agent.spec.observations else None
        if film is not None:
            film = enlarge(film, self.video_scale)
            logger.video("policy", counters, film, self.fps)
        errors = self._report_prediction(result, agent, logger, counters)
        logger.scalars(counters, {**result.metrics(), **errors})

    def close(self) -> None:
        """Close the environment; a second call does nothing."""
        env, self._env = self._env, None
        if env is not None:
            env.close()

    def _attempt(
        self, play: "_Play", episode: Episode, on_fault: OnFault | None, *, record: bool
    ) -> bool:
        """Play an episode; False where its environment failed, and another one may do better."""
        try:
            if self._env is None:
                with _environments_errors(play.adapter.name, episode):
                    self._env = make_env(play.adapter, episode.seed)
                self._made = True
            play.episode(self._env, episode, record=record)
            self._played = True
            return True
        except EvaluationFailed as caught:
            failed, error = caught, caught.error
        self._played = self._played or episode.length > 0
        with suppress(Exception):  # what is broken may not even close
            self.close()
        if on_fault is None or not recoverable(error, made=self._made, played=self._played):
            raise error if isinstance(error, PlatformError) else failed
        what = describe_error(error)
        on_fault(FaultReport(failed.name, "evaluation", failed.seed, failed.agent_steps, what))
        return False

    def _report_prediction(
        self,
        result: EvaluationResult,
        agent: Agent,
        logger: RunLogger,
        counters: Mapping[str, int],
    ) -> dict[str, float]:
        segments = result.segments(self.prediction_records, self.prediction_clips)
        if segments is None:
            return {}
        with own_randomness(0), eval_mode(agent):
            prediction = predict(agent, segments, self.observed_records)
        if prediction is None:
            return {}
        prediction.show(logger, counters, clips=self.prediction_clips, fps=self.fps)
        return {"eval/open_loop_mse": prediction.errors()["open_loop_mse"]}


@dataclass
class _Play:
    """An agent in front of one environment."""

    adapter: EnvAdapter
    agent: Agent
    agent_steps: int
    longest: int

    def episode(self, env: gymnasium.Env[Any, Any], episode: Episode, *, record: bool) -> None:
        """Play to the end; fills `episode` in as it goes.

        Raises:
            EvaluationFailed: the environment raised; what the agent raises stays as it is.
        """
        spec, name = self.adapter.spec(), self.adapter.name
        edge = Edge(spec, name)
        with _environments_errors(name, episode):
            observation, _ = env.reset(seed=episode.seed)
            observation = edge.observation(observation, 0)
        action = np.zeros(spec.action.size, np.float32)
        records = [_record(observation, action, is_first=True)]
        infos: list[Mapping[str, float]] = []
        player = Player(self.agent, self.agent_steps)
        over = False
        while not over and episode.length < self.longest:
            rows = {key: array[np.newaxis] for key, array in observation.items()}
            (action,) = player.act(rows, np.array([episode.length == 0]), "eval")
            with _environments_errors(name, episode):
                taken = env_action(action, spec.action)
                observation, reward, terminated, truncated, info = env.step(taken)
                reward = edge.reward(reward, episode.length + 1)
                observation = edge.observation(observation, episode.length + 1)
                infos.append({signal: float(info[signal]) for signal in spec.signals})
            episode.length += 1
            episode.return_ += reward
            over = terminated or truncated
            if record:
                records.append(_record(observation, action, is_first=False))
        for signal, rule in spec.signals.items():
            episode.signals[signal] = REDUCTIONS[rule]([info[signal] for info in infos])
        if record:
            episode.records = {key: np.stack([each[key] for each in records]) for key in records[0]}


@contextmanager
def _environments_errors(name: str, episode: Episode) -> Iterator[None]:
    """Turn what an environment raises into `EvaluationFailed`."""
    try:
        yield
    except Exception as error:
        raise EvaluationFailed(name, episode.seed, episode.length, error) from error


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Give a block a random state of its own: torch on all devices, NumPy's and Python's globals.

    Args:
        seed: of the block's state; afterwards everything is as it was before.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - simulators use it
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - the same
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002 - the same


@contextmanager
def eval_mode(agent: nn.Module) -> Iterator[None]:
    """Put every module into eval mode for a block, and each back into its own mode after it."""
    before = {module: module.training for module in agent.modules()}
    agent.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def _record(
    observation: Mapping[str, NDArray[Any]], action: NDArray[np.float32], *, is_first: bool
) -> dict[str, NDArray[Any]]:
    """One record: an observation and the action that led into it."""
    return {**observation, "action": action, "is_first": np.asarray(is_first)}


def _seed_of(seed: int, index: int) -> int:
    """Derive the seed of an evaluation episode, 0..2^31 - 1, from the run's."""
    word = int.from_bytes(b"eval", "big")
    return int(np.random.SeedSequence([seed, word, index]).generate_state(1)[0] >> 1)
