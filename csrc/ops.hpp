// Every op, declared once: what a caller asks for, the checked form the kernels take, and the kernels' entry points.
// cpu/ and cuda/ implement them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "layout.hpp"
#include "sampling.hpp"

namespace fusedcam {

enum class NanPolicy : uint8_t { propagate, zero, raise };

// Calls that touch less than this many bytes stay on the caller's thread, with Python's lock held: handing either over
// would take longer than the call.
constexpr double serial_below = 1200 * 1024;

struct CamOptions {
    std::string_view method = "gradcam";
    std::optional<Size> size;
    bool relu = true;
    Normalization normalize = Normalize::minmax;
    NanPolicy nan = NanPolicy::propagate;
    Layout layout;
    double weight_eps = 0;  // in the denominators of the rules that have one
};

// Checked and brought to one form. `result` is the shape the caller sees; the binding sets `out` to memory of that
// shape.
struct CamCall {
    ArrayView activations;     // [N, C, H, W]
    ArrayView gradients;       // [N, K, C, H, W]; CAM's weights are gradients with zero strides over H and W
    int64_t moments_step = 0;  // to the next of as many arrays of them as the rule has moments
    ArrayView out;             // [..., H', W'], its maps in the order of N and K
    Shape result;
    CamOptions options;
    Size size;        // of the maps
    double work = 0;  // memory the call touches, in bytes

    bool volumes() const { return options.layout.spatial == 3; }
    ArrayView maps() const { return as_maps(out, options.layout.spatial); }
};

enum class CamSource : uint8_t { gradients, weights };

// activations [N, C, H, W] or [C, H, W], or as the layout says. The second array holds gradients, of that shape or with
// K before C and, for rules of several moments, those in front of all, or weights, [N | 1, C], [N | 1, K, C] or [C],
// [K, C].
CamCall plan_cam(const ArrayView& activations, const ArrayView& second, CamSource source, const CamOptions& options);

// What a scalar changes by with the activations and gradients of `forward`, a cam at the layer's own resolution without
// a ReLU, from what it changes by with each score.
struct CamBackwardCall {
    CamCall forward;
    bool of_weights = false;   // the gradients are the channels' weights, and so are theirs
    ArrayView scores;          // [N, K, D, H, W], dense, of the result's type
    ArrayView of_activations;  // [N, C, D, H, W]
    ArrayView of_gradients;    // [N, K, C, D, H, W]; without strides over D, H and W it holds what is the same for all
    int64_t of_moments_step = 0;
};

// The arguments of plan_cam; then what is given for its result, and where results go, shaped as the inputs.
CamBackwardCall plan_cam_backward(const ArrayView& activations, const ArrayView& second, CamSource source,
                                  const CamOptions& options, const ArrayView& scores, const ArrayView& of_activations,
                                  const ArrayView& of_second);

struct ResizeCall {
    ArrayView heatmap;  // [..., H, W], or [..., D, H, W] for volumes
    ArrayView out;      // of the shape of `result`
    Shape result;
    Normalization normalize;
    int64_t spatial = 2;
    Size size;
    double work = 0;

    bool volumes() const { return spatial == 3; }
    ArrayView maps() const { return as_maps(out, spatial); }
};

ResizeCall plan_resize(const ArrayView& heatmap, Size size, Normalization normalize, int64_t spatial = 2);

// What a scalar changes by with the heatmap of `forward`, from what it changes by with the result.
struct ResizeBackwardCall {
    ResizeCall forward;
    ArrayView of_result;   // [..., H', W'], dense, of the result's type
    ArrayView of_heatmap;  // [..., H, W], as the heatmap
};

ResizeBackwardCall plan_resize_backward(const ArrayView& heatmap, Size size, Normalization normalize, int64_t spatial,
                                        const ArrayView& of_result, const ArrayView& of_heatmap);

enum class Fuse : uint8_t { mean, max, product };

// Maps of several layers, each onto the same grid, made one pixel by pixel; what is drawn is normalised at last.
struct FuseCall {
    static constexpr int most = 16;

    int count = 0;
    ArrayView layers[most];  // [..., (D,) H, W] of any resolution
    ArrayView out;           // of the shape of `result`
    Shape result;
    Fuse by = Fuse::mean;
    Normalization normalize;
    int64_t spatial = 2;
    Size size;
    double work = 0;

    bool volumes() const { return spatial == 3; }
    ArrayView maps() const { return as_maps(out, spatial); }
    Size size_of_layer(int index) const {
        const ArrayView& layer = layers[index];
        return {layer.extent(-2), layer.extent(-1), volumes() ? layer.extent(-3) : 1};
    }
};

// layers [..., (D, H,) W]; the largest extents of all are the size that is not given.
FuseCall plan_fuse(const ArrayView* layers, int count, Fuse by, std::optional<Size> size, Normalization normalize,
                   int64_t spatial);

// A colour map: 256 rows of red, green, blue.
using Palette = const uint8_t (*)[3];

struct ColorizeCall {
    ArrayView heatmap;  // [..., H, W]
    ArrayView out;      // [..., H', W', 3] uint8
    Shape result;
    Palette palette = nullptr;
    Normalization normalize;
    double work = 0;
};

ColorizeCall plan_colorize(const ArrayView& heatmap, Palette palette, std::optional<Size> size, Normalize normalize);

struct OverlayCall {
    ArrayView image;    // [..., H', W', 3], a grey image with a zero stride over its channels
    ArrayView heatmap;  // [..., H, W]
    ArrayView out;      // [..., H', W', 3] uint8
    Shape result;
    Palette palette = nullptr;
    double alpha = 0.5;  // the colour's share
    Normalization normalize;
    double work = 0;
};

OverlayCall plan_overlay(const ArrayView& image, const ArrayView& heatmap, Palette palette, double alpha,
                         Normalize normalize);

struct MaskCall {
    ArrayView image;    // [N, C, H', W']
    ArrayView heatmap;  // [N, M, H, W]
    ArrayView noise;    // [N, M, H', W'] of the masks' type; without data there is none
    ArrayView out;      // [..., C, H', W'] of the image's type, its images in the order of N and M
    Shape result;
    Normalization normalize;
    double work = 0;
};

// image [N, C, H', W'] or [C, H', W']. heatmap [N, H, W] or [H, W], or with M maps of each image before H; noise, if it
// is not null, the same with the image's H' and W'.
MaskCall plan_mask(const ArrayView& image, const ArrayView& heatmap, const ArrayView* noise, Normalization normalize);

namespace cpu {

// What this backend runs with, for people.
struct Description {
    const char* simd;            // the instruction set the kernels were compiled for
    int threads;                 // how many a large call would use now
    std::string thread_runtime;  // the file of the OpenMP runtime, or why there is none
};
Description describe();
// Large calls use no more threads than that from now on; 0 for no limit but the runtime's.
void limit_threads(int count);

void cam(const CamCall& call);
void cam_backward(const CamBackwardCall& call);
void resize(const ResizeCall& call);
void resize_backward(const ResizeBackwardCall& call);
void fuse(const FuseCall& call);
void colorize(const ColorizeCall& call);
void overlay(const OverlayCall& call);
void mask(const MaskCall& call);

// Of pytorch-grad-cam's users alone, whose pictures are NumPy arrays, and so of this backend alone.
template <class T>
struct StretchCall {
    int64_t height, width;
    const T* image;         // [H, W, 3]
    const uint8_t* index;   // [H, W], rows of `colours`
    const T (*colours)[4];  // [256, 4], the colours times their share; the fourth column is not used
    T share;                // the image's
    uint8_t* out;           // [H, W, 3]
};
struct Stretched {
    double image, picture;  // the brightest values: of the image, and of the picture before it was divided by it
};
template <class T>
Stretched overlay_stretched(const StretchCall<T>& call);

}  // namespace cpu

namespace cuda {

// Where a call's kernels run: the caller's device and stream, and memory there for what passes between two launches.
// Nothing is allocated and nothing waited for, but for nan="raise".
struct Queue {
    int device = 0;
    void* stream = nullptr;     // cudaStream_t
    void* workspace = nullptr;  // of workspace(call, device) bytes, aligned to 256
};

// Why no call can be made, in words; empty when calls can.
std::string unavailable();
// Whether code for one of those architectures runs on a device of that compute capability, 10 major + minor.
bool runs(std::string_view architectures, int capability);

// The device that memory lies on.
int device_of(const void* pointer);
// Memory in the stream's order, for frameworks that cannot be asked for it.
void* reserve(int64_t bytes, const Queue& queue);
// Waits for the device: whoever read it last may have done so on any stream.
void release(void* memory, int device) noexcept;
// What is started on the queue's stream from now on waits for all that was started on the other one.
void follow(const Queue& queue, void* stream);
// Until all that was started on the queue's stream is done.
void wait(const Queue& queue);

int64_t workspace(const CamCall& call, int device);
int64_t workspace(const ResizeCall& call, int device);
int64_t workspace(const FuseCall& call, int device);
int64_t workspace(const ColorizeCall& call, int device);
int64_t workspace(const OverlayCall& call, int device);
int64_t workspace(const MaskCall& call, int device);
int64_t workspace(const CamBackwardCall& call, int device);
int64_t workspace(const ResizeBackwardCall& call, int device);

void cam(const CamCall& call, const Queue& queue);
void resize(const ResizeCall& call, const Queue& queue);
void fuse(const FuseCall& call, const Queue& queue);
void colorize(const ColorizeCall& call, const Queue& queue);
void overlay(const OverlayCall& call, const Queue& queue);
void mask(const MaskCall& call, const Queue& queue);
void cam_backward(const CamBackwardCall& call, const Queue& queue);
void resize_backward(const ResizeBackwardCall& call, const Queue& queue);

}  // namespace cuda
}  // namespace fusedcam
