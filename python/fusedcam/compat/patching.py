"""patch, unpatch, patched and patch_status: which peers use fusedcam."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Literal, NamedTuple

from .replacing import Replacer

__all__ = ["Options", "PatchStatus", "patch", "patch_status", "patched", "unpatch"]


class Peer(NamedTuple):
    """A package that can be patched."""

    package: str
    distribution: str
    versions: tuple[str, ...]
    """Those whose code was read and whose numbers were compared."""
    module: str
    """Ours, with `replacements(options)`."""


PEERS = {
    peer.package: peer
    for peer in (
        Peer("pytorch_grad_cam", "grad-cam", ("1.5.7",), "patch_pytorch_grad_cam"),
        Peer("torchcam", "torchcam", ("0.5.0",), "patch_torchcam"),
        Peer("captum", "captum", ("0.9.0",), "patch_captum"),
    )
}


@dataclass(frozen=True)
class Options:
    """How closely a peer is followed; see `patch`."""

    strict: bool = False
    fix_known_defects: bool = False


@dataclass(frozen=True)
class PatchStatus:
    """What has become of a peer."""

    peer: str
    version: str | None
    """None if it is not installed."""
    state: Literal["patched", "waiting for its import", "not patched", "not installed"]
    replaced: tuple[str, ...]
    """What is ours now."""
    left: dict[str, str]
    """What is not, and why."""
    options: Options | None

    def __str__(self) -> str:
        lines = [f"{self.peer} {self.version or ''}".rstrip() + f": {self.state}"]
        lines += [f"  replaced  {name}" for name in self.replaced]
        lines += [f"  left      {name}: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


_lock = threading.RLock()
_active: dict[str, tuple[Options, Replacer]] = {}
_warned: set[tuple[str, str]] = set()


def patch(*peers: str, strict: bool = False, fix_known_defects: bool = False) -> None:
    """Makes installed pytorch-grad-cam, torch-cam and Captum use fusedcam: the same calls, the same pictures, faster.

    Functions and methods are replaced wherever they have been imported to, and those of modules that are imported
    later when they are. Objects that exist already use them too. A second call with the same options changes nothing.
    What the peers do beside their answer and nobody asks for is gone: wiped `.grad`, a model left in evaluation mode,
    an IndexError that a `with` block swallows, maps of zeros where targets are missing.

        import fusedcam
        fusedcam.patch()

    Args:
        peers: "pytorch_grad_cam", "torchcam", "captum"; without names all that are installed.
        strict: keep the peer's side effects too, and with them its time for the backward pass.
        fix_known_defects: right numbers where the peer's own are known to be wrong: torch-cam's Grad-CAM++, and its
            overlay of masks of 8 bits.

    Raises:
        ValueError: no such peer.
        ModuleNotFoundError: a peer that was named is not installed, or PyTorch is not.

    Warns:
        UserWarning: once for a peer of a version that is not known; what has changed in it stays as it is.
    """
    options = Options(strict, fix_known_defects)
    with _lock:
        for peer in _named(peers):
            if not _installed(peer):
                if peers:
                    raise ModuleNotFoundError(f"{peer.package} is not installed: pip install {peer.distribution}")
                continue
            _start(peer, options)


def unpatch(*peers: str) -> None:
    """Gives peers their own functions back.

    Args:
        peers: as in `patch`; without names all of them.

    Raises:
        ValueError: no such peer.
    """
    with _lock:
        for peer in _named(peers):
            _stop(peer)


@contextmanager
def patched(*peers: str, strict: bool = False, fix_known_defects: bool = False) -> Iterator[None]:
    """`patch` for the length of a block; afterwards everything is as before.

    Args:
        peers, strict, fix_known_defects: as in `patch`.

    Raises:
        ValueError, ModuleNotFoundError: as `patch`.
    """
    with _lock:
        before = {peer: _active[peer.package][0] if peer.package in _active else None for peer in _named(peers)}
        patch(*peers, strict=strict, fix_known_defects=fix_known_defects)
    try:
        yield
    finally:
        with _lock:
            for peer, options in before.items():
                if options is None:
                    _stop(peer)
                else:
                    _start(peer, options)


def patch_status() -> list[PatchStatus]:
    """Of every peer: its version, whether it is patched, what was replaced and what was left."""
    return [_status(peer) for peer in PEERS.values()]


def _named(peers: tuple[str, ...]) -> list[Peer]:
    for name in peers:
        if name not in PEERS:
            raise ValueError(f"peer is {name!r}; accepted: {', '.join(map(repr, PEERS))}")
    return [PEERS[name] for name in peers or PEERS]


def _installed(peer: Peer) -> bool:
    try:
        return find_spec(peer.package) is not None
    except ValueError:  # somebody has put a module of that name in the way
        return False


def _version(peer: Peer) -> str | None:
    if not _installed(peer):
        return None
    try:
        return version(peer.distribution)
    except PackageNotFoundError:  # on the path without having been installed
        return "of unknown version"


def _start(peer: Peer, options: Options) -> None:
    if peer.package in _active:
        if _active[peer.package][0] == options:
            return
        _stop(peer)
    found = _version(peer) or ""
    known = found in peer.versions
    replacer = Replacer(import_module(f".{peer.module}", __package__).replacements(options), known=known)
    _active[peer.package] = options, replacer
    replacer.start()
    if not known and (peer.package, found) not in _warned:
        _warned.add((peer.package, found))
        warnings.warn(
            f"fusedcam knows {peer.package} {', '.join(peer.versions)}, not {found}: only what has the same source is "
            "replaced; fusedcam.patch_status() says what",
            stacklevel=3,
        )


def _stop(peer: Peer) -> None:
    if peer.package in _active:
        _active.pop(peer.package)[1].stop()


def _status(peer: Peer) -> PatchStatus:
    found = _version(peer)
    options, replacer = _active.get(peer.package, (None, None))
    if replacer is None:
        return PatchStatus(peer.package, found, "not patched" if found else "not installed", (), {}, None)
    state: Literal["patched", "waiting for its import"] = "waiting for its import" if replacer.waiting else "patched"
    return PatchStatus(peer.package, found, state, tuple(replacer.replaced), dict(replacer.left), options)
