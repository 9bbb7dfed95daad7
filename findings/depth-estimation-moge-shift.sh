#!/usr/bin/env bash
# depth-estimation 0.1.3 finds MoGe's focal length and depth shift by a search of its own that stops short.
#
# MoGe's network gives points up to a shift along the axis; focal length and shift follow from them by least squares
# (scipy in the authors' own code, moge/utils/geometry_numpy.py). The package replaces that by a Gauss-Newton search.
# Guess: points that obey the camera model exactly give the shift exactly, as scipy does.
# Seen (depth-estimation 0.1.3, torch 2.11.0, numpy 2.4.6, Python 3.11): of a tilted, bumpy surface 2 to 4 units away
# that is short of 1.0 the search returns 0.932 and a focal length of 0.8785 instead of 0.9, so
# metric depth is off by one constant an image; scipy gives both to six digits. Its derivative leaves out that the focal
# length changes with the shift, and it ends once a step is below a thousandth.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
pip() { "$dir/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
pip torch==2.11.0 numpy==2.4.6 scipy==1.17.1 safetensors==0.8.0 huggingface-hub einops==0.8.2 addict==2.4.0 pillow matplotlib
pip opencv-python-headless
pip --no-deps depth-estimation==0.1.3
cd "$dir"
"$dir/venv/bin/python" - <<'PY'
import numpy as np
import torch
from depth_estimation.models.moge.modeling_moge import _normalized_view_plane_uv, _recover_focal_shift
from scipy.optimize import least_squares

focal, shift = 0.9, 1.0
uv = _normalized_view_plane_uv(96, 72, dtype=torch.float64)
z = 3 + uv[..., 0] + 0.4 * torch.sin(6 * uv[..., 1])
points = torch.cat([uv * (z / focal)[..., None], (z - shift)[..., None]], -1)
found_focal, found_shift = (float(value) for value in _recover_focal_shift(points))

u, p = uv.reshape(-1, 2).numpy(), points.reshape(-1, 3).numpy()


def residual(guess):
    plane = p[:, :2] / (p[:, 2] + guess)[:, None]
    return ((plane * u).sum() / (plane**2).sum() * plane - u).ravel()


[exact] = least_squares(residual, 0.0, ftol=1e-12, xtol=1e-12, gtol=1e-12).x
print(f"package: shift {found_shift:.4f}, focal {found_focal:.4f}; scipy: shift {exact:.6f}; true: 1, 0.9")
assert abs(exact - shift) < 1e-6, exact
assert 0.005 < abs(found_shift - shift) < 0.2, found_shift
PY
echo "as seen: points that fit a camera exactly come back with another shift"
