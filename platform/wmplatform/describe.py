"""What a configuration assembles, in numbers: components, parameters, shapes, optimiser groups.

Builds the agent on the CPU; no simulator is started.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from torch import nn

from wmplatform import assembly
from wmplatform.agent import Agent
from wmplatform.config import Config
from wmplatform.registry import Component
from wmplatform.types import ArraySpec, EnvSpec

__all__ = ["describe", "render"]

_MODEL_PARTS = {
    "encoder": "encoders",
    "context_encoder": "context_encoders",
    "dynamics": "dynamics",
    "decoder": "decoders",
    "balancer": "balancers",
}


def describe(config: Config) -> dict[str, Any]:
    """Describe the agent of a configuration as JSON values.

    Returns:
        `components` by name (`encoder`, `heads.reward`, ...), each with `group`, `name`,
        `distribution`, `version`, `class`, `parameters`, `trainable`, `buffers`, `modules` and
        `children`; `totals`; `env`; `specs` of embeddings, views and context; `optimizers`;
        `unused`, the settings that replaced parts left behind.

    Raises:
        PlatformError: the configuration cannot be assembled.
    """
    spec = assembly.build_spec(config)
    agent = assembly.build_agent(config, spec)
    used = config.components_used()
    return {
        "loop": assembly.root_of(config),
        "env": {**_data(config, used), **_env_spec(spec)},
        "components": {
            name: {**_origin(module, group, used), **_size(module), "children": _children(module)}
            for name, (group, module) in _parts(agent).items()
        },
        "totals": _size(agent),
        "specs": _specs(agent),
        "optimizers": _optimizers(config, agent),
        "unused": list(config.unused),
    }


def render(described: Mapping[str, Any]) -> RenderableType:
    """Lay a description out as tables."""
    components = Table("component", "what", "class", "parameters", "trainable", title="Components")
    for name, part in described["components"].items():
        _add_rows(components, name, part, part["name"] or "")
    components.add_section()
    _add_rows(components, "total", described["totals"], "")
    for column in components.columns[3:]:
        column.justify = "right"
    groups = Table("optimiser", "parameters", title="Optimisers")
    for name, count in described["optimizers"].items():
        groups.add_row(name, f"{count:,}")
    tables = [components, _render_specs(described), groups]
    if unused := described["unused"]:
        return Group(*tables, f"without use, left behind by replaced parts: {', '.join(unused)}")
    return Group(*tables)


def _parts(agent: Agent) -> dict[str, tuple[str, nn.Module]]:
    """Name every component that is present, with its registry group."""
    model = agent.world_model
    found: dict[str, tuple[str, nn.Module | None]] = {
        name: (group, getattr(model, name)) for name, group in _MODEL_PARTS.items()
    }
    found |= {f"heads.{name}": ("heads", head) for name, head in model.heads.items()}
    found |= {
        "behavior": ("behaviors", agent.behavior),
        "explorer": ("explorers", agent.explorer),
    }
    return {name: (group, part) for name, (group, part) in found.items() if part is not None}


def _data(config: Config, used: list[Component]) -> dict[str, Any]:
    """Say where records come from: an environment, or videos."""
    if assembly.root_of(config) == assembly.VIDEOS:
        none = dict.fromkeys(("name", "distribution", "version", "class"))
        return {"task": "videos", "group": "videos", **none}
    adapter = assembly.build_adapter(config)
    return {"task": adapter.name, **_origin(adapter, "envs", used)}


def _origin(made: object, group: str, used: list[Component]) -> dict[str, Any]:
    """Say where a component comes from; None for the core's own fill-ins."""
    kind = type(made)
    found = next((c for c in used if c.group == group and c.load() is kind), None)
    return {
        "group": group,
        "name": found.name if found else None,
        "distribution": found.distribution if found else None,
        "version": found.version if found else None,
        "class": f"{kind.__module__}.{kind.__qualname__}",
    }


def _size(module: nn.Module) -> dict[str, int]:
    parameters = list(module.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "buffers": sum(buffer.numel() for buffer in module.buffers()),
        "modules": sum(1 for _ in module.modules()) - 1,
    }


def _children(module: nn.Module) -> dict[str, dict[str, Any]]:
    return {
        name: {"class": type(child).__name__, **_size(child)}
        for name, child in module.named_children()
        if any(True for _ in child.parameters()) or any(True for _ in child.buffers())
    }


def _env_spec(spec: EnvSpec) -> dict[str, Any]:
    return {
        "observations": _shapes(spec.observations),
        "action": asdict(spec.action),
        "action_repeat": spec.action_repeat,
        "time_limit": spec.time_limit,
        "signals": dict(spec.signals),
    }


def _specs(agent: Agent) -> dict[str, Any]:
    model = agent.world_model
    context = model.context_encoder
    return {
        "embeds": _shapes(model.encoder.embed_specs),
        "views": _shapes(model.view_specs()),
        "context": _shapes(context.context_specs) if context is not None else {},
    }


def _shapes(specs: Mapping[str, Any]) -> dict[str, Any]:
    """Specs as JSON; a view may itself be several arrays by name."""
    return {
        name: {"shape": list(spec.shape), "dtype": spec.dtype}
        if isinstance(spec, ArraySpec)
        else _shapes(spec)
        for name, spec in specs.items()
    }


def _optimizers(config: Config, agent: Agent) -> dict[str, int]:
    """Count the trainable parameters of each optimiser group; empty without a learner."""
    if "Learner" not in config.targets:
        return {}
    sizes: dict[str, int] = assembly.build_part(config, "learner", agent).group_sizes()
    return sizes


def _add_rows(table: Table, name: str, part: Mapping[str, Any], what: str) -> None:
    counts = (f"{part['parameters']:,}", f"{part['trainable']:,}")
    table.add_row(name, what, part.get("class", "").rpartition(".")[2], *counts)
    for child, size in part.get("children", {}).items():
        if size["parameters"]:
            small = (f"{size['parameters']:,}", f"{size['trainable']:,}")
            table.add_row(f"  {child}", "", size["class"], *small, style="dim")


def _render_specs(described: Mapping[str, Any]) -> Table:
    table = Table("array", "shape", "dtype", title=f"Shapes ({described['env']['task']})")
    arrays = {"observation": described["env"]["observations"], **described["specs"]}
    for kind, specs in arrays.items():
        for name, spec in _flat(specs).items():
            shape = " x ".join(map(str, spec["shape"])) or "scalar"
            table.add_row(f"{kind.removesuffix('s')} {name}", shape, spec["dtype"])
    action = described["env"]["action"]
    table.add_row("action", str(action["size"]), action["kind"])
    return table


def _flat(specs: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, spec in specs.items():
        found |= {prefix + name: spec} if "dtype" in spec else _flat(spec, f"{prefix}{name}.")
    return found
