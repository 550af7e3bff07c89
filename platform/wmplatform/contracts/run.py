"""`check(group, component)`: build any component with small inputs and run its laws.

A component is built as the platform builds it: the specs of what lies upstream first, then its own
settings by name. The specs are the small ones of `WIRING`; its settings are its defaults. A
component that needs others says so by optional class methods, a convention for plug-in authors:

- `contract_settings() -> dict[str, object]`: settings for the check, e.g. small layer sizes
  (default: none);
- `contract_wiring() -> dict[str, object]`: specs for the check by name, where those of `WIRING` do
  not fit, e.g. `{"embeds": {"ctrl": ArraySpec((8,)), "free": ArraySpec((8,))}}`; the word
  `"data": "transitions"` makes a behavior learn from transitions instead of segments.

This file imports no torch.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from wmplatform.contracts.laws import Law, Report
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec

__all__ = ["WIRING", "CannotCheck", "check", "settings_of", "wiring_of"]

_VECTOR = ArraySpec((12,))

WIRING: Mapping[str, Any] = MappingProxyType(
    {
        "observations": {"pixels": ArraySpec((3, 64, 64), "uint8")},
        "embeds": {"embed": ArraySpec((8,))},
        "action": (ActionSpec(3), ActionSpec(3, "discrete")),
        "features": _VECTOR,
        "context": None,
        "views": dict.fromkeys(("policy", "value", "reward", "decode", "continue"), _VECTOR),
        "names": ("image", "kl", "reward", "continue"),
        "pixels": ArraySpec((3, 16, 16), "uint8"),
        "data": "segments",
        "steps": 12,
    }
)
"""Specs that components are built with; several actions are tried one after another."""


class CannotCheck(PlatformError):
    """A component cannot be built for a check."""

    exit_code = ExitCode.BAD_INPUT


def check(
    group: str,
    component: Callable[..., Any],
    *,
    seed: int = 0,
    collect: bool = False,
    **settings: Any,  # noqa: ANN401 - each component has its own
) -> Report:
    """Check one component against the laws of its interface.

    Args:
        group: registry group, e.g. `encoders`; the singular is understood too.
        component: the class, or a function that makes one.
        seed: of all random inputs.
        collect: note all violations in the report instead of raising the first.
        settings: of the component, over those of its `contract_settings`.

    Raises:
        ContractViolation: a law is broken and `collect` is not set.
        CannotCheck: no such group, or the component cannot be built.
    """
    name = group if group in _CHECKS else f"{group}s"
    if name not in _CHECKS:
        raise CannotCheck(
            f"there are no checks for {group!r}", hint=f"known: {', '.join(sorted(_CHECKS))}"
        )
    make = _Maker(component, settings_of(component, settings))
    report = _CHECKS[name](make, wiring_of(component), {"seed": seed, "collect": collect})
    report.component = _name(component)
    return report


def settings_of(
    component: Callable[..., Any], given: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Settings for a check: those given over the component's own `contract_settings`."""
    declared: Callable[[], dict[str, Any]] | None = getattr(component, "contract_settings", None)
    return {**(declared() if declared else {}), **given}


def wiring_of(component: Callable[..., Any]) -> dict[str, Any]:
    """Specs for a check: the component's own `contract_wiring` over the usual ones."""
    declared: Callable[[], dict[str, Any]] | None = getattr(component, "contract_wiring", None)
    own = declared() if declared else {}
    unknown = sorted(set(own) - set(WIRING))
    if unknown:
        raise CannotCheck(
            f"contract_wiring of {_name(component)} names {', '.join(unknown)}",
            hint=f"known: {', '.join(WIRING)}",
        )
    return {**WIRING, **own}


class _Refused(Exception):
    """A component does not take this wiring."""


class _Maker:
    """A factory whose failures say which component could not be built, and why."""

    def __init__(self, component: Callable[..., Any], settings: Mapping[str, Any]) -> None:
        self.component, self.settings = component, settings

    def __call__(self, *wiring: Any) -> Any:  # noqa: ANN401 - any component
        """Build it.

        Raises:
            CannotCheck: wrong settings, or an error of its own.
            _Refused: the component raised `ValueError`.
        """
        try:
            inspect.signature(self.component).bind(*wiring, **self.settings)
        except TypeError as error:
            raise CannotCheck(
                f"{_name(self.component)} cannot be built: {error}",
                hint="its signature is (wiring..., *, settings...); a class method "
                "contract_settings() gives it settings for checks",
            ) from error
        try:
            return self.component(*wiring, **self.settings)
        except ValueError as error:
            raise _Refused(str(error)) from error
        except Exception as error:
            raise _cannot(self, f"{type(error).__name__}: {error}") from error


T = TypeVar("T")

Options = Mapping[str, Any]
Wiring = Mapping[str, Any]


def _encoders(make: _Maker, wiring: Wiring, options: Options) -> Report:
    from wmplatform.contracts.encoder import check_encoder

    return _single(make, partial(check_encoder, make, wiring["observations"], **options))


def _context_encoders(make: _Maker, wiring: Wiring, options: Options) -> Report:
    from wmplatform.contracts.context_encoder import check_context_encoder

    return _single(make, partial(check_context_encoder, make, wiring["observations"], **options))


def _dynamics(make: _Maker, wiring: Wiring, options: Options) -> Report:
    from wmplatform.contracts.latent_dynamics import check_latent_dynamics

    run = partial(
        check_latent_dynamics, make, wiring["embeds"], context=wiring["context"], **options
    )
    return _each_action(make, wiring, run)


def _decoders(make: _Maker, wiring: Wiring, options: Options) -> Report:
    from wmplatform.contracts.decoder import check_decoder

    run = partial(check_decoder, make, wiring["features"], wiring["observations"])
    return _single(make, partial(run, context=wiring["context"], **options))


def _heads(make: _Maker, wiring: Wiring, options: Options) -> Report:
    from wmplatform.contracts.reward_head import check_head

    return _single(make, partial(check_head, make, _head_features(make, wiring), **options))


def _head_features(make: _Maker, wiring: Wiring) -> Any:  # noqa: ANN401 - a feature spec
    """What a head of this view and timing reads, unless its own wiring says so."""
    features = wiring["features"]
    if features is not WIRING["features"]:
        return features
    if getattr(make.component, "view", "") == "embeds":
        features = wiring["embeds"]
    if getattr(make.component, "timing", "") != "transition":
        return features
    return {"before": features, "action": ArraySpec((3,)), "after": features}


def _explorers(make: _Maker, wiring: Wiring, options: Options) -> Report:
    from wmplatform.contracts.explorer import check_explorer

    return _each_action(
        make, wiring, lambda action: check_explorer(make, action, wiring["views"], **options)
    )


def _behaviors(make: _Maker, wiring: Wiring, options: Options) -> Report:
    from wmplatform.contracts import reference
    from wmplatform.contracts.behavior import check_behavior

    transitions = wiring["data"] == "transitions"
    run = partial(
        check_behavior,
        make,
        make_agent=partial(reference.make_agent, memory=not transitions),
        draw_batch=reference.draw_transitions if transitions else reference.draw_records,
        **options,
    )
    return _each_action(make, wiring, run)


def _balancers(make: _Maker, wiring: Wiring, options: Options) -> Report:
    from wmplatform.contracts.loss_balancer import check_loss_balancer

    return _single(make, partial(check_loss_balancer, make, wiring["names"], **options))


def _augmentations(make: _Maker, wiring: Wiring, options: Options) -> Report:
    from wmplatform.contracts.augmentation import check_augmentation

    return _single(make, partial(check_augmentation, make, wiring["pixels"], **options))


def _videos(make: _Maker, wiring: Wiring, options: Options) -> Report:
    from wmplatform.contracts.video_source import check_video_source

    del wiring
    return _single(make, partial(check_video_source, make, **options))


def _optimizers(make: _Maker, wiring: Wiring, options: Options) -> Report:
    from wmplatform.contracts.optimizer import check_optimizer

    del wiring
    return _single(make, lambda: check_optimizer(make, **options))


def _requests(make: _Maker, wiring: Wiring, options: Options) -> Report:
    from wmplatform.contracts.request import check_request

    del wiring
    return _single(make, lambda: check_request(make, **options))


def _envs(make: _Maker, wiring: Wiring, options: Options) -> Report:
    from wmplatform.contracts.env_adapter import check_env_adapter

    short, single, shorter = _env_makers(make)

    def laws_1_to_9() -> None:
        check_env_adapter(
            short(),
            steps=wiring["steps"],
            seeds=(options["seed"], options["seed"] + 1),
            single=single() if single else None,
            shorter=shorter() if shorter else None,
        )

    report = Report("EnvAdapter", collect=options["collect"])
    _single(make, short)  # what cannot be built breaks no law
    report.run(Law("EnvAdapter", 0, laws_1_to_9))
    return report


def _env_makers(make: _Maker) -> tuple[_Maker, _Maker | None, _Maker | None]:
    """The adapter with short episodes and a repeat, and its twins: no repeat, a shorter limit.

    The end of an episode, the repeat and a limit that is called a termination can be seen only so.
    Settings that were given win, and an adapter without settings of these names is taken as it is.
    """
    known = inspect.signature(make.component).parameters
    settings = {k: v for k, v in {"time_limit": 8, "action_repeat": 2}.items() if k in known}
    settings |= make.settings
    limit = settings.get("time_limit")

    def twin(**changed: Any) -> _Maker:  # noqa: ANN401 - each component has its own
        return _Maker(make.component, {**settings, **changed})

    once = {"action_repeat": 1}
    if limit:
        once["time_limit"] = limit * settings.get("action_repeat", 1)
    return (
        twin(),
        twin(**once) if "action_repeat" in known else None,
        twin(time_limit=limit // 2) if limit and limit > 1 else None,
    )


def _single(make: _Maker, run: Callable[[], T]) -> T:
    try:
        return run()
    except _Refused as why:
        raise _cannot(make, str(why)) from why


def _each_action(make: _Maker, wiring: Wiring, run: Callable[[ActionSpec], Report]) -> Report:
    """Check for each kind of action that the component takes."""
    actions = wiring["action"] if isinstance(wiring["action"], tuple) else (wiring["action"],)
    found: Report | None = None
    refusals = []
    for action in actions:
        try:
            report = run(action)
        except _Refused as why:
            refusals.append(f"{action.kind} actions: {why}")
            continue
        found = found.merged(report) if found else report
    if found is None:
        raise _cannot(make, "; ".join(refusals))
    return found


def _cannot(make: _Maker, why: str) -> CannotCheck:
    return CannotCheck(
        f"{_name(make.component)} cannot be built: {why}",
        hint="its class methods contract_settings() and contract_wiring() say what it needs",
    )


def _name(component: Callable[..., Any]) -> str:
    return f"{component.__module__}.{getattr(component, '__qualname__', component)}"


_CHECKS: Mapping[str, Callable[[_Maker, Wiring, Options], Report]] = {
    "encoders": _encoders,
    "context_encoders": _context_encoders,
    "dynamics": _dynamics,
    "decoders": _decoders,
    "heads": _heads,
    "explorers": _explorers,
    "envs": _envs,
    "behaviors": _behaviors,
    "augmentations": _augmentations,
    "balancers": _balancers,
    "optimizers": _optimizers,
    "requests": _requests,
    "videos": _videos,
}
