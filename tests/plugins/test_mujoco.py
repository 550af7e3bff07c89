"""The shared MuJoCo renderer, on a scene of its own."""

import gc
import threading
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmplatform.errors import ExitCode
from wmplugins.mujoco import (
    RenderingMoved,
    RenderProfile,
    SceneRenderer,
    UnknownCamera,
    import_mujoco,
    render_profile,
)
from wmplugins.mujoco.renderer import UnknownProfile, box_average

SCENE = """
<mujoco>
  <asset>
    <texture name="wood" type="2d" builtin="flat" rgb1="0 0 1" width="8" height="8"/>
    <material name="wood" texture="wood"/>
  </asset>
  <worldbody>
    <light pos="-2 0 3" dir="2 0 -3" castshadow="true"/>
    <camera name="front" pos="0 -3 1" xyaxes="1 0 0 0 0.3 1"/>
    <camera name="top" pos="0 0 4"/>
    <geom type="plane" size="2 2 0.1" material="wood"/>
    <body pos="0.4 0 0.6"><freejoint/><geom type="sphere" size="0.3" rgba="{rgba}"/></body>
  </worldbody>
</mujoco>
"""


def scene(rgba: str = "1 0 0 1") -> tuple[Any, Any]:
    mujoco = import_mujoco()
    model = mujoco.MjModel.from_xml_string(SCENE.format(rgba=rgba))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def renderer(model: Any, **changes: Any) -> SceneRenderer:
    settings = {"size": 16, "camera": "front", "profile": render_profile("fast")}
    return SceneRenderer(model, **{**settings, **changes})


def test_reference_pixels_equal_those_of_mujocos_own_renderer() -> None:
    mujoco = import_mujoco()
    model, data = scene()
    ours = renderer(model, size=32, profile=render_profile("reference"))
    picture = ours.render(data)
    theirs = mujoco.Renderer(model, 32, 32)
    theirs.update_scene(data, camera="front")
    expected = theirs.render().transpose(2, 0, 1)
    theirs.close()
    assert np.array_equal(picture, expected)
    assert np.array_equal(ours.render(data), expected)
    ours.close()


def test_bottom_first_is_the_vertical_flip_of_top_first() -> None:
    model, data = scene()
    top, bottom = renderer(model), renderer(model, rows="bottom_first")
    assert np.array_equal(top.render(data), bottom.render(data)[:, ::-1])
    top.close()
    bottom.close()


def test_pictures_are_contiguous_and_of_their_own_memory() -> None:
    model, data = scene()
    ours = renderer(model)
    first = ours.render(data)
    kept = first.copy()
    data.qpos[0] = -0.5
    import_mujoco().mj_forward(model, data)
    assert not np.array_equal(ours.render(data), kept)
    assert np.array_equal(first, kept)
    assert first.flags.c_contiguous
    assert (first.dtype, first.shape) == (np.uint8, (3, 16, 16))
    ours.close()


@pytest.mark.parametrize("size", [8, 17])
def test_models_share_a_context_without_disturbing_each_other(size: int) -> None:
    (red_model, red), (green_model, green) = scene(), scene("0 1 0 1")
    first, second = renderer(red_model), renderer(green_model, size=size)
    before = first.render(red)
    assert not np.array_equal(before[:, 8, 8], second.render(green)[:, size // 2, size // 2])
    assert np.array_equal(first.render(red), before)
    second.close()
    assert np.array_equal(first.render(red), before)
    first.close()


def test_closing_is_idempotent_and_rendering_opens_again() -> None:
    model, data = scene()
    ours = renderer(model)
    ours.close()
    before = ours.render(data)
    ours.close()
    ours.close()
    assert np.array_equal(ours.render(data), before)
    ours.close()


def test_a_collected_renderer_frees_its_model() -> None:
    from wmplugins.mujoco.gl import shared_gl

    model, data = scene()
    count = len(shared_gl()._models)
    ours = renderer(model)
    ours.render(data)
    assert len(shared_gl()._models) == count + 1
    del ours
    gc.collect()
    assert len(shared_gl()._models) == count


def test_camera_number_means_the_same_as_its_name() -> None:
    model, data = scene()
    named, numbered = renderer(model, camera="top"), renderer(model, camera=1)
    assert np.array_equal(named.render(data), numbered.render(data))
    named.close()
    numbered.close()


@pytest.mark.parametrize("camera", ["back", 2, -1])
def test_unknown_camera_names_the_known_ones(camera: str | int) -> None:
    with pytest.raises(UnknownCamera, match="no camera") as caught:
        renderer(scene()[0], camera=camera)
    assert "0 'front', 1 'top'" in caught.value.hint
    assert caught.value.exit_code is ExitCode.BAD_INPUT


def test_unknown_profile_is_refused() -> None:
    name: Any = "pretty"
    with pytest.raises(UnknownProfile, match="pretty"):
        render_profile(name)


def test_fast_profile_draws_shadows_only_when_asked() -> None:
    pictures = []
    for profile in (render_profile("fast"), render_profile("fast", shadow_size=512)):
        model, data = scene()
        ours = renderer(model, camera="top", profile=profile, size=32)
        pictures.append(ours.render(data).astype(int))
        ours.close()
    assert pictures[0].sum() > pictures[1].sum()


def test_supersampling_averages_a_larger_picture() -> None:
    model, data = scene()
    large = renderer(model, size=32)
    expected = box_average(large.render(data).transpose(1, 2, 0), 2).transpose(2, 0, 1)
    large.close()
    smooth = renderer(model, profile=render_profile("fast", supersample=2))
    assert np.array_equal(smooth.render(data), expected)
    smooth.close()


@given(times=st.integers(1, 4), side=st.integers(1, 5), seed=st.integers(0, 99))
def test_box_average_is_the_rounded_mean(times: int, side: int, seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (side * times, side * times, 3))
    boxes = picture.reshape(side, times, side, times, 3).mean(axis=(1, 3))
    small = box_average(picture.astype(np.uint8), times)
    assert np.abs(small - boxes).max() <= 0.5


def test_an_edited_texture_shows_after_its_upload() -> None:
    model, data = scene()
    ours = renderer(model, camera="top")
    ours.upload_texture(0)
    before = ours.render(data)
    model.tex_data[:] = 255 - model.tex_data
    assert np.array_equal(ours.render(data), before)
    ours.upload_texture(0)
    assert not np.array_equal(ours.render(data), before)
    ours.close()


def test_a_renderer_stays_in_its_thread() -> None:
    model, data = scene()
    ours = renderer(model)
    ours.render(data)
    assert isinstance(_in_thread(lambda: ours.render(data)), RenderingMoved)
    assert _in_thread(ours.close) is None
    assert _in_thread(lambda: _own_renderer_gives(ours_pixels(model, data))) is None


def ours_pixels(model: Any, data: Any) -> np.ndarray:
    ours = renderer(model)
    pixels = ours.render(data)
    ours.close()
    return pixels


def _own_renderer_gives(expected: np.ndarray) -> None:
    assert np.array_equal(ours_pixels(*scene()), expected)


def _in_thread(work: Any) -> BaseException | None:
    raised: list[BaseException | None] = [None]

    def target() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            raised[0] = error

    thread = threading.Thread(target=target)
    thread.start()
    thread.join(timeout=60)
    return raised[0]


@pytest.mark.parametrize("name", ["reference", "fast"])
def test_reference_changes_no_visual_setting_but_the_size(
    name: Literal["reference", "fast"],
) -> None:
    model, _ = scene()
    quality = model.vis.quality
    before = (quality.shadowsize, quality.offsamples)
    renderer(model, profile=render_profile(name))
    kept = (quality.shadowsize, quality.offsamples) == before
    assert kept is (name == "reference")
    assert render_profile("reference") == RenderProfile()
