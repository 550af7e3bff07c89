"""The laws of the interfaces as runnable checks, for anybody who writes a component.

    from wmplatform.contracts import check_encoder
    print(check_encoder(MyEncoder, {"pixels": ArraySpec((3, 64, 64), "uint8")}))

Each `check_*` runs all laws of one interface over a few fixed cases and returns a `Report`, or
raises the first `ContractViolation`. Each law is also a function of its own in the interface's
file here, with shapes, seeds and reset patterns as arguments, for property-based tests.

Names are imported when first used: checking an environment needs no torch.
"""

from importlib import import_module
from typing import Any

__all__ = [
    "ContractViolation",
    "Report",
    "check",
    "check_augmentation",
    "check_behavior",
    "check_context_encoder",
    "check_decoder",
    "check_encoder",
    "check_env_adapter",
    "check_explorer",
    "check_head",
    "check_latent_dynamics",
    "check_loss_balancer",
    "check_optimizer",
    "check_video_source",
    "check_world_model",
]

_HOME = {
    "ContractViolation": "violation",
    "Report": "laws",
    "check": "run",
    "check_head": "reward_head",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOME.get(name, name.removeprefix("check_"))
    return getattr(import_module(f"{__name__}.{home}"), name)
