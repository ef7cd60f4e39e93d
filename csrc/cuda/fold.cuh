// From activations and gradients to the partial sums of one map: alpha by pooling a channel's gradients, then the
// weighted activations. A block takes a part of the channels and reads both arrays once. Channels of small maps come
// through shared memory, where a thread finds the pixels that it adds up whatever their number is a multiple of; those
// of large ones are read where they lie, several loads of each thread under way at once.
#pragma once

#include "../dtype.hpp"
#include "../rules.hpp"
#include "stage.cuh"
#include "sums.cuh"

namespace fusedcam::cuda {

// `quad` neighbouring pixels of one channel, aligned as the widest load wants it.
template <class Element, int quad>
struct alignas(quad * sizeof(Element) < 16 ? quad * sizeof(Element) : 16) Packed {
    Element value[quad];
};

template <class T, int quad>
struct Quad {
    T value[quad];

    template <class Rule>
    __device__ T gathered() const {
        if constexpr (quad == 1) return Rule::gather(value[0]);
        return (Rule::gather(value[0]) + Rule::gather(value[quad > 1])) +
               (Rule::gather(value[quad / 2]) + Rule::gather(value[quad - 1]));
    }
};

template <class T, int quad, class Element>
__device__ Quad<T, quad> widened(Packed<Element, quad> packed) {
    Quad<T, quad> result;
#pragma unroll
    for (int i = 0; i < quad; ++i) result.value[i] = static_cast<T>(wide(packed.value[i]));
    return result;
}

// Shared memory of a fold, the same cuts on the host and in the kernel.
template <class T>
struct FoldSpace {
    std::byte* ring;
    T *weights, *columns;

    __host__ __device__ FoldSpace(Carve& space, const FoldPlan& plan)
        : ring(space.take<std::byte>(plan.tile ? stages * plan.stage_bytes() : 0)),
          weights(space.take<T>(plan.weights())),
          columns(space.take<T>(plan.tile && plan.groups > 1 ? plan.groups * plan.pixels : 0)) {}
};

// ---- Small maps, staged ----

// alpha_c of a tile's channels.
template <class Rule, class T, int quad, class Element>
__device__ void pool_tile(const FoldPlan& plan, const Element* tile, int channels, T* weights) {
    if (plan.constant) {
        for (int c = thread(); c < channels; c += threads)
            weights[c] = Rule::weight(Rule::gather(static_cast<T>(wide(tile[c]))));
        return;
    }
    const int lanes = 1 << plan.lane_bits, lane = thread() & (lanes - 1), units = static_cast<int>(plan.units);
    // The bounds are the same for all: every thread takes part in the shuffles.
    for (int first = 0; first < channels; first += threads >> plan.lane_bits) {
        const int own = first + (thread() >> plan.lane_bits);
        const auto* channel = reinterpret_cast<const Packed<Element, quad>*>(tile) + own * units;
        T sum = T(0);
        for (int unit = lane; unit < units && own < channels; unit += lanes)
            sum += widened<T>(channel[unit]).template gathered<Rule>();
        for (int step = lanes / 2; step > 0; step /= 2) sum += shuffle_xor(sum, step);
        if (lane == 0 && own < channels) weights[own] = Rule::weight(sum / static_cast<T>(plan.pixels));
    }
}

// The groups' sums of a block of channels, [groups, H*W], added up in pairs into the first.
template <class T>
__device__ void add_groups(const FoldPlan& plan, T* columns) {
    const int pixels = static_cast<int>(plan.pixels);
    for (int groups = static_cast<int>(plan.groups), half = 0; groups > 1; groups = half) {
        half = (groups + 1) / 2;
        for (int i = thread(); i < (groups - half) * pixels; i += threads) columns[i] += columns[half * pixels + i];
        block_barrier();
    }
}

template <class Rule, class T, int quad, class Element>
__device__ void fold_staged(const FoldPlan& plan, Tiles<Element>& tiles, const FoldSpace<T>& space, T* sums) {
    constexpr int owned = owned_pixels / quad;  // units of a thread, so many threads apart
    const int units = static_cast<int>(plan.units), groups = static_cast<int>(plan.groups);
    const int group = groups > 1 ? thread() / units : 0, first_unit = thread() - group * units;
    const bool works = group < groups;
    Tree<T, tree_levels> trees[owned][quad];
    T sum[owned][quad] = {};
    while (tiles.next()) {
        pool_tile<Rule, T, quad>(plan, tiles.gradients(), tiles.channels(), space.weights);
        block_barrier();
        const auto* tile = reinterpret_cast<const Packed<Element, quad>*>(tiles.activations());
        // The group's first channel of the tile: groups count on through the block of channels.
        const int behind = (group - tiles.before() % groups + groups) % groups;
#pragma unroll 4
        for (int c = behind; works && c < tiles.channels(); c += groups) {
            const T weight = space.weights[c];
#pragma unroll
            for (int k = 0; k < owned; ++k) {
                const int unit = first_unit + k * threads;
                if (unit >= units) continue;
                const Quad<T, quad> loaded = widened<T>(tile[c * units + unit]);
#pragma unroll
                for (int i = 0; i < quad; ++i) sum[k][i] += Rule::apply(loaded.value[i], weight);
            }
        }
        if (!tiles.ends_block()) continue;
        if (groups > 1) {
#pragma unroll
            for (int i = 0; i < quad; ++i)
                if (works) space.columns[(group * units + first_unit) * quad + i] = sum[0][i];
            block_barrier();
            add_groups(plan, space.columns);
#pragma unroll
            for (int i = 0; i < quad; ++i)
                if (group == 0) sum[0][i] = space.columns[first_unit * quad + i];
        }
#pragma unroll
        for (int k = 0; k < owned; ++k)
#pragma unroll
            for (int i = 0; i < quad; ++i) {
                trees[k][i].add(sum[k][i]);
                sum[k][i] = T(0);
            }
    }
#pragma unroll
    for (int k = 0; k < owned; ++k) {
        const int unit = first_unit + k * threads;
        if (group > 0 || unit >= units) continue;
#pragma unroll
        for (int i = 0; i < quad; ++i) sums[unit * quad + i] = trees[k][i].total();
    }
}

// ---- Large maps, read where they lie ----

// One unit's pixels in a channel.
template <class Element, class T, int quad>
class Pixels {
  public:
    __device__ Pixels(const Source& source, const FoldPlan& plan, int64_t unit) : vector_(source.vector) {
#pragma unroll
        for (int i = 0; i < quad; ++i) {
            const int64_t pixel = unit * quad + i;
            offset_[i] = pixel * source.column;
            if (source.flat) continue;  // spares the division
            const int64_t row = pixel / plan.width;
            offset_[i] = row * source.row + (pixel - row * plan.width) * source.column;
        }
    }

    __device__ Quad<T, quad> load(const Element* channel) const {
        if (quad > 1 && vector_)
            return widened<T>(*reinterpret_cast<const Packed<Element, quad>*>(channel + offset_[0]));
        Packed<Element, quad> packed;
#pragma unroll
        for (int i = 0; i < quad; ++i) packed.value[i] = channel[offset_[i]];
        return widened<T>(packed);
    }

  private:
    int64_t offset_[quad];
    bool vector_;
};

constexpr int loads_together = 4;  // of one thread

// alpha_c of `count` channels, a warp each.
template <class Rule, class Element, class T, int quad>
__device__ void pool(const FoldPlan& plan, const Element* gradients, int64_t count, T* weights) {
    if (plan.constant) {
        for (int64_t c = thread(); c < count; c += threads)
            weights[c] = Rule::weight(Rule::gather(static_cast<T>(wide(gradients[c * plan.gradients.channel]))));
        return;
    }
    constexpr int64_t length = int64_t{warp} * chain;  // units that the lanes add up in one chain each
    const int lane = thread() % warp;
    for (int64_t c = thread() / warp; c < count; c += threads / warp) {
        const Element* channel = gradients + c * plan.gradients.channel;
        Chains<T> sums;
        unsigned chunk = 0;
        for (int64_t begin = 0; begin < plan.units; begin += length, ++chunk) {
            const int64_t end = begin + length < plan.units ? begin + length : plan.units;
            T sum = T(0);
            for (int64_t unit = begin + lane; unit < end; unit += loads_together * warp) {
                Quad<T, quad> loaded[loads_together];  // the last may be in vain, and are not added
#pragma unroll
                for (int j = 0; j < loads_together; ++j) {
                    const int64_t own = unit + j * warp < end ? unit + j * warp : unit;
                    loaded[j] = Pixels<Element, T, quad>(plan.gradients, plan, own).load(channel);
                }
#pragma unroll
                for (int j = 0; j < loads_together; ++j)
                    if (unit + j * warp < end) sum += loaded[j].template gathered<Rule>();
            }
            sums.add(warp_sum(sum), chunk);
        }
        if (lane == 0) weights[c] = Rule::weight(sums.total() / static_cast<T>(plan.pixels));
    }
}

template <class Rule, class T, int quad, class Element>
__device__ void fold_large(const FoldPlan& plan, const Element* activations, const Element* gradients, int count,
                           T* weights, T* sums) {
    pool<Rule, Element, T, quad>(plan, gradients, count, weights);
    block_barrier();
    const int block = static_cast<int>(plan.block);
    for (int64_t unit = thread(); unit < plan.units; unit += threads) {
        const Pixels<Element, T, quad> pixels(plan.activations, plan, unit);
        Tree<T, tree_levels> trees[quad];
        for (int begin = 0; begin < count; begin += block) {
            const int end = begin + block < count ? begin + block : count;
            T sum[quad] = {};
            for (int c = begin; c < end; c += loads_together) {
                Quad<T, quad> loaded[loads_together];
#pragma unroll
                for (int j = 0; j < loads_together; ++j)
                    loaded[j] = pixels.load(activations + (c + j < end ? c + j : c) * plan.activations.channel);
#pragma unroll
                for (int j = 0; j < loads_together; ++j) {
                    if (c + j >= end) continue;
#pragma unroll
                    for (int i = 0; i < quad; ++i) sum[i] += Rule::apply(loaded[j].value[i], weights[c + j]);
                }
            }
#pragma unroll
            for (int i = 0; i < quad; ++i) trees[i].add(sum[i]);
        }
#pragma unroll
        for (int i = 0; i < quad; ++i) sums[unit * quad + i] = trees[i].total();
    }
}

// ---- Both ----

// One part of one map into `sums` [H*W], in shared or global memory.
template <class Element, class T, int quad>
__device__ void fold(const FoldPlan& plan, int64_t map, int64_t part, const FoldSpace<T>& space, T* sums) {
    const int64_t image = map / plan.classes, first = part * plan.run * plan.block;
    const int64_t rest = plan.channels - first, whole = plan.run * plan.block;
    const int count = static_cast<int>(rest < whole ? rest : whole);
    const auto* gradients =
        start_of<Element>(plan.gradients, image, map - image * plan.classes) + first * plan.gradients.channel;
    const auto* activations = start_of<Element>(plan.activations, image, 0) + first * plan.activations.channel;
    rules::with(plan.rule, [&](auto rule) {
        using Rule = decltype(rule);
        if (plan.tile) {
            Tiles<Element> tiles(plan, activations, gradients, count, space.ring);
            fold_staged<Rule, T, quad>(plan, tiles, space, sums);
        } else {
            fold_large<Rule, T, quad>(plan, activations, gradients, count, space.weights, sums);
        }
    });
}

// A pixel's score from the parts' sums; `sum(part)` reads one. Several are asked for at once: they may be far away.
template <class T, int levels, class Sum>
__device__ T combine(const FoldPlan& plan, Sum&& sum) {
    Tree<T, levels> tree;
    const int parts = static_cast<int>(plan.parts);
    constexpr int together = 8;
    for (int part = 0; part < parts; part += together) {
        T loaded[together];
#pragma unroll
        for (int j = 0; j < together; ++j) loaded[j] = sum(part + j < parts ? part + j : part);
#pragma unroll
        for (int j = 0; j < together; ++j)
            if (part + j < parts) tree.add(loaded[j]);
    }
    return tree.total();
}

}  // namespace fusedcam::cuda
