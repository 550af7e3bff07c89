"""The laws of VideoSource on every registered source, and the checker on broken ones."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmplatform.contracts import check
from wmplatform.contracts import video_source as laws
from wmplatform.interfaces import VideoSource

from .mutants.video_sources import MUTANTS
from .reference_components import SyntheticVideos
from .subjects import Subject, holds, subjects

every_source = subjects("videos", SyntheticVideos)


@every_source
@settings(max_examples=3)
@given(index=st.integers(0, 1000))
def test_laws_hold(subject: Subject, index: int) -> None:
    source = subject.make()
    holds(laws.law_1_keys_are_stable_and_unique, source, subject.make)
    holds(laws.law_2_frames_are_as_declared, source, index)
    holds(laws.law_2_frames_are_the_same_every_time, source, subject.make, index)
    holds(laws.law_3_undecodable_raises_with_its_key, source)
    holds(laws.law_4_settings_are_json_and_stable, source, subject.make)
    holds(laws.law_5_lengths_and_parts_agree, source, index)
    holds(laws.law_6_a_pickled_copy_decodes_the_same, source, index)
    holds(laws.law_7_groups_are_weighted, source)


@every_source
def test_checker_passes(subject: Subject) -> None:
    assert check("videos", subject.component).ok


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_checker_catches(mutant: type[VideoSource]) -> None:
    report = check("videos", mutant, collect=True)
    assert MUTANTS[mutant] in {f.name for f in report.findings if f.outcome == "broken"}, report


def test_checking_videos_and_environments_needs_no_torch() -> None:
    code = (
        "import sys; from wmplatform import contracts;"
        "contracts.check, contracts.check_video_source, contracts.check_env_adapter;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=_paths()).returncode == 0


def _paths() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
