"""The parts of the core that a gin file can name, and where they are defined.

A name maps to `module:attribute` of a class or function, which is read without being imported when
a configuration is checked. Its settings are its keyword-only arguments; the arguments before the
`*` are wiring, which the code that calls it supplies. Components from plug-ins are not listed here:
they come from entry points (`wmplatform.registry`).
"""

__all__ = ["CONFIGURABLES", "ROOTS"]

CONFIGURABLES: dict[str, str] = {
    "Adam": "wmplatform.training.optim:Adam",
    "Agent": "wmplatform.agent:Agent",
    "Clips": "wmplatform.videos.clips:Clips",
    "Collection": "wmplatform.collect:Collection",
    "Evaluation": "wmplatform.evaluation:Evaluation",
    "Learner": "wmplatform.training.learner:Learner",
    "Online": "wmplatform.training.online:Online",
    "Prepare": "wmplatform.videos.prepare:Prepare",
    "Pretrain": "wmplatform.training.pretrain:Pretrain",
    "Replay": "wmplatform.replay.buffer:Replay",
    "Segments": "wmplatform.replay.requests:Segments",
    "Transitions": "wmplatform.replay.requests:Transitions",
    "WorldModel": "wmplatform.world_model:WorldModel",
}

ROOTS: tuple[str, ...] = ("Online", "Prepare", "Pretrain")
"""What the commands build directly; a binding that no root leads to is unused."""
