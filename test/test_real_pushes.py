"""Real pushes: forces, trained weights and the network, each better than what is without it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.real_push_data import FOLDER, SIDE, calibrate, push_of, read_recording
from benchmarks.real_pushes import EVALUATION, METHODS, TRAINING, compare, mean, picture, pushes


def test_a_real_push_is_read_in_the_map_and_touches(dnls_data: Callable[[str], Path]) -> None:
    dnls_data(FOLDER)
    one = read_recording(TRAINING[0])
    found = calibrate([one])
    assert found.residual < 0.001
    assert float((found.offset**2).sum()) ** 0.5 < 0.01
    push = push_of(one, found)
    assert push.wrench is not None
    assert 1.8 < push.stamps[-1] - push.stamps[0] < 2.2
    way = push.object[-1, :2] - push.object[0, :2]
    assert float(push.wrench[:10, :2].mean(0) @ way) < 0  # it resists
    near = ((push.object - push.ee)[:, :2] ** 2).sum(1) ** 0.5
    assert 0.5 * SIDE < near.min() < near.max() < SIDE


@pytest.mark.slow
def test_forces_weights_and_the_network_each_help(
    dnls_data: Callable[[str], Path], tmp_path: Path
) -> None:
    dnls_data(FOLDER)
    torch.set_num_threads(1)
    pushed = pushes()
    found = compare(pushed, epochs=12, seed=0)
    position, rotation, *_ = zip(*(mean(found[method]) for method in METHODS), strict=True)
    nothing, tip, _, forces, weights, model = position
    assert nothing > 5 * tip > 7 * forces
    assert forces > 1.1 * weights > 1.2 * model
    assert rotation[1] > 1.4 * rotation[3] > 1.6 * rotation[5]
    for name in EVALUATION:
        errors = [found[METHODS[k]][name].rmse() for k in (0, 1, 5)]
        assert errors[0][0] > errors[1][0] > errors[2][0], name
        assert errors[1][1] > errors[2][1], name
    picture(pushed, found, tmp_path / "pushes.png")
    assert (tmp_path / "pushes.png").stat().st_size > 50_000
