// How arrays of maps lie, and the one form that they are brought to: channels, then depth, height and width, of which
// signals have the last alone and images the last two.
#pragma once

#include <optional>
#include <string>

#include "check.hpp"

namespace fusedcam {

// Extents as a caller gives them: `count` of them, or one for all axes.
struct Extents {
    int count = 0;  // 0: value[0] is meant for all
    int64_t value[3] = {};
};

// Of a map or a volume.
struct Size {
    int64_t height, width, depth = 1;

    bool operator==(const Size&) const = default;
};

struct Layout {
    int64_t spatial = 2;  // the number of spatial axes
    bool channels_last = false;
    std::optional<Extents> tokens;  // the grid of [..., T, C]

    // Axes of one image.
    int inner() const { return tokens ? 2 : static_cast<int>(spatial) + 1; }
    // "[N, C, H, W]", without N for unbatched arrays.
    std::string shape(bool batched) const;
};

void check_layout(const char* op, const Layout& layout);
// A size that is asked for, and that of an array.
void check_size(const char* op, const Size& size, int64_t spatial = 2);
void check_spatial_extent(const char* op, Named array, const Size& size, int64_t spatial = 2);

// What a list of as many extents as there are spatial axes means.
Size size_of(const Extents& extents, int64_t spatial);
void append(Shape& shape, const Size& size, int64_t spatial);
// [..., (D, H,) W] -> [..., H, W] or [..., D, H, W]: a signal gets a height of 1.
ArrayView as_maps(const ArrayView& view, int64_t spatial);

// [..., C, (D, H,) W], [..., (D, H,) W, C] or [..., T, C] -> [..., C, D, H, W]. Of tokens the leading ones that are no
// part of the grid are left out. The rank is right already.
ArrayView as_channels(const char* op, Named array, const Layout& layout);

// Beside the result, what resampling takes at most.
double working_bytes(Size from, Size to, DType dtype);

// [..., C, D, H, W]
inline Size size_of_channels(const ArrayView& view) { return {view.extent(-2), view.extent(-1), view.extent(-3)}; }

}  // namespace fusedcam
