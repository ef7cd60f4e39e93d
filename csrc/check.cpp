// The checks several ops share, and how shapes and devices read in a message.
#include "check.hpp"

#include <unistd.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace fusedcam {

namespace {

const double memory = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));

}  // namespace

std::string show(const Shape& shape) {
    std::string result = "(";
    for (int axis = 0; axis < shape.rank; ++axis) {
        if (axis) result += ", ";
        result += std::to_string(shape.extent[axis]);
    }
    return result + (shape.rank == 1 ? ",)" : ")");
}

std::string show(Device device) {
    const auto indexed = [&](const char* kind) { return text(kind, ":", device.index); };
    switch (device.type) {
        case 1: return "the CPU";
        case 2: return indexed("cuda");
        case 3: return "pinned CUDA host memory";
        case 8: return indexed("metal");
        case 10: return indexed("rocm");
        case 13: return "CUDA managed memory";
        case 14: return indexed("oneAPI");
        default: return text("a device of DLPack type ", device.type);
    }
}

std::string quoted(std::string_view words) {
    std::string result(words.substr(0, whole_characters(words, 80)));
    for (char& character : result)
        if (static_cast<unsigned char>(character) < 0x20) character = '?';
    return text("'", result, result.size() < words.size() ? "..." : "", "'");
}

void refuse_dtype(const char* op, std::string_view argument, const std::string& found) {
    const char* accepted = argument == "out" ? "is the result's: float32 or float64 for maps, uint8 for pictures, "
                                               "the image's for masked images"
                           : argument == "image" && op != std::string_view("mask")
                               ? "are uint8, float32, float16, bfloat16 and float64"
                               : "are float32, float16, bfloat16 and float64";
    refuse_type(op, ": dtype of ", argument, " is ", found, "; accepted ", accepted);
}

void check_floating(const char* op, Named array) {
    if (!is_floating(array.view.dtype)) refuse_dtype(op, array.name, name(array.view.dtype));
}

void check_place(const char* op, Named first, Named other) {
    if (!(first.view.device == other.view.device))
        refuse_value(op, ": ", first.name, " is on ", show(first.view.device), " but ", other.name, " is on ",
                     show(other.view.device), "; both must be on the same device");
}

void check_eps(const char* op, const char* name, double eps) {
    if (!(eps >= 0 && eps < std::numeric_limits<float>::max()))
        refuse_value(op, ": ", name, " is ", eps, "; accepted is a finite number of at least 0");
}

void check_alike(const char* op, Named first, Named other) {
    if (first.view.dtype != other.view.dtype)
        refuse_type(op, ": dtype of ", first.name, " is ", name(first.view.dtype), " but that of ", other.name, " is ",
                    name(other.view.dtype), "; both must be the same");
    if (!(first.view.device == other.view.device))
        refuse_value(op, ": ", first.name, " are on ", show(first.view.device), " but ", other.name, " are on ",
                     show(other.view.device), "; both must be on the same device");
}

double check_fits(const char* op, const Shape& shape, DType dtype, double working, Device device) {
    double bytes = static_cast<double>(item_size(dtype));
    for (int axis = 0; axis < shape.rank; ++axis) bytes *= static_cast<double>(shape.extent[axis]);
    constexpr double no_device_has_it = static_cast<double>(int64_t{1} << 46);
    if (!(device == Device{})) {
        if (bytes > no_device_has_it)
            refuse_value(op, ": a result of shape ", show(shape), " takes ", bytes / 1e9,
                         " GB, more than any device has; pass a smaller size or fewer maps at once");
        return bytes;
    }
    if (bytes + working > memory)
        refuse_value(op, ": a result of shape ", show(shape), " takes ", (bytes + working) / 1e9,
                     " GB, working memory included, more than this machine's ", memory / 1e9,
                     " GB of memory; pass a smaller size or fewer maps at once");
    return bytes;
}

namespace {

// Sufficient: taken in the order of their strides, every axis steps beyond all that the shorter ones reach.
bool overlaps_itself(const ArrayView& view) {
    std::vector<std::pair<int64_t, int64_t>> axes;  // stride, extent
    for (int axis = 0; axis < view.shape.rank; ++axis)
        if (view.shape.extent[axis] > 1) axes.emplace_back(std::abs(view.strides[axis]), view.shape.extent[axis]);
    std::sort(axes.begin(), axes.end());
    int64_t reach = 0;
    for (const auto& [stride, extent] : axes) {
        if (stride <= reach) return true;
        reach += stride * (extent - 1);
    }
    return false;
}

}  // namespace

void check_out(const char* op, const ArrayView& out, const Shape& shape, DType dtype,
               std::initializer_list<const ArrayView*> inputs) {
    if (!(out.shape == shape))
        refuse_value(op, ": out has shape ", show(out.shape), "; the result has shape ", show(shape));
    if (out.dtype != dtype)
        refuse_type(op, ": dtype of out is ", name(out.dtype), "; the result has dtype ", name(dtype));
    if (out.readonly) refuse_value(op, ": out is read-only; pass a writable array or none");
    if (shape.count() == 0) return;
    if (overlaps_itself(out))
        refuse_value(op, ": out has elements that share memory with one another (an expanded array?)");
    const auto [low, high] = out.bytes();
    const Device place = (*inputs.begin())->device;
    if (!(out.device == place))
        refuse_value(op, ": out is on ", show(out.device), " but the inputs are on ", show(place));
    for (const ArrayView* input : inputs) {
        if (!(input->device == place)) continue;  // a palette, on the CPU
        const auto [from, to] = input->bytes();
        if (low < to && from < high) refuse_value(op, ": out shares memory with an input; pass an array of its own");
    }
}

}  // namespace fusedcam
