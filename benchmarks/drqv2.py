"""DrQ-v2's update and replay draw beside the plain way to write them, as ratios of one run.

    python benchmarks/drqv2.py [--size 84] [--batch 256] [--updates 5] [--threads 1]
                               [--device cpu] [--json drqv2.json]

The plain update is what one writes down first: both stacks to float, random shifts by sampling a
grid, one module after the other, `torch.optim.Adam`, six numbers read back each time. Networks,
batch and arithmetic are the same. Both go in turn, and the least disturbed one of each counts: on a
CPU by the process' CPU time, because the machine is shared.
"""

# ruff: noqa: E402  the source roots come before the packages below

import argparse
import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / source) for source in ("benchmarks", "platform", "plugins")]

import torch
from data_replay import cpu_seconds, measure_transitions, show_transitions
from learner import counts_of, synthetic
from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional as F

from wmplatform import assembly
from wmplatform.agent import Agent
from wmplatform.config import load
from wmplatform.training.launch import choose_device
from wmplatform.training.learner import Learner
from wmplatform.types import ActionSpec, ArraySpec, EnvSpec
from wmplugins.blocks import NoisyMean


class PlainUpdate:
    """DrQ-v2 without the platform, on copies of an agent's networks."""

    def __init__(self, agent: Agent) -> None:
        parts = copy.deepcopy(agent)
        self.encoder, behavior = parts.world_model.encoder.layers, parts.behavior
        self.actor, self.critic, self.slow = behavior.actor, behavior.critic, behavior.slow_critic
        self.optimizers = [
            torch.optim.Adam(module.parameters(), lr=1e-4)
            for module in (self.encoder, self.critic, self.actor)
        ]

    def augment(self, images: Tensor, pad: int = 4) -> Tensor:
        """Shift by sampling a grid."""
        count, _, size, _ = images.shape
        wide = size + 2 * pad
        edge = 1.0 / wide
        padded = F.pad(images, (pad,) * 4, mode="replicate")
        line = torch.linspace(-1.0 + edge, 1.0 - edge, wide, device=images.device)[:size]
        base = torch.stack([line.expand(size, size), line[:, None].expand(size, size)], -1)
        shift = torch.randint(0, 2 * pad + 1, (count, 1, 1, 2), device=images.device)
        return F.grid_sample(padded, base + shift * (2.0 / wide), align_corners=False)

    def encode(self, images: Tensor) -> Tensor:
        """Embed a stack of bytes."""
        return self.encoder(self.augment(images.float()) / 255 - 0.5).flatten(1)

    def act(self, features: Tensor) -> Tensor:
        """Act with clipped noise."""
        return NoisyMean(self.actor(features), 1.0).sample(0.3)

    def __call__(self, batch: TensorDict) -> dict[str, float]:
        """Make one update."""
        encoder_step, critic_step, actor_step = self.optimizers
        features = self.encode(batch["pixels"])
        with torch.no_grad():
            following = self.encode(batch["next", "pixels"])
            slow = self.slow(following, self.act(following)).amin(0)
            target = batch["reward"] + batch["discount"] * slow
        values = self.critic(features, batch["action"])
        loss = F.mse_loss(values[0], target) + F.mse_loss(values[1], target)
        for optimizer in (encoder_step, critic_step):
            optimizer.zero_grad()
        loss.backward()
        critic_step.step()
        encoder_step.step()
        features = features.detach()
        actor_loss = -self.critic(features, self.act(features)).amin(0).mean()
        actor_step.zero_grad()
        actor_loss.backward()
        actor_step.step()
        for slow_p, p in zip(self.slow.parameters(), self.critic.parameters(), strict=True):
            slow_p.data.copy_(0.01 * p.data + 0.99 * slow_p.data)
        found = {"critic": loss, "actor": actor_loss, "target": target.mean()}
        found |= {"q1": values[0].mean(), "q2": values[1].mean(), "reward": batch["reward"].mean()}
        return {name: value.item() for name, value in found.items()}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time both updates in turn, then replay's draws."""
    device = torch.device(choose_device(options.device))
    config = load(
        [ROOT / "experiments" / "base" / "drqv2.gin"],
        ["Online.env = @envs.gym", f"Transitions.batch = {options.batch}", *options.bind],
    )
    pixels = {"pixels": ArraySpec((3, options.size, options.size), "uint8")}
    spec = EnvSpec(pixels, ActionSpec(6))
    agent = assembly.build_agent(config, spec).to(device)
    learner: Learner = assembly.build_part(config, "learner", agent)
    batch, plain = synthetic(spec, learner.data, device), PlainUpdate(agent)
    calls: dict[str, Callable[[], Any]] = {
        "update": lambda: learner.update(batch),
        "plain_update": lambda: plain(batch),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(options.updates + 1):
        for name, call in calls.items():
            taken = cpu_seconds(call, device)
            times[name] += [taken] if repeat else []
    least = {name: min(values) for name, values in times.items()}
    counts = counts_of(learner, batch)
    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "batch": [options.batch, 9, options.size, options.size],
        "parameters": counts.parameters,
        "kernels": counts.kernels,
        "gflops": counts.gflops,
        **{f"{name}_s": value for name, value in least.items()},
        "speedup": least["plain_update"] / least["update"],
        "transitions": measure_transitions(
            transition_size=options.size, repeats=30, device=str(device)
        ),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=84, help="pixels of an image's side")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--updates", type=int, default=5, help="that are timed")
    parser.add_argument("--bind", action="append", default=[], help="a gin binding; repeatable")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    found = measure(options)
    shape = " x ".join(map(str, found["batch"]))
    print(
        f"update of {shape}: {found['update_s']:.3g} s, {found['speedup']:.2f} times as fast as "
        f"the plain one ({found['plain_update_s']:.3g} s)\n         {found['kernels']} operators "
        f"without views, {found['gflops']:.1f} GFLOP, {found['parameters']:,} parameters"
    )
    show_transitions(found["transitions"])
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
