"""Pointing games against NumPy: where the maximum is, where the mass is, and in which tile of a mosaic."""

import numpy as np
import pytest
import torch

from fusedcam.torch.metrics import energy_pointing_game, grid_pointing_game, mosaic, pointing_game


def box_mask(box, height: int, width: int) -> np.ndarray:
    left, top, right, bottom = box
    held = [[left <= x + 0.5 < right and top <= y + 0.5 < bottom for x in range(width)] for y in range(height)]
    return np.array(held)


def random_boxes(rng, count: int, height: int, width: int) -> np.ndarray:
    """Each holds the middle of a pixel."""
    found = []
    while len(found) < count:
        (left, right), (top, bottom) = np.sort(rng.random(2)) * width, np.sort(rng.random(2)) * height
        if box_mask((left, top, right, bottom), height, width).any():
            found.append((left, top, right, bottom))
    return np.array(found)


def hits(heatmap: np.ndarray, mask: np.ndarray, tolerance: float) -> bool:
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)  # NumPy's is the first of equal ones
    return any((y - v) ** 2 + (x - u) ** 2 <= tolerance**2 for v, u in np.argwhere(mask))


@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 3, 15])
def test_pointing_game(rng, tolerance):
    N, H, W = 200, 9, 14
    heat = np.round(40 * rng.random((N, H, W)))  # several maxima in many
    boxes = random_boxes(rng, N, H, W)
    masks = np.stack([box_mask(box, H, W) for box in boxes])
    expected = [hits(one, mask, tolerance) for one, mask in zip(heat, masks, strict=True)]
    maps = torch.from_numpy(heat)
    assert pointing_game(maps, torch.from_numpy(masks), tolerance=tolerance).tolist() == expected
    assert pointing_game(maps, torch.from_numpy(boxes), tolerance=tolerance).tolist() == expected
    assert True in expected
    assert tolerance > 3 or False in expected


def test_pointing_game_by_hand():
    """The maximum at (row 2, column 3) and a box of the one pixel at (row 5, column 7), three and four away: five."""
    maps = torch.zeros(1, 8, 10)
    maps[0, 2, 3] = 1
    box = torch.tensor([[7, 5, 8, 6]])
    assert pointing_game(maps, box, tolerance=5).tolist() == [True]
    assert pointing_game(maps, box, tolerance=4.99).tolist() == [False]
    assert pointing_game(maps, box).tolist() == [True]  # the paper's 15
    assert pointing_game(maps, torch.tensor([[3, 2, 4, 3]]), tolerance=0).tolist() == [True]
    assert pointing_game(maps, torch.tensor([[3.6, 2, 5, 3]]), tolerance=0).tolist() == [False]  # not its middle
    assert pointing_game(maps - 7, box, tolerance=5).tolist() == [True]  # the height does not matter


def test_equal_maxima_and_constant_maps():
    maps = torch.zeros(2, 3, 4)
    maps[0, 1, 2] = maps[0, 2, 0] = 1
    first, second, whole = [[2, 1, 3, 2]], [[0, 2, 1, 3]], [[0, 0, 4, 3]]
    assert pointing_game(maps[:1], torch.tensor(first), tolerance=0).tolist() == [True]
    assert pointing_game(maps[:1], torch.tensor(second), tolerance=0).tolist() == [False]
    assert pointing_game(maps, torch.tensor(whole * 2)).tolist() == [True, False]  # what is constant points nowhere


def test_several_instances(rng):
    """A sequence of boxes per image: the object is all of them."""
    N, H, W = 12, 7, 8
    heat = rng.random((N, H, W))
    boxes = [random_boxes(rng, int(rng.integers(1, 4)), H, W) for _ in range(N)]
    masks = np.stack([np.any([box_mask(box, H, W) for box in some], 0) for some in boxes])
    given = [torch.from_numpy(some) for some in boxes]
    maps, regions = torch.from_numpy(heat), torch.from_numpy(masks)
    assert torch.equal(pointing_game(maps, given, tolerance=1), pointing_game(maps, regions, tolerance=1))
    assert torch.equal(energy_pointing_game(maps, given), energy_pointing_game(maps, regions))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_energy_pointing_game(rng, dtype):
    N, H, W = 20, 6, 9
    maps = torch.from_numpy(rng.normal(size=(N, H, W))).to(dtype)
    boxes = random_boxes(rng, N, H, W)
    got = energy_pointing_game(maps, torch.from_numpy(boxes))
    assert got.dtype == dtype
    for one, box, heat in zip(got.double().numpy(), boxes, maps.double().numpy(), strict=True):
        positive = np.maximum(heat, 0)
        assert abs(one - positive[box_mask(box, H, W)].sum() / positive.sum()) <= 4 * torch.finfo(dtype).eps


def test_energy_by_hand():
    maps = torch.tensor([[[1.0, 2, -9], [3, 4, 0]], [[0, 0, 0], [-1, -1, -1]]])
    boxes = torch.tensor([[1, 0, 3, 2], [0, 0, 3, 2]])
    assert energy_pointing_game(maps, boxes).tolist() == [pytest.approx(0.6), 0]


def test_classes_of_one_image(rng):
    maps = torch.from_numpy(rng.normal(size=(3, 2, 5, 6)))
    boxes = torch.from_numpy(random_boxes(rng, 6, 5, 6)).reshape(3, 2, 4)
    for game in (energy_pointing_game, lambda *given: pointing_game(*given, tolerance=1)):
        got = game(maps, boxes)
        assert got.shape == (3, 2)
        assert torch.equal(got, torch.stack([game(maps[:, k], boxes[:, k]) for k in range(2)], 1))


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (3, 2), (1, 4)], ids=str)
def test_mosaic(rng, grid):
    rows, columns = grid
    tiles = rng.normal(size=(rows * columns, 3, 4, 5))
    expected = np.concatenate([np.concatenate(tiles[r * columns :][:columns], 2) for r in range(rows)], 1)
    assert np.array_equal(mosaic(torch.from_numpy(tiles), grid)[0], expected)
    assert np.array_equal(mosaic([*torch.from_numpy(tiles).split(1)], grid)[0], expected)


@pytest.mark.parametrize("grid", [(2, 2), (3, 2), (1, 4)], ids=str)
def test_grid_pointing_game(rng, grid):
    rows, columns = grid
    cells = rows * columns
    maps = rng.normal(size=(5, cells, rows * 3, columns * 4)).astype(np.float32)
    got = grid_pointing_game(torch.from_numpy(maps), grid)
    positive = np.maximum(maps.astype(np.float64), 0)
    for n in range(5):
        for k in range(cells):
            row, column = divmod(k, columns)
            own = positive[n, k, 3 * row : 3 * row + 3, 4 * column : 4 * column + 4].sum()
            assert abs(got[n, k] - own / positive[n, k].sum()) < 1e-6
    assert torch.equal(grid_pointing_game(torch.from_numpy(maps[0]), grid), got[0])


def test_grids_of_maps_that_know_all_nothing_or_are_empty():
    tiles = torch.zeros(4, 1, 3, 3)
    knows = torch.stack([mosaic(tiles.index_fill(0, torch.tensor(k), 1))[0, 0] for k in range(4)])
    assert grid_pointing_game(knows).tolist() == [1, 1, 1, 1]
    assert grid_pointing_game(torch.ones(4, 6, 6)).tolist() == [0.25] * 4
    assert grid_pointing_game(-torch.ones(4, 6, 6)).tolist() == [0] * 4
    assert grid_pointing_game(knows.roll(1, 0)).tolist() == [0] * 4


def test_no_images():
    none = torch.ones(0, 4, 5)
    assert pointing_game(none, torch.ones(0, 4, 5, dtype=torch.bool)).shape == (0,)
    assert pointing_game(none, []).shape == (0,)
    assert energy_pointing_game(none, torch.ones(0, 4)).shape == (0,)
    assert grid_pointing_game(torch.ones(0, 4, 6, 6)).shape == (0, 4)
