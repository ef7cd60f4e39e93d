"""What gpu.py measures beside fusedcam: the same work in eager torch and compiled, by the peers' own code, and the rate
of the memory itself."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import fusedcam
import peers

Call = Callable[[Tensor, Tensor, int], object]
BUILD = Path(__file__).resolve().parent.parent / "build"


def fused(a: Tensor, g: Tensor, side: int) -> Tensor:
    return fusedcam.cam(a, g, size=side)


def matrix_product(a: Tensor, g: Tensor, side: int) -> Tensor:
    scores = torch.bmm(g.mean((2, 3))[:, None], a.flatten(2)).view(len(a), *a.shape[2:])
    return peers.torch_minmax(peers.torch_bilinear(scores.relu(), (side, side)))


def copied(a: Tensor, g: Tensor, side: int) -> Tensor:
    """As many bytes as one input has, read and written."""
    return a.clone()


def fused_overlay(images: Tensor, heat: Tensor, side: int) -> Tensor:
    return fusedcam.overlay(images, heat, normalize="minmax")


def eager_overlay(images: Tensor, heat: Tensor, side: int) -> Tensor:
    heat = peers.torch_minmax(peers.torch_bilinear(heat, (side, side)))
    colour = torch.from_numpy(peers.JET).to(heat.device)[(255 * heat + 0.5).to(torch.uint8).int()]
    return ((1 - peers.ALPHA) * images + peers.ALPHA * colour + 0.5).to(torch.uint8)


def show_cam_on_image(images: Tensor, heat: Tensor, side: int) -> list[object]:
    """pytorch-grad-cam's, on the host, image by image, as its users call it; the maps at the images' size already."""
    from_image = peers.import_pytorch_grad_cam().utils.image.show_cam_on_image
    maps = peers.torch_minmax(peers.torch_bilinear(heat, (side, side))).cpu().numpy()
    return [from_image(image / 255, one, True) for image, one in zip(images.float().cpu().numpy(), maps, strict=True)]


def optional(call: Call, *arguments: object) -> str | None:
    """Why that peer cannot be measured here, or None."""
    try:
        call(*arguments)  # type: ignore[arg-type]
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


class LoadStore:
    """The kernel of rate.cu on given numbers of bytes."""

    def __init__(self) -> None:
        nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
        library = BUILD / "rate.so"
        BUILD.mkdir(exist_ok=True)
        source = Path(__file__).with_name("rate.cu")
        command = [nvcc, "-O3", "-arch=native", "-shared", "-Xcompiler=-fPIC", str(source), "-o", str(library)]
        subprocess.run(command, check=True)
        self._run = ctypes.CDLL(str(library)).load_store
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        self._run.argtypes = [pointer, size, pointer, size, ctypes.c_int, pointer]
        self._blocks = 8 * torch.cuda.get_device_properties(0).multi_processor_count

    def __call__(self, source: Tensor, target: Tensor) -> None:
        """Reads all of one and writes all of the other; both dense."""
        stream = torch.cuda.current_stream().cuda_stream
        loads, stores = (x.numel() * x.element_size() // 16 for x in (source, target))
        status = self._run(source.data_ptr(), loads, target.data_ptr(), stores, self._blocks, stream)
        assert status == 0, f"CUDA's error {status}"
