// How one call of cam is shared out over blocks. Made on the host, read by the kernels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../ops.hpp"

namespace fusedcam::cuda {

constexpr int block_threads = 256;
constexpr int chain = 128;         // the most additions in a row
constexpr int part_chains = 16;    // chains of channels that one block adds up, at most
constexpr int cluster_parts = 16;  // blocks that one cluster has, at most

// One array of maps as a kernel reads it; strides in elements.
struct Source {
    const std::byte* data = nullptr;
    int64_t image = 0, map = 0, channel = 0, row = 0, column = 0;
    bool flat = false;    // a pixel's offset is its number times `column`
    bool vector = false;  // flat without gaps, and four pixels lie at a multiple of their size
};

// The sums' order depends on C and H*W alone. A chain adds the channels that one group of threads takes of one block
// of channels; chains are combined by a binary tree over the blocks, and at last the groups by another. A part is an
// aligned power of two of blocks and so a node of that tree: the bits are the same however many parts there are.
struct FoldPlan {
    int64_t channels, width, pixels;
    int64_t units;    // pixels, or quads of them where their number is a multiple of four
    int64_t groups;   // threads that share one unit's channels
    int64_t columns;  // sums that a part leaves: groups * pixels
    int64_t block;    // channels of a block
    int64_t blocks;
    int64_t run;    // blocks of a part
    int64_t parts;  // parts of an image
    int64_t classes;
    bool constant;  // the gradients are the same at every pixel
    int rule;
    Source activations, gradients;

    FUSEDCAM_HD int64_t part_channels() const { return run * block < channels ? run * block : channels; }
};

// `parts` is how many blocks should share one map; there may be fewer.
inline FoldPlan plan_fold(const CamCall& call, int rule, int64_t parts) {
    const ArrayView &a = call.activations, &g = call.gradients;
    FoldPlan plan{};
    plan.channels = a.extent(1);
    plan.width = a.extent(3);
    plan.pixels = a.extent(2) * a.extent(3);
    plan.classes = g.extent(1);
    plan.rule = rule;
    const int64_t quad = plan.pixels % 4 == 0 ? 4 : 1;
    plan.units = plan.pixels / quad;
    plan.groups = std::max<int64_t>(1, block_threads / plan.units);
    plan.columns = plan.groups * plan.pixels;
    // About 16 blocks, each of which gives every group the same number of channels.
    const int64_t most = chain * plan.groups, sixteenth = (plan.channels + 15) / 16;
    plan.block = std::min(most, (sixteenth + plan.groups - 1) / plan.groups * plan.groups);
    plan.blocks = (plan.channels + plan.block - 1) / plan.block;
    plan.run = 1;
    while (plan.run < part_chains && plan.run * parts < plan.blocks) plan.run *= 2;
    plan.parts = (plan.blocks + plan.run - 1) / plan.run;
    const auto still = [&](int axis) { return g.extent(axis) == 1 || g.stride(axis) == 0; };
    plan.constant = still(3) && still(4);
    const auto source = [&](const ArrayView& view, int first) {
        const int64_t size = item_size(view.dtype);
        Source source;
        source.data = view.data;
        source.image = view.stride(0);
        source.map = first == 2 ? view.stride(1) : 0;
        source.channel = view.stride(first);
        source.row = view.stride(first + 1);
        source.column = view.stride(first + 2);
        const auto whole = [&](int64_t stride) { return stride % 4 == 0; };
        source.flat = view.extent(first + 1) == 1 || source.row == plan.width * source.column;
        source.vector = quad == 4 && reinterpret_cast<uintptr_t>(view.data) % static_cast<size_t>(4 * size) == 0 &&
                        (plan.width == 1 || source.column == 1) &&
                        (view.extent(first + 1) == 1 || source.row == plan.width) && whole(source.image) &&
                        whole(source.map) && whole(source.channel);
        return source;
    };
    plan.activations = source(a, 1);
    plan.gradients = source(g, 2);
    return plan;
}

}  // namespace fusedcam::cuda
