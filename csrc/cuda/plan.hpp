// How one call of cam is shared out over blocks. Made on the host, read by the kernels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "../ops.hpp"
#include "../rules.hpp"

namespace fusedcam::cuda {

constexpr int block_threads = 256;
constexpr int chain = 128;                   // the most additions in a row
constexpr int part_chains = 16;              // blocks of channels that one thread block adds up, at most
constexpr int cluster_parts = 16;            // thread blocks that one cluster has, at most
constexpr int owned_pixels = 4;              // of a staged map, by one thread
constexpr int64_t staged_pixels = 1024;      // of the largest map whose channels go through shared memory
constexpr int64_t staged_bytes = 48 * 1024;  // of the ring's tiles of one channel
constexpr int stages = 3;                    // tiles of the ring there

// How a tile of channels comes to shared memory: as it lies, 16 bytes at a time, or element by element, those first
// that lie closest together.
enum class Copy : uint8_t { linear, by_pixel, by_channel };

// One array of maps as a kernel reads it; strides in elements.
struct Source {
    const std::byte* data = nullptr;
    int64_t image = 0, map = 0, channel = 0, row = 0, column = 0;
    int64_t slice = 0, height = 0;  // of a volume whose slices lie not where its rows go on; 0 where they do
    int64_t moment = 0;             // to the next array of as many as the rule has moments
    int pixels = 1;                 // of a channel, in a tile; one where the gradients are constant
    int64_t tile_bytes = 0;
    Copy copy = Copy::by_pixel;
    bool flat = false;    // a pixel's offset is its number times `column`
    bool vector = false;  // flat without gaps, and four pixels lie at a multiple of their size
};

// The sums' order depends on C and H*W alone. The channels come in about 16 blocks. Within a block each of `groups`
// threads of a pixel adds up every so many-th channel, a chain; a tree over the groups ends the block, a tree over the
// blocks the map. A part is an aligned power of two of blocks and so a node of that tree: the bits are the same however
// many parts there are, and however few channels a tile has.
struct FoldPlan {
    int64_t channels, width, pixels;  // pixels of a volume: all slices'
    int64_t units;                    // pixels, or quads of them where their number is a multiple of four
    int64_t groups;                   // threads that share one unit's channels
    int64_t block;                    // channels of a block
    int64_t blocks;
    int64_t run;    // blocks of a part
    int64_t parts;  // parts of an image
    int64_t classes;
    int tile;       // channels that are staged at once; 0 where they are read where they lie
    int lane_bits;  // 2 to the power of this are the threads that pool one staged channel
    bool constant;  // the gradients are the same at every pixel, which is their mean
    int rule;
    int moments;
    double eps;
    Source activations, gradients;

    FUSEDCAM_HD int64_t part_channels() const { return run * block < channels ? run * block : channels; }
    FUSEDCAM_HD int64_t stage_bytes() const { return activations.tile_bytes + moments * gradients.tile_bytes; }
    // Channels whose weights are kept at once.
    FUSEDCAM_HD int64_t weights() const { return tile ? tile : part_channels(); }
};

// Where a row of pixels begins.
FUSEDCAM_HD int64_t row_offset(const Source& source, int64_t row) {
    if (!source.slice) return row * source.row;
    const int64_t slice = row / source.height;
    return slice * source.slice + (row - slice * source.height) * source.row;
}

inline Source plan_source(const ArrayView& view, int first, const FoldPlan& plan, int pixels) {
    const int64_t size = item_size(view.dtype), tile_size = plan.tile * pixels * size;
    Source source;
    source.data = view.data;
    source.image = view.stride(0);
    source.map = first == 2 ? view.stride(1) : 0;
    source.channel = view.stride(first);
    source.row = view.stride(first + 2);
    source.column = view.stride(first + 3);
    source.pixels = pixels;
    source.tile_bytes = (tile_size + 15) / 16 * 16;
    const int64_t depth = view.extent(first + 1), height = view.extent(first + 2);
    if (pixels != 1 && depth > 1) {
        if (height == 1) source.row = view.stride(first + 1);
        if (height > 1 && view.stride(first + 1) != height * source.row) {
            source.slice = view.stride(first + 1);
            source.height = height;
        }
    }
    const bool one_row = pixels == 1 || depth * height == 1;
    const bool dense_rows = (pixels == 1 || plan.width == 1 || source.column == 1) &&
                            (one_row || (source.row == plan.width && !source.slice));
    source.flat = one_row || (source.row == plan.width * source.column && !source.slice);
    // Whether the start of every image and map lies at a multiple of so many bytes.
    const auto aligned = [&](int64_t bytes) {
        bool all = reinterpret_cast<uintptr_t>(view.data) % static_cast<size_t>(bytes) == 0;
        for (int axis = 0; axis < first; ++axis)
            all = all && (view.extent(axis) == 1 || view.stride(axis) * size % bytes == 0);
        return all;
    };
    source.vector =
        plan.pixels % 4 == 0 && dense_rows && aligned(4 * size) && (plan.channels == 1 || source.channel % 4 == 0);
    const auto distance = [](int64_t stride) { return stride < 0 ? -stride : stride; };
    if (dense_rows && (plan.channels == 1 || source.channel == pixels) && aligned(16) && tile_size % 16 == 0)
        source.copy = Copy::linear;
    else if (distance(source.channel) < distance(plan.width == 1 ? source.row : source.column))
        source.copy = Copy::by_channel;
    return source;
}

// `parts` is how many blocks should share one map; there may be fewer. `room` is what shared memory the ring may take.
// It takes up to `most_room` where a tile of whole 16 bytes fits no less, and more where not even one channel does.
inline FoldPlan plan_fold(const CamCall& call, int rule, int64_t parts, int64_t room, int64_t most_room) {
    const ArrayView &a = call.activations, &g = call.gradients;
    const auto up = [](int64_t value, int64_t step) { return (value + step - 1) / step * step; };
    FoldPlan plan{};
    plan.channels = a.extent(1);
    plan.width = a.extent(4);
    plan.pixels = a.extent(2) * a.extent(3) * a.extent(4);
    plan.classes = g.extent(1);
    plan.rule = rule;
    plan.units = plan.pixels % 4 == 0 ? plan.pixels / 4 : plan.pixels;
    plan.groups = std::max<int64_t>(1, block_threads / plan.units);
    // Eight channels always are a multiple of 16 bytes.
    plan.block = std::min(chain * plan.groups, up((plan.channels + 15) / 16, 8));
    plan.blocks = (plan.channels + plan.block - 1) / plan.block;
    plan.run = 1;
    while (plan.run < part_chains && plan.run * parts < plan.blocks) plan.run *= 2;
    plan.parts = (plan.blocks + plan.run - 1) / plan.run;
    while (plan.lane_bits < 5 && plan.units > int64_t{8} << plan.lane_bits) ++plan.lane_bits;
    const auto still = [&](int axis) { return g.extent(axis) == 1 || g.stride(axis) == 0; };
    rules::with(rule, [&](auto chosen) {
        plan.moments = chosen.moments;
        plan.constant = chosen.averages && still(3) && still(4) && still(5);
    });
    plan.eps = call.options.weight_eps;
    // Several moments of a large map are too much for the smallest device, and the order of sums is the same on all.
    const int64_t size = item_size(a.dtype), whole_channel = plan.pixels * (1 + plan.moments) * size;
    if (plan.pixels <= staged_pixels && stages * whole_channel <= staged_bytes) {
        const int pixels = static_cast<int>(plan.pixels), pooled = plan.constant ? 1 : pixels;
        const int64_t each = (pixels + plan.moments * pooled) * size;
        // Tiles of a multiple of 16 bytes, none much smaller than the others.
        const int64_t whole = 16 / std::gcd<int64_t>(16, std::gcd(pixels, pooled) * size);
        int64_t most = std::max<int64_t>(1, room / stages / each);
        if (most < whole && most_room / stages / each >= whole) most = whole;
        const int64_t fit = most >= whole ? most / whole * whole : most;
        const int64_t of_block = std::min(plan.block, up(plan.channels, whole)), tiles = (of_block + fit - 1) / fit;
        plan.tile = static_cast<int>(std::min(fit, up((of_block + tiles - 1) / tiles, whole)));
        plan.activations = plan_source(a, 1, plan, pixels);
        plan.gradients = plan_source(g, 2, plan, pooled);
    } else {
        plan.activations = plan_source(a, 1, plan, 0);
        plan.gradients = plan_source(g, 2, plan, 0);
    }
    plan.gradients.moment = call.moments_step;
    if (plan.moments > 1 && call.moments_step * item_size(g.dtype) % 16 != 0) {  // the others start anywhere
        plan.gradients.vector = false;
        if (plan.gradients.copy == Copy::linear) plan.gradients.copy = Copy::by_pixel;
    }
    return plan;
}

}  // namespace fusedcam::cuda
