"""Floats are added alike under every Python. The expected numbers are those of Python 3.11."""

from typing import Any

import numpy as np
import pytest

from wmplatform.envs import Frame, PlatformEnv
from wmplatform.evaluation import Evaluation
from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvSpec
from wmplatform.sums import REDUCTIONS, plain_sum

from .counter_env import CountingAgent
from .toy_envs import Drift, ToyAdapter

CANCELLING = [1e16, 1.0, -1e16]
TENTHS = [0.1] * 10
SUMS = [(CANCELLING, 0.0), (TENTHS, 0.9999999999999999), ([-0.0], 0.0), ([], 0.0)]


class Paying(Drift):
    """Pays what it is told, and tells it as a signal too."""

    def __init__(self, payments: list[float]) -> None:
        super().__init__()
        self.payments = payments

    def reset(self, seed: int | None) -> dict[str, float]:
        super().reset(seed)
        return {"pay": 0.0}

    def advance(self, action: Any) -> Frame:
        super().advance(action)
        pay = self.payments[(self.frames - 1) % len(self.payments)]
        return Frame(pay, signals={"pay": pay})


class PayingAdapter(ToyAdapter):
    """An episode of one payment a step, or all of them in each step."""

    def __init__(self, payments: list[float], rule: Any, *, repeat: bool) -> None:
        self.payments = payments
        limit, frames = (1, len(payments)) if repeat else (len(payments), 1)
        self.declared = EnvSpec(
            {"pixels": ArraySpec((3, 4, 4), "uint8")}, ActionSpec(2), frames, limit, {"pay": rule}
        )

    def spec(self) -> EnvSpec:
        return self.declared

    def make(self, seed: int) -> PlatformEnv:
        return PlatformEnv(Paying(self.payments), self.declared, name=self.name, seed=seed)


@pytest.mark.parametrize(("values", "total"), SUMS)
def test_sums_round_at_each_step(values: list[float], total: float) -> None:
    assert plain_sum(values) == total
    assert np.signbit(plain_sum(values)) == np.signbit(total)
    assert REDUCTIONS["sum"](values) == total


@pytest.mark.parametrize(("payments", "total"), SUMS[:2])
def test_rewards_and_signals_of_a_repeat_are_added_so(payments: list[float], total: float) -> None:
    for rule, expected in (("sum", total), ("mean", total / len(payments))):
        env = PayingAdapter(payments, rule, repeat=True).make(0)
        env.reset()
        _, reward, _, _, info = env.step(np.zeros(2, np.float32))
        assert (reward, info["pay"]) == (total, expected)


@pytest.mark.parametrize(("payments", "total"), SUMS[:2])
def test_returns_and_signals_of_an_evaluation_are_added_so(
    payments: list[float], total: float
) -> None:
    agent: Any = CountingAgent()
    for rule, expected in (("sum", total), ("mean", total / len(payments))):
        evaluation = Evaluation(episodes=1, video_episodes=0)
        adapter = PayingAdapter(payments, rule, repeat=False)
        (episode,) = evaluation.run(adapter, agent, 0, {"agent_steps": 0}).episodes
        evaluation.close()
        assert (episode.return_, episode.signals["pay"]) == (total, expected)
