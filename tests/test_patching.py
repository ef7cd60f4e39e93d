"""patch, unpatch, patched and patch_status: what is replaced where, and that everything comes back."""

import inspect
import subprocess
import sys
import types
from importlib import import_module

import numpy as np
import pytest

import fusedcam
from fusedcam.compat import native, patching, replacing
from peer_models import images, network, pytorch_grad_cam

PEERS = ["pytorch_grad_cam", "torchcam", "captum"]


@pytest.fixture(autouse=True)
def _unpatched():
    yield
    fusedcam.unpatch()


@pytest.fixture(scope="module", autouse=True)
def packages():
    for name in ("captum.attr", "torchcam.methods", "torchcam.utils"):
        import_module(name)

    return pytorch_grad_cam()


def everything():
    """Every function and class attribute of the peers, by identity."""
    found = {}
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] not in PEERS or not isinstance(module, types.ModuleType):
            continue
        for key, value in vars(module).items():
            if callable(value):
                found[name, key] = id(value)
            if isinstance(value, type) and value.__module__ == name:
                found |= {(name, key, inner): id(one) for inner, one in vars(value).items() if callable(one)}
                found |= {
                    (name, key, inner): id(one) for inner, one in vars(value).items() if isinstance(one, staticmethod)
                }
    return found


def test_everything_comes_back():
    before = everything()
    fusedcam.patch()
    changed = {key for key, one in everything().items() if before[key] != one}
    assert {name.partition(".")[0] for name, *_ in changed} == {*PEERS}
    fusedcam.unpatch()
    assert everything() == before
    with fusedcam.patched("torchcam"):
        assert {name for name, *_ in (key for key, one in everything().items() if before[key] != one)} <= {
            name for name in sys.modules if name.startswith("torchcam")
        }
    assert everything() == before


def test_a_second_call_changes_nothing():
    fusedcam.patch()
    once, finders = everything(), list(sys.meta_path)
    fusedcam.patch()
    assert everything() == once
    assert sys.meta_path == finders
    fusedcam.patch("torchcam", fix_known_defects=True)
    assert {name.partition(".")[0] for name, *_ in (k for k, v in everything().items() if once[k] != v)} == {"torchcam"}
    assert [status.options.fix_known_defects for status in fusedcam.patch_status()] == [False, True, False]


def test_blocks_restore_what_was_before():
    fusedcam.patch("captum", strict=True)
    with fusedcam.patched():
        assert [status.state for status in fusedcam.patch_status()] == ["patched"] * 3
        with fusedcam.patched("pytorch_grad_cam", strict=True):
            assert fusedcam.patch_status()[0].options.strict
        assert not fusedcam.patch_status()[0].options.strict
    states = {status.peer: status.state for status in fusedcam.patch_status()}
    assert states == {"pytorch_grad_cam": "not patched", "torchcam": "not patched", "captum": "patched"}
    assert fusedcam.patch_status()[2].options.strict
    with pytest.raises(KeyError), fusedcam.patched("torchcam"):
        raise KeyError
    assert fusedcam.patch_status()[1].state == "not patched"


def test_names_that_were_imported_before(packages):
    """`from ... import show_cam_on_image` has copied the function to this module."""
    theirs = [packages.utils.image.show_cam_on_image]
    module = types.ModuleType("a_users_module")
    module.draw = theirs[0]
    sys.modules["a_users_module"] = module
    try:
        with fusedcam.patched():
            assert module.draw is packages.utils.image.show_cam_on_image is not theirs[0]
            assert packages.base_cam.scale_cam_image is packages.utils.image.scale_cam_image
            assert packages.fullgrad_cam.scale_cam_image is packages.utils.image.scale_cam_image
        assert module.draw is theirs[0]
    finally:
        del sys.modules["a_users_module"]


def test_objects_that_exist_already(packages):
    model, x = network("residual"), images(1, 3, 24, 24)
    cam = packages.GradCAM(model, [model.layer3])
    plain = cam(x, None)
    before = native.count()
    with fusedcam.patched():
        ours = cam(x, None)
    assert native.count() == before + 2
    assert abs(plain - ours).max() < 2e-6
    assert np.array_equal(cam(x, None), plain)
    assert native.count() == before + 2


def test_what_has_been_replaced_by_others_is_left(packages, monkeypatch):
    def draw(*args):
        return "drawn"

    monkeypatch.setattr(packages.utils.image, "show_cam_on_image", draw)
    fusedcam.patch()
    assert packages.utils.image.show_cam_on_image is draw
    assert fusedcam.patch_status()[0].left == {
        "pytorch_grad_cam.utils.image.show_cam_on_image": "it has been replaced by someone else"
    }
    fusedcam.unpatch()
    assert packages.utils.image.show_cam_on_image is draw


def test_the_sources_are_those_that_are_installed():
    for peer in patching.PEERS.values():
        for fix in (False, True):
            ours = __import__(f"fusedcam.compat.{peer.module}", fromlist=["replacements"])
            for one in ours.replacements(fusedcam.compat.Options(fix_known_defects=fix)):
                owner = sys.modules[one.module]
                for step in one.name.split(".")[:-1]:
                    owner = getattr(owner, step)
                assert replacing.fingerprint(vars(owner)[one.name.split(".")[-1]]) in one.sources, one.name


def test_an_unknown_version(monkeypatch, packages):
    """Warned of once; what has other code is left."""
    monkeypatch.setattr(patching, "version", lambda name: "99.0")
    monkeypatch.setattr(patching, "_warned", set())
    changed = "pytorch_grad_cam.utils.image.scale_cam_image"
    real = replacing.fingerprint
    monkeypatch.setattr(
        replacing, "fingerprint", lambda f: "other" if getattr(f, "__name__", "") == "scale_cam_image" else real(f)
    )
    with pytest.warns(UserWarning, match=r"knows pytorch_grad_cam 1\.5\.7, not 99\.0"):
        fusedcam.patch("pytorch_grad_cam")
    (status, *_) = fusedcam.patch_status()
    assert status.version == "99.0"
    assert status.left == {changed: "this version has other code, whose numbers are not known"}
    assert len(status.replaced) > 10
    assert changed not in status.replaced
    assert "left" in str(status)
    fusedcam.unpatch()
    fusedcam.patch("pytorch_grad_cam")  # a second warning would be an error


def test_signatures_stay():
    def signatures():
        found = {}
        for peer in patching.PEERS.values():
            ours = import_module(f"fusedcam.compat.{peer.module}")
            for one in ours.replacements(fusedcam.compat.Options()):
                owner = sys.modules[one.module]
                for step in one.name.split("."):
                    owner = getattr(owner, step)
                found[one.name] = inspect.signature(owner), owner.__name__, owner.__doc__
        return found

    before = signatures()
    fusedcam.patch()
    assert signatures() == before


def test_names_of_peers():
    with pytest.raises(ValueError, match="peer is 'grad-cam'; accepted: 'pytorch_grad_cam', 'torchcam', 'captum'"):
        fusedcam.patch("grad-cam")
    with pytest.raises(ValueError, match="peer is 'x'"):
        fusedcam.unpatch("x")
    with pytest.raises(ValueError, match="peer is 'x'"), fusedcam.patched("x"):
        pass
    assert [status.state for status in fusedcam.patch_status()] == ["not patched"] * 3


def test_peers_that_are_not_installed(monkeypatch):
    monkeypatch.setattr(patching, "find_spec", lambda name: None)
    fusedcam.patch()
    assert [status.state for status in fusedcam.patch_status()] == ["not installed"] * 3
    with pytest.raises(ModuleNotFoundError, match="torchcam is not installed: pip install torchcam"):
        fusedcam.patch("torchcam")


def test_a_module_in_the_way(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", types.ModuleType("captum"))
    fusedcam.patch()
    assert [status.state for status in fusedcam.patch_status()] == ["patched", "patched", "not installed"]


def fresh(*arguments, code=""):
    done = subprocess.run([sys.executable, "-W", "ignore", *arguments], input=code, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


LATE = """
import sys, fusedcam
fusedcam.patch()
assert "torchcam" not in sys.modules and "captum" not in sys.modules
print([status.state for status in fusedcam.patch_status()])
import torchcam.utils
from torchcam.methods import GradCAM
from captum.attr import LayerGradCam
print([status.state for status in fusedcam.patch_status()])
print(LayerGradCam.attribute.__module__, GradCAM.compute_cams.__code__.co_filename.endswith("patch_torchcam.py"))
fusedcam.unpatch()
finders = [type(one).__name__ for one in sys.meta_path]
print(GradCAM.compute_cams.__code__.co_filename.endswith("core.py"), "_Finder" in finders)
"""


def test_peers_that_are_imported_later():
    waiting, imported, ours, back = fresh("-", code=LATE).splitlines()
    assert waiting == "['waiting for its import', 'waiting for its import', 'waiting for its import']"
    assert imported == "['waiting for its import', 'patched', 'patched']"
    assert ours == "captum.attr._core.layer.grad_cam True"
    assert back == "True False"


SCRIPT = """
import sys
import torchcam.utils
from torchcam.methods import GradCAM
import fusedcam
print(__name__, sys.argv, fusedcam.patch_status()[1].state, fusedcam.patch_status()[1].options)
"""


def test_a_script_that_nobody_touches(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    for own in (["--strict", "x"], ["--", "x"], ["a", "--", "-m", "b"]):
        said = fresh("-m", "fusedcam.compat", "--fix-known-defects", str(script), *own)
        assert said == f"__main__ {[str(script), *own]} patched Options(strict=False, fix_known_defects=True)\n"
    done = subprocess.run(
        [sys.executable, "-m", "fusedcam.compat", "no/such.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "there is no file no/such.py" in done.stderr


TEST = """
import torch
from torchcam.methods import GradCAM
def test_it():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with GradCAM(model, "0") as extract:
        assert extract(1, model(torch.rand(1, 3, 9, 9)))[0].shape == (1, 7, 7)
"""


def test_the_pytest_plugin(tmp_path):
    (tmp_path / "test_it.py").write_text(TEST)
    command = ["-m", "pytest", "-p", "no:cacheprovider", "-p", "fusedcam.compat.pytest_patch", str(tmp_path)]
    said = fresh(*command)
    assert "torchcam 0.5.0: " in said
    assert "\n1 native calls" in said
    assert "1 passed" in said
