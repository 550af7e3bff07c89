"""Requests that each break one law."""

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from wmplatform.images import to_centred
from wmplatform.interfaces import Request
from wmplatform.replay import Replay, Segments, Transitions
from wmplatform.replay.sampler import TransitionRows


class DrawsFromTorch(Segments):
    def sample(self, replay: Replay) -> TensorDict:
        batch = super().sample(replay)
        return batch[torch.randperm(len(batch))]


class MarksWhatItDrew(Segments):
    def sample(self, replay: Replay) -> TensorDict:
        replay.storage.column("reward").add_(1)
        return super().sample(replay)


class LendsTheStorage(Segments):
    """Hands out the rows themselves instead of a copy."""

    def sample(self, replay: Replay) -> TensorDict:
        first = int(replay.sampler.segments(1, self.length)[0, 0])
        batch = super().sample(replay)[:1]
        for key in ("pixels", "action", "reward"):
            batch[key] = replay.storage.column(key)[first : first + self.length][None]
        return batch


class AsksForTooFewRecords(Segments):
    @property
    def records(self) -> int:
        return self.length - 1


class GivesFloats(Segments):
    def sample(self, replay: Replay) -> TensorDict:
        batch = super().sample(replay)
        return batch.set("pixels", to_centred(batch["pixels"]))


class StacksInSecret(Transitions):
    def sample(self, replay: Replay) -> TensorDict:
        return replay.transitions(self.batch, self.n, self.gamma, 2)


class LeavesStartsUnmarked(Segments):
    """Records as they were stored: most segments begin in the middle of an episode."""

    def sample(self, replay: Replay) -> TensorDict:
        batch = super().sample(replay)
        return batch.set("is_first", torch.zeros_like(batch["is_first"]))


class MarksEveryRecord(Segments):
    def sample(self, replay: Replay) -> TensorDict:
        batch = super().sample(replay)
        return batch.set("is_first", torch.ones_like(batch["is_first"]))


class CrossesEpisodes(Segments):
    """Consecutive rows, whatever episode they are of."""

    marks = False

    def sample(self, replay: Replay) -> TensorDict:
        room = torch.full((self.batch,), len(replay) - self.length + 1)
        start = torch.from_numpy(replay.sampler._draw_below(room.numpy()))
        rows = start[:, None] + torch.arange(self.length)
        batch = {key: replay._take(key, rows) for key in replay.columns}
        if not self.marks:
            batch["is_first"] = torch.zeros_like(batch["is_first"])
        batch["is_first"][:, 0] = True
        return TensorDict(batch, [self.batch, self.length])


class _Shifted(Segments):
    """One column belongs to a record beside."""

    key, by = "reward", 1

    def sample(self, replay: Replay) -> TensorDict:
        batch = super().sample(replay)
        return batch.set(self.key, batch[self.key].roll(self.by, 1))


class RewardsComeLate(_Shifted):
    key, by = "reward", 1


class ActionsComeEarly(_Shifted):
    """The action that leads out of a record lies beside it."""

    key, by = "action", -1


class RewardsOfAnotherRow(Segments):
    def sample(self, replay: Replay) -> TensorDict:
        batch = super().sample(replay)
        return batch.set("reward", batch["reward"].roll(1, 0))


class CallsATimeLimitTerminal(Segments):
    def sample(self, replay: Replay) -> TensorDict:
        batch = super().sample(replay)
        return batch.set("is_terminal", batch["is_last"].clone())


class NeverReachesTheEnd(Segments):
    """The last start is left out, as by a bound that is one too low."""

    @property
    def records(self) -> int:
        return self.length + 1

    def sample(self, replay: Replay) -> TensorDict:
        return replay.segments(self.batch, self.length + 1)[:, :-1]


class Rows(Transitions):
    """Transitions put together from rows, healthy as it is: what the mutants below break."""

    def sample(self, replay: Replay) -> TensorDict:
        rows = self.rows(replay)
        gone = torch.arange(self.n) >= rows.taken[:, None]
        rewards = replay._take("reward", rows.steps).masked_fill(gone, 0.0)
        terminal = replay._take("is_terminal", rows.steps[:, -1])
        return TensorDict(
            {
                **self.seen(replay, rows.observation),
                "action": replay._take("action", self.acted(rows)),
                "reward": self.earned(rewards),
                "discount": self.discount(rows.taken, terminal, replay, rows),
                "next": self.seen(replay, rows.following),
            },
            [self.batch],
        )

    def seen(self, replay: Replay, rows: Tensor) -> dict[str, Tensor]:
        frames = {key: replay._take(key, rows) for key in replay._observations}
        return {k: x.flatten(1, 2) if x.dim() > 3 else x[:, -1] for k, x in frames.items()}

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        return {"batch": 32, "stack": 3}

    def rows(self, replay: Replay) -> TransitionRows:
        return replay.sampler.transitions(
            self.batch, self.n, self.stack, short_ends=self.short_ends, by_length=self.by_length
        )

    def acted(self, rows: TransitionRows) -> Tensor:
        return rows.steps[:, 0]

    def earned(self, rewards: Tensor) -> Tensor:
        return (rewards * self.gamma ** torch.arange(self.n)).sum(1)

    def discount(self, taken: Tensor, terminal: Tensor, *rest: Any) -> Tensor:
        return self.gamma**taken * (~terminal).float()


class RunsThroughTheEnd(Rows):
    """Not cut at the end of an episode: rewards, bootstrap and what comes next are another's."""

    def rows(self, replay: Replay) -> TransitionRows:
        rows = super().rows(replay)
        last, start = len(replay) - 1, rows.observation[:, -1:]
        steps = (start + torch.arange(1, self.n + 1)).clamp_max(last)
        later = (start + self.n + torch.arange(1 - self.stack, 1)).clamp_max(last)
        return TransitionRows(rows.observation, later, steps, torch.full_like(rows.taken, self.n))


class SumsThroughTheEnd(Rows):
    """The rewards alone run on into the next episode."""

    def sample(self, replay: Replay) -> TensorDict:
        state = replay.sampler.generator.get_state()
        start = self.rows(replay).observation[:, -1:]
        replay.sampler.generator.set_state(state)
        ahead = (start + torch.arange(1, self.n + 1)).clamp_max(len(replay) - 1)
        return super().sample(replay).set("reward", self.earned(replay._take("reward", ahead)))


class BootstrapsThroughTheEnd(Rows):
    def discount(self, taken: Tensor, terminal: Tensor, *rest: Any) -> Tensor:
        return self.gamma**taken


class DropsTheBootstrapAtATimeLimit(Rows):
    def discount(self, taken: Tensor, terminal: Tensor, *rest: Any) -> Tensor:
        replay, rows = rest
        return self.gamma**taken * (~replay._take("is_last", rows.steps[:, -1])).float()


class DiscountsOncePerTransition(Rows):
    def discount(self, taken: Tensor, terminal: Tensor, *rest: Any) -> Tensor:
        return self.gamma * (~terminal).float()


class DiscountsOnceTooOften(Rows):
    def discount(self, taken: Tensor, terminal: Tensor, *rest: Any) -> Tensor:
        return super().discount(taken + 1, terminal)


class DiscountsOnceTooFew(Rows):
    def discount(self, taken: Tensor, terminal: Tensor, *rest: Any) -> Tensor:
        return super().discount(taken - 1, terminal)


class DiscountsShortEndsInFull(Rows):
    def discount(self, taken: Tensor, terminal: Tensor, *rest: Any) -> Tensor:
        return super().discount(torch.full_like(taken, self.n), terminal)


class SumsWithoutGamma(Rows):
    def earned(self, rewards: Tensor) -> Tensor:
        return rewards.sum(1)


class DiscountsTheFirstReward(Rows):
    def earned(self, rewards: Tensor) -> Tensor:
        return self.gamma * super().earned(rewards)


class ActsOneStepLate(Rows):
    """The action that led into the observation, instead of the one taken there."""

    def acted(self, rows: TransitionRows) -> Tensor:
        return rows.observation[:, -1]


class _NextElsewhere(Rows):
    by = 1

    def rows(self, replay: Replay) -> TransitionRows:
        rows = super().rows(replay)
        return TransitionRows(
            rows.observation,
            (rows.following + self.by).clamp(0, len(replay) - 1),
            rows.steps,
            rows.taken,
        )


class NextIsOneEarly(_NextElsewhere):
    by = -1


class NextIsOneLate(_NextElsewhere):
    by = 1


class _RawStack(Rows):
    """Frames of before the episode's start are those that lie before it in storage."""

    now, later = True, True

    def rows(self, replay: Replay) -> TransitionRows:
        rows = super().rows(replay)
        back = torch.arange(1 - self.stack, 1)
        now, later = (
            (x[:, -1:] + back).clamp_min(0) if raw else x
            for x, raw in ((rows.observation, self.now), (rows.following, self.later))
        )
        return TransitionRows(now, later, rows.steps, rows.taken)


class StacksAcrossAReset(_RawStack):
    later = False


class StacksNextAcrossAReset(_RawStack):
    now = False


class StacksNewestFirst(Rows):
    def rows(self, replay: Replay) -> TransitionRows:
        rows = super().rows(replay)
        now, later = rows.observation.flip(1), rows.following.flip(1)
        return TransitionRows(now, later, rows.steps, rows.taken)


class HidesItsGamma(Request):
    @property
    def records(self) -> int:
        return 2

    def sample(self, replay: Replay) -> TensorDict:
        return replay.transitions(32, 2, 0.9, short_ends=True)


MUTANTS = {
    DrawsFromTorch: "law_1_equal_replays_give_equal_batches",
    MarksWhatItDrew: "law_1_equal_replays_give_equal_batches",
    LendsTheStorage: "law_1_equal_replays_give_equal_batches",
    AsksForTooFewRecords: "law_2_one_episode_suffices",
    GivesFloats: "law_3_images_are_stacked_bytes",
    StacksInSecret: "law_3_images_are_stacked_bytes",
    LeavesStartsUnmarked: "law_4_segments_follow_their_episode",
    MarksEveryRecord: "law_4_segments_follow_their_episode",
    CrossesEpisodes: "law_4_segments_follow_their_episode",
    RewardsComeLate: "law_4_segments_follow_their_episode",
    ActionsComeEarly: "law_4_segments_follow_their_episode",
    RewardsOfAnotherRow: "law_4_segments_follow_their_episode",
    CallsATimeLimitTerminal: "law_4_segments_follow_their_episode",
    RunsThroughTheEnd: "law_5_transitions_add_up",
    SumsThroughTheEnd: "law_5_transitions_add_up",
    BootstrapsThroughTheEnd: "law_5_transitions_add_up",
    DropsTheBootstrapAtATimeLimit: "law_5_transitions_add_up",
    DiscountsOncePerTransition: "law_5_transitions_add_up",
    DiscountsOnceTooOften: "law_5_transitions_add_up",
    DiscountsOnceTooFew: "law_5_transitions_add_up",
    DiscountsShortEndsInFull: "law_5_transitions_add_up",
    SumsWithoutGamma: "law_5_transitions_add_up",
    DiscountsTheFirstReward: "law_5_transitions_add_up",
    ActsOneStepLate: "law_5_transitions_add_up",
    NextIsOneEarly: "law_5_transitions_add_up",
    NextIsOneLate: "law_5_transitions_add_up",
    StacksAcrossAReset: "law_3_images_are_stacked_bytes",
    StacksNextAcrossAReset: "law_3_images_are_stacked_bytes",
    StacksNewestFirst: "law_3_images_are_stacked_bytes",
    HidesItsGamma: "law_5_transitions_add_up",
    NeverReachesTheEnd: "law_6_every_record_is_drawn",
}
