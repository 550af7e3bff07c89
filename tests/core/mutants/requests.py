"""Requests that each break one law."""

import torch
from tensordict import TensorDict

from wmplatform.images import to_centred
from wmplatform.replay import Replay, Segments, Transitions


class DrawsFromTorch(Segments):
    def sample(self, replay: Replay) -> TensorDict:
        batch = super().sample(replay)
        return batch[torch.randperm(len(batch))]


class MarksWhatItDrew(Segments):
    def sample(self, replay: Replay) -> TensorDict:
        replay.storage.column("reward").add_(1)
        return super().sample(replay)


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


MUTANTS = {
    DrawsFromTorch: "law_1_equal_replays_give_equal_batches",
    MarksWhatItDrew: "law_1_equal_replays_give_equal_batches",
    AsksForTooFewRecords: "law_2_one_episode_suffices",
    GivesFloats: "law_3_images_are_stacked_bytes",
    StacksInSecret: "law_3_images_are_stacked_bytes",
}
