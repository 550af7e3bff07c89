#!/bin/sh
# Find a way to render without a screen and print its name (egl or osmesa) for MUJOCO_GL.
# Installs Mesa's software renderer through apt when nothing works and it may.
# Usage: scripts/gl.sh PYTHON
set -eu
python=$1
here=$(dirname "$0")

# The libraries may load and still find no driver, so the test is a real context.
renders() {
    MUJOCO_GL=$1 "$python" -P -c '
import mujoco
context = mujoco.GLContext(64, 64)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100)
context.free()' >/dev/null 2>&1
}

find_backend() {
    for backend in ${MUJOCO_GL:-egl osmesa}; do
        if renders "$backend"; then
            echo "$backend"
            return 0
        fi
    done
    return 1
}

find_backend && exit 0
why="headless rendering does not work (MUJOCO_GL=${MUJOCO_GL:-egl or osmesa})"
"$here/apt.sh" "$why" libegl1 libegl-mesa0 libgl1-mesa-dri libgles2 libgl1 libopengl0
find_backend && exit 0
# Only now, because newer releases have no such package.
"$here/apt.sh" "$why" libosmesa6 || true
find_backend && exit 0
echo "headless rendering does not work although the GL libraries are installed; this is why:" >&2
MUJOCO_GL=${MUJOCO_GL:-egl} "$python" -P -c 'import mujoco; mujoco.GLContext(64, 64).make_current()' >&2 || true
exit 4
