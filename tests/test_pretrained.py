"""Photographs made ready for a network, classes found by name, models loaded by name."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from fusedcam.torch.pretrained import SIDE, Classifier, centre_square, load


@pytest.fixture(scope="module")
def lite0() -> Classifier:
    return load("efficientnet-lite0")


@pytest.fixture
def my_models(monkeypatch) -> ModuleType:
    """An importable module to which a test adds functions."""
    module = ModuleType("my_models")
    monkeypatch.setitem(sys.modules, "my_models", module)
    return module


def linear(classes: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, classes), torch.nn.Dropout(0.9)
    )


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("tripod", 872), ("TRIPOD", 872), ("872", 872), ("tabby cat", 281), ("reflex camera", 759), ("0", 0)],
)
def test_find(lite0, wanted, expected):
    assert lite0.find(wanted) == expected
    assert wanted.isdecimal() or wanted.casefold() in [name.casefold() for name in lite0.names[expected]]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("1000", "class 1000 does not exist: the model has classes 0 to 999"),
        ("-1", "class -1 does not exist"),
        ("tripdo", "no class is named 'tripdo'; close: tripod"),  # misspelt
        ("camera", "no class is named 'camera'; close: Polaroid camera, Polaroid Land camera, reflex camera"),
        ("xqzj", r"no class is named 'xqzj'$"),
        ("crane", r"'crane' names several classes: 134 \(.*\), 517 \(.*\); give the number"),
    ],
)
def test_find_refuses(lite0, wanted, message):
    with pytest.raises(ValueError, match=message):
        lite0.find(wanted)


def test_every_class_is_found_by_the_name_it_is_shown_with(lite0):
    """Three pairs of classes are shown alike: they are found by number, which the refusal gives."""
    assert len(lite0.names) == 1000
    refused = {}
    for k, names in enumerate(lite0.names):
        try:
            assert lite0.find(names[0]) == k
        except ValueError as error:
            refused[k] = str(error)
    assert [lite0.names[k][0] for k in refused] == [
        "crane",
        "Cardigan",
        "cardigan",
        "crane",
        "maillot",
        "maillot",
    ]
    for k, message in refused.items():
        assert f"{k} ({' / '.join(lite0.names[k])})" in message


def test_prepare_is_the_square_middle_scaled(lite0):
    pixels = np.zeros((SIDE, 3 * SIDE, 3), np.uint8)
    pixels[:, SIDE : 2 * SIDE] = np.random.default_rng(5).integers(256, size=(SIDE, SIDE, 3))
    prepared = lite0.prepare(Image.fromarray(pixels))
    expected = (pixels[:, SIDE : 2 * SIDE].astype(np.float32) - 127) / 128  # no resampling at its own size
    assert np.array_equal(prepared[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("size", [(1, 1), (7, 4), (4, 7), (5, 5)], ids=str)
def test_centre_square(size):
    width, height = size
    pixels = np.random.default_rng(6).integers(256, size=(height, width, 3), dtype=np.uint8)
    side = min(size)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.asarray(centre_square(Image.fromarray(pixels)))
    assert np.array_equal(square, pixels[top : top + side, left : left + side])


def test_centre_square_of_16_bits():
    values = np.array([[0, 128, 129], [257 * 9, 40000, 65535], [256, 300, 65407]], np.uint16)
    square = np.asarray(centre_square(Image.fromarray(values)))
    expected = np.array([[0, 0, 1], [9, 156, 255], [1, 1, 255]])
    assert np.array_equal(square, np.repeat(expected[..., None], 3, 2))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_centre_square_puts_white_behind_transparency(mode):
    photo = Image.new("RGBA", (4, 4), (200, 0, 0, 0))  # red, which no viewer shows
    photo.paste((10, 10, 10, 255), (0, 0, 2, 4))
    if mode == "P":
        photo = photo.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
        photo.info["transparency"] = photo.getpixel((3, 0))
    else:
        photo = photo.convert(mode)
    square = np.asarray(centre_square(photo))
    assert (square[:, :2] == 10).all()
    assert (square[:, 2:] == 255).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_centre_square_refuses_pixels_without_a_white(mode):
    with pytest.raises(ValueError, match=f"pixels of mode {mode} have no known white"):
        centre_square(Image.new(mode, (4, 4)))


def test_load_takes_a_function_of_a_module(my_models):
    my_models.build = lambda: linear(3).train()
    classifier = load("my_models:build")
    assert classifier.names == (("class 0",), ("class 1",), ("class 2",))
    assert not any(module.training for module in classifier.model.modules())
    white = classifier.prepare(Image.new("RGB", (SIDE, SIDE), "white"))[0, :, 0, 0]
    expected = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])  # ImageNet's, of [0, 1]
    assert np.abs(white.numpy() - expected).max() < 1e-4


def test_load_names_a_thousand_classes_as_imagenet(my_models, lite0):
    my_models.build = lambda: linear(1000)
    assert load("my_models:build").names == lite0.names


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("resnet", ValueError, "model is 'resnet'; accepted: efficientnet-lite0 or module:function"),
        ("my_models:missing", ValueError, "the module my_models has no function missing"),
        ("no_such_module:build", ModuleNotFoundError, "no_such_module"),
        ("my_models:number", TypeError, "my_models:number returned a int; expected a torch.nn.Module"),
        ("my_models:maps", TypeError, r"the output of my_models:maps is no tensor \[N, classes\]"),
    ],
)
def test_load_refuses(my_models, name, error, message):
    my_models.number = lambda: 3
    my_models.maps = lambda: torch.nn.Identity()
    with pytest.raises(error, match=message):
        load(name)
