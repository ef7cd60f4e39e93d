// From activations and gradients to the partial sums of one map. A block takes a part of the channels: first its warps
// pool the gradients of every channel, then its threads, one for each pixel or quad of pixels, add up the weighted
// activations. Both arrays are read once, straight from memory: a thread keeps several loads under way, which hides
// their latency as a ring of copies to shared memory would, for any strides.
#pragma once

#include "../dtype.hpp"
#include "../rules.hpp"
#include "sums.cuh"

namespace fusedcam::cuda {

template <class T, int quad>
struct Quad {
    T value[quad];
};

// `quad` neighbouring pixels of one channel.
template <class Element, int quad>
struct alignas(quad * sizeof(Element)) Packed {
    Element value[quad];
};

// Where the pixels of one unit lie in a channel.
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
        Quad<T, quad> result;
        if (quad > 1 && vector_) {
            const auto packed = *reinterpret_cast<const Packed<Element, quad>*>(channel + offset_[0]);
#pragma unroll
            for (int i = 0; i < quad; ++i) result.value[i] = static_cast<T>(wide(packed.value[i]));
        } else {
#pragma unroll
            for (int i = 0; i < quad; ++i) result.value[i] = static_cast<T>(wide(channel[offset_[i]]));
        }
        return result;
    }

  private:
    int64_t offset_[quad];
    bool vector_;
};

template <class Element>
__device__ const Element* start_of(const Source& source, int64_t image, int64_t map) {
    return reinterpret_cast<const Element*>(source.data) + image * source.image + map * source.map;
}

// alpha_c of `count` channels, the first of them `first`. Each warp pools four channels at once.
template <class Rule, class Element, class T, int quad>
__device__ void pool(const FoldPlan& plan, const Element* gradients, int64_t first, int64_t count, T* weights) {
    gradients += first * plan.gradients.channel;
    if (plan.constant) {
        for (int64_t c = thread(); c < count; c += threads)
            weights[c] = Rule::weight(Rule::gather(static_cast<T>(widen(gradients[c * plan.gradients.channel]))));
        return;
    }
    constexpr int together = 4;
    constexpr int64_t length = int64_t{warp} * chain;  // units that the lanes add up in one chain each
    const int lane = thread() % warp;
    for (int64_t c = thread() / warp * together; c < count; c += threads / warp * together) {
        Chains<T> sums[together];
        unsigned chunk = 0;
        for (int64_t begin = 0; begin < plan.units; begin += length, ++chunk) {
            const int64_t end = begin + length < plan.units ? begin + length : plan.units;
            T sum[together] = {};
            for (int64_t unit = begin + lane; unit < end; unit += warp) {
                const Pixels<Element, T, quad> pixels(plan.gradients, plan, unit);
                Quad<T, quad> loaded[together];
#pragma unroll
                for (int j = 0; j < together; ++j)
                    loaded[j] = pixels.load(gradients + (c + j < count ? c + j : c) * plan.gradients.channel);
#pragma unroll
                for (int j = 0; j < together; ++j) {
                    if constexpr (quad == 4)
                        sum[j] += (Rule::gather(loaded[j].value[0]) + Rule::gather(loaded[j].value[1])) +
                                  (Rule::gather(loaded[j].value[2]) + Rule::gather(loaded[j].value[3]));
                    else
                        sum[j] += Rule::gather(loaded[j].value[0]);
                }
            }
#pragma unroll
            for (int j = 0; j < together; ++j) sums[j].add(warp_sum(sum[j]), chunk);
        }
#pragma unroll
        for (int j = 0; j < together; ++j)
            if (lane == 0 && c + j < count)
                weights[c + j] = Rule::weight(sums[j].total() / static_cast<T>(plan.pixels));
    }
}

// Adds one part of one map into `columns` [groups, H*W], in shared or global memory. `weights` has room for the
// channels of a part.
template <class Element, class T, int quad>
__device__ void fold(const FoldPlan& plan, int64_t map, int64_t part, T* weights, T* columns) {
    const int64_t image = map / plan.classes, first = part * plan.run * plan.block;
    const int64_t rest = plan.channels - first, whole = plan.run * plan.block, count = rest < whole ? rest : whole;
    const auto* gradients = start_of<Element>(plan.gradients, image, map - image * plan.classes);
    const auto* activations = start_of<Element>(plan.activations, image, 0) + first * plan.activations.channel;
    rules::with(plan.rule, [&](auto rule) {
        using Rule = decltype(rule);
        pool<Rule, Element, T, quad>(plan, gradients, first, count, weights);
        block_barrier();
        for (int64_t place = thread(); place < plan.groups * plan.units; place += threads) {
            const int64_t group = place / plan.units, unit = place - group * plan.units;
            const Pixels<Element, T, quad> pixels(plan.activations, plan, unit);
            Tree<T, tree_levels> trees[quad];
            for (int64_t begin = 0; begin < count; begin += plan.block) {
                const int64_t end = begin + plan.block < count ? begin + plan.block : count;
                T sum[quad] = {};
                const int channels = static_cast<int>(end), step = static_cast<int>(plan.groups);
                // So many loads are under way at once; the last of them may be done in vain, and are not added.
                constexpr int together = quad == 4 ? 4 : 8;
                for (int c = static_cast<int>(begin + group); c < channels; c += together * step) {
                    Quad<T, quad> loaded[together];
#pragma unroll
                    for (int j = 0; j < together; ++j) {
                        const int own = c + j * step < channels ? c + j * step : c;
                        loaded[j] = pixels.load(activations + own * plan.activations.channel);
                    }
#pragma unroll
                    for (int j = 0; j < together; ++j) {
                        if (c + j * step >= channels) continue;
#pragma unroll
                        for (int i = 0; i < quad; ++i) sum[i] += Rule::apply(loaded[j].value[i], weights[c + j * step]);
                    }
                }
#pragma unroll
                for (int i = 0; i < quad; ++i) trees[i].add(sum[i]);
            }
#pragma unroll
            for (int i = 0; i < quad; ++i) columns[group * plan.pixels + unit * quad + i] = trees[i].total();
        }
    });
}

// A pixel's score from the parts' columns; `column(part, index)` reads one.
template <class T, int levels, class Column>
__device__ T combine(const FoldPlan& plan, int64_t pixel, Column&& column) {
    // The groups are at most 256 and each is one addition: no chain is too long, but a tree errs less.
    Tree<T, 9> groups;
    for (int64_t group = 0; group < plan.groups; ++group) {
        Tree<T, levels> parts;
        for (int64_t part = 0; part < plan.parts; ++part) parts.add(column(part, group * plan.pixels + pixel));
        groups.add(parts.total());
    }
    return groups.total();
}

}  // namespace fusedcam::cuda
