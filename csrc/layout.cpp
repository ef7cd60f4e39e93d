// Layouts of activations, gradients and maps.
#include "layout.hpp"

namespace fusedcam {
namespace {

constexpr const char* axes[] = {"D", "H", "W"};
constexpr const char* names[] = {"", "its length", "height and width", "depth, height and width"};

std::string show(const Size& size, int64_t spatial) {
    if (spatial == 1) return text("(", size.width, ",)");
    if (spatial == 2) return text("(", size.height, ", ", size.width, ")");
    return text("(", size.depth, ", ", size.height, ", ", size.width, ")");
}

std::string show(const Extents& extents) {
    std::string words;
    for (int i = 0; i < extents.count; ++i) words += text(i ? ", " : "(", extents.value[i]);
    return words + (extents.count == 1 ? ",)" : ")");
}

}  // namespace

std::string Layout::shape(bool batched) const {
    std::string words = batched ? "[N" : "[";
    const auto add = [&](std::string_view axis) {
        words += words.size() > 1 ? ", " : "";
        words += axis;
    };
    if (tokens) {
        add("T");
        add("C");
        return words + "]";
    }
    if (!channels_last) add("C");
    for (int64_t axis = 3 - spatial; axis < 3; ++axis) add(spatial == 1 ? "L" : axes[axis]);
    if (channels_last) add("C");
    return words + "]";
}

void check_layout(const char* op, const Layout& layout) {
    if (layout.spatial < 1 || layout.spatial > 3)
        refuse_value(op, ": spatial is ", layout.spatial,
                     "; accepted is 1 for signals [N, C, L], 2 for images and 3 for volumes [N, C, D, H, W]");
    if (!layout.tokens) return;
    if (layout.tokens->count != layout.spatial)
        refuse_value(op, ": tokens is ", show(*layout.tokens), "; accepted is a grid of ", layout.spatial,
                     layout.spatial == 1 ? " extent" : " extents", ", as spatial says");
    double product = 1;
    for (int i = 0; i < layout.tokens->count; ++i) {
        if (layout.tokens->value[i] < 1)
            refuse_value(op, ": tokens is ", show(*layout.tokens), "; each extent must be at least 1");
        product *= static_cast<double>(layout.tokens->value[i]);
    }
    if (product > 0x1p53) refuse_value(op, ": tokens is ", show(*layout.tokens), ", more than any array has");
}

void check_size(const char* op, const Size& size, int64_t spatial) {
    const auto bad = [](int64_t extent) { return extent < 1 || extent >= max_extent; };
    if (bad(size.height) || bad(size.width) || bad(size.depth))
        refuse_value(op, ": size is ", show(size, spatial), "; ", names[spatial], " must be from 1 to 2**31 - 1");
}

void check_spatial_extent(const char* op, Named array, const Size& size, int64_t spatial) {
    if (size.height == 0 || size.width == 0 || size.depth == 0)
        refuse_value(op, ": ", array.name, " of shape ", fusedcam::show(array.view.shape), " have no pixels; ",
                     names[spatial], " must be at least 1");
    if (size.height >= max_extent || size.width >= max_extent || size.depth >= max_extent)
        refuse_value(op, ": ", array.name, " of shape ", fusedcam::show(array.view.shape), " are too large; ",
                     names[spatial], " must be below 2**31");
}

Size size_of(const Extents& extents, int64_t spatial) {
    const int64_t* value = extents.value;
    if (extents.count == 0) {
        const int64_t all = value[0];
        return {spatial > 1 ? all : 1, all, spatial > 2 ? all : 1};
    }
    if (spatial == 1) return {1, value[0]};
    if (spatial == 2) return {value[0], value[1]};
    return {value[1], value[2], value[0]};
}

void append(Shape& shape, const Size& size, int64_t spatial) {
    if (spatial > 2) shape.append(size.depth);
    if (spatial > 1) shape.append(size.height);
    shape.append(size.width);
}

ArrayView as_maps(const ArrayView& view, int64_t spatial) {
    ArrayView maps = view;
    if (spatial == 1) maps.insert_axis(view.shape.rank - 1, 1, 0);
    return maps;
}

ArrayView as_channels(const char* op, Named array, const Layout& layout) {
    ArrayView view = array.view;
    const int first = view.shape.rank - layout.inner();  // of an image's axes
    if (layout.tokens) {
        const Extents& grid = *layout.tokens;
        const int64_t step = view.strides[first], found = view.extent(first);
        int64_t count = 1;
        for (int i = 0; i < grid.count; ++i) count *= grid.value[i];
        if (count > found)
            refuse_value(op, ": tokens is ", show(grid), ", a grid of ", count, ", but ", array.name, " of shape ",
                         fusedcam::show(view.shape), " have ", found, "; accepted are at most as many");
        view.data += (found - count) * step * item_size(view.dtype);
        view.remove_axis(first);  // [..., C], and then the grid's axes after it, the innermost first
        int64_t stride = step;
        for (int i = grid.count - 1; i >= 0; --i) {
            view.insert_axis(first + 1, grid.value[i], stride);
            stride *= grid.value[i];
        }
    } else if (layout.channels_last) {
        view.move_axis(view.shape.rank - 1, first);
    }
    for (int64_t missing = layout.spatial; missing < 3; ++missing) view.insert_axis(first + 1, 1, 0);
    return view;
}

// What resampling takes beside its result, at most: for each output row and column where it comes from, the map widened
// along its rows, and a volume's slices, resampled each.
double working_bytes(Size from, Size to, DType dtype) {
    if (from == to) return 0;
    const double rows = static_cast<double>(to.height), columns = static_cast<double>(to.width);
    const double slices = from.depth * to.depth == 1 ? 0 : static_cast<double>(from.depth) * rows;
    return 32 * (rows + columns + static_cast<double>(to.depth)) + static_cast<double>(item_size(result_dtype(dtype))) *
                                                                       columns *
                                                                       (static_cast<double>(from.height + 1) + slices);
}

}  // namespace fusedcam
