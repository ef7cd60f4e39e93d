// Docstrings of the native functions; the first line is the signature that help() and inspect show.
#pragma once

namespace fusedcam::bind::docs {

inline constexpr char cam[] =
    R"(cam(activations, gradients=None, *, weights=None, method='gradcam', size=None, relu=True, normalize='minmax', nan='propagate', spatial=2, layout='first', eps=0.0, weight_eps=0.0, tokens=None, fuse='mean', out=None)
--

Class activation maps from a layer's activations and gradients, in one fused pass.

N images, K classes, C channels. Arrays of any framework with DLPack or the buffer protocol go in without a copy (torch,
NumPy, JAX, TensorFlow, ONNX Runtime, ...); the same framework comes out. Any strides; read-only arrays too.

Equivalent to (Grad-CAM, Selvaraju et al. 2017, equations 1 and 2, https://arxiv.org/abs/1610.02391)::

    A, G  = activations.astype(float64), gradients.astype(float64)
    alpha = G.mean((2, 3))                                              # [N, C]
    L     = np.maximum((alpha[:, :, None, None] * A).sum(1), 0)         # [N, H, W]
    L     = bilinear(L, size)                                           # half-pixel centres, edges clamped
    lo,hi = L.min((1, 2), keepdims=True), L.max((1, 2), keepdims=True)
    heat  = np.where(hi > lo, (L - lo) / (hi - lo), 0)

with sums in float32 (float64 for float64) over a fixed tree, so that an image's bits depend neither on the batch, on
its place in it, on K, on strides nor on threads. (Gradients with zero strides over H and W are their own mean, which is
not rounded as the mean of their copies is.) Sums and differences of scores have to lie within float32's range: beyond
3.4e38 they become infinite, and products below 1e-38 lose digits.

Args:
    activations: [N, C, H, W], or [C, H, W] without a batch; float32, float16, bfloat16 or float64. Signals [N, C, L],
        volumes [N, C, D, H, W] and tokens [N, T, C] by `spatial` and `tokens`.
    gradients: of the score with respect to the activations: the same shape, or [N, K, C, H, W] ([K, C, H, W]) with K
        classes of each image. Same dtype, device and framework as activations.
    weights: instead of gradients, the channels' weights themselves (CAM, Zhou et al. 2016, with rows of the
        classifier's matrix): [N, C] or [N, K, C], with 1 in place of N for rows shared by all images; [C] or [K, C]
        without a batch.
    method: a key of `fusedcam.METHODS`, which gives each one's formula, paper and what it assumes. "smoothgradcam++"
        takes as gradients the means of their first three powers over noisy inputs, [3, N, (K,) C, H, W].
    size: None keeps the layer's resolution; an int or (height, width) in pixels resamples bilinearly, as
        `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` does; (length,) of signals linearly,
        (depth, height, width) of volumes trilinearly.
    relu: whether negative scores count as 0, before resampling.
    normalize: "minmax" brings each map to [0, 1], minimum exactly 0 and maximum exactly 1 on the returned grid (a map
        without range becomes zeros); "max" divides by the maximum (zeros if it is not positive); None gives raw scores.
    nan: "propagate" keeps NaN in its pixels of raw scores and fills that image's map once normalised; "zero" counts
        non-finite scores as 0; "raise" makes them a ValueError and leaves `out` untouched on
        the CPU; on CUDA it waits for the device, and `out` may have been written.
    spatial: the number of spatial axes: 1 for signals, 2, or 3 for volumes and video.
    layout: "first" for channels before the spatial axes, "last" for [N, H, W, C] (gradients [N, K, H, W, C]).
    eps: added to the range, or to the maximum, by which values are divided, as other packages do; then the maximum stays
        below 1.
    weight_eps: added to what the channels' weights are divided by, as other packages do: to 2 g^2 + sum(A) g^3 for
        "gradcam++" and "smoothgradcam++", to sum(A) for "xgradcam"; other methods divide by nothing.
    tokens: of vision transformers, (height, width) of the grid that the last height * width of T tokens are, row by
        row; those before them, such as class and register tokens, are left out. Activations are [N, T, C] and gradients
        [N, T, C] or [N, K, T, C] then, read where they lie.
    fuse: of several layers, whose activations and gradients (or weights) come as lists, each of any resolution and
        number of channels: every layer's map is normalised at its own resolution and resampled to `size` (None: the
        largest extents of all); their "mean", "max" or "product" is normalised once more. With normalize=None neither.
    out: an array of the result's shape, dtype, framework and device to write to and return.

Returns:
    float32 (float64 for float64) [N, H', W'], or [N, K, H', W'] with K; without N for an unbatched call. [N, L'] of
    signals, [N, D', H', W'] of volumes.

Raises:
    ValueError: a shape, size, option or memory layout that does not fit; a tensor that requires grad in grad mode.
    TypeError: an argument of the wrong kind or dtype; both or neither of gradients and weights.
)";

inline constexpr char resize[] = R"(resize(heatmap, size, *, normalize=None, eps=0.0, out=None)
--

Heatmaps resampled bilinearly onto another grid, with half-pixel centres and clamped edges.

`cam(..., size=s)` equals `resize(cam(..., normalize=None), s, normalize="minmax")` bit for bit.

Args:
    heatmap: [..., H, W]; float32, float16, bfloat16 or float64; any framework and strides.
    size: an int or (height, width) in pixels; (length,) resamples the last axis alone, linearly, and (depth, height,
        width) volumes [..., D, H, W], trilinearly.
    normalize: as in `cam`, by the extremes of the resampled map; None leaves the values as they are.
    eps: as in `cam`.
    out: an array of the result's shape, dtype, framework and device to write to and return.

Returns:
    float32 (float64 for float64) [..., H', W'], of the heatmap's framework.

Raises:
    ValueError, TypeError: as `cam`.
)";

inline constexpr char colorize[] =
    "colorize(heatmap, colormap, size, normalize, out, /)\n--\n\n"
    "fusedcam.colorize, with the colour map as a uint8 table [256, 3].";

inline constexpr char overlay[] =
    "overlay(image, heatmap, colormap, alpha, normalize, out, /)\n--\n\n"
    "fusedcam.overlay, with the colour map as a uint8 table [256, 3].";

inline constexpr char mask[] =
    R"(mask(image, heatmap, *, normalize='minmax', eps=0.0, noise=None, out=None)
--

Images times heatmaps: each map is resampled to its image's size, normalised and multiplied with the image in one pass.

What Score-CAM runs a model on, with a layer's channels as heatmaps (Wang et al. 2020, Algorithm 1,
https://arxiv.org/abs/1910.01279: the channel is upsampled, then normalised, then multiplied with the image). The
resampled maps never exist as a whole, and with `out` one buffer serves batch after batch.

Equivalent to::

    masks = resize(heatmap, image.shape[-2:], normalize=normalize, eps=eps) + noise    # [N, M, H', W']
    out   = (masks[:, :, None] * image[:, None]).astype(image.dtype)                   # [N, M, C, H', W']

bit for bit, with the product in float32 (float64 for a float64 image).

Args:
    image: [N, C, H', W'], or [C, H', W'] without a batch; float32, float16, bfloat16 or float64; any framework and
        strides.
    heatmap: M maps of each image, [N, M, H, W] ([M, H, W]), or one, [N, H, W] ([H, W]), such as `activations[:, 8:40]`;
        any of those dtypes, of the image's framework and device.
    normalize: as in `cam`, by the extremes of the resampled map; None leaves its values as they are.
    eps: as in `cam`.
    noise: added to the normalised maps, of their shape at the image's size, [N, M, H', W'] or as the heatmap has it;
        float32 (float64 for a float64 heatmap).
    out: an array of the result's shape, dtype, framework and device to write to and return; any strides.

Returns:
    [N, M, C, H', W'] of the image's dtype, framework and device; without N or M where the arguments have none.

Raises:
    ValueError, TypeError: as `cam`.
)";

inline constexpr char address[] = R"(address(array, /)
--

Where the kernels would read the array's first element; for the tests.)";

}  // namespace fusedcam::bind::docs
