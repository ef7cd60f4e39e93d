// From activations and gradients to the partial sums of one map: a channel's weight by pooling, then the weighted
// activations; or products pixel by pixel. A block takes a part of the channels and reads both arrays once. Channels of
// small maps come through shared memory, where a thread finds the pixels that it adds up whatever their number is a
// multiple of; those of large ones are read where they lie, several loads of each thread under way at once.
#pragma once

#include "weigh.cuh"

namespace fusedcam::cuda {

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
__device__ __forceinline__ void fold_staged(const FoldPlan& plan, Tiles<Element>& tiles, const FoldSpace<T>& space,
                                            T* sums) {
    constexpr int owned = owned_pixels / quad;  // units of a thread, so many threads apart
    const int units = static_cast<int>(plan.units), groups = static_cast<int>(plan.groups);
    const int group = groups > 1 ? thread() / units : 0, first_unit = thread() - group * units;
    const bool works = group < groups;
    Tree<T, tree_levels> trees[owned][quad];
    T sum[owned][quad] = {};
    while (tiles.next()) {
        if constexpr (Rule::weights) {
            weigh_tile<Rule, T, quad>(plan, tiles, space.weights);
            block_barrier();
        }
        const auto* tile = reinterpret_cast<const Packed<Element, quad>*>(tiles.activations());
        [[maybe_unused]] const auto* others = reinterpret_cast<const Packed<Element, quad>*>(tiles.gradients());
        // The group's first channel of the tile: groups count on through the block of channels.
        const int behind = (group - tiles.before() % groups + groups) % groups;
#pragma unroll(Rule::weights ? 4 : 2)
        for (int c = behind; works && c < tiles.channels(); c += groups) {
            T weight = T(0);
            if constexpr (Rule::weights) weight = space.weights[c];
#pragma unroll
            for (int k = 0; k < owned; ++k) {
                const int unit = first_unit + k * threads;
                if (unit >= units) continue;
                const Quad<T, quad> loaded = widened<T>(tile[c * units + unit]);
                if constexpr (Rule::weights) {
#pragma unroll
                    for (int i = 0; i < quad; ++i) sum[k][i] += weight * loaded.value[i];
                } else {
                    const Quad<T, quad> gradient = widened<T>(others[c * units + unit]);
#pragma unroll
                    for (int i = 0; i < quad; ++i) sum[k][i] += Rule::product(loaded.value[i], gradient.value[i]);
                }
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

template <class Rule, class T, int quad, class Element>
__device__ __forceinline__ void fold_large(const FoldPlan& plan, const Element* activations, const Element* gradients,
                                           int count, T* weights, T* sums) {
    using Loaded = Quad<T, quad>;
    constexpr int loads = loads_together(Rule::weights ? 1 : 2);
    if constexpr (Rule::weights) {
        weigh<Rule, T, quad>(plan, activations, gradients, count, weights);
        block_barrier();
    }
    const int block = static_cast<int>(plan.block);
    for (int64_t unit = thread(); unit < plan.units; unit += threads) {
        const Pixels<Element, T, quad> pixels(plan.activations, plan, unit), others(plan.gradients, plan, unit);
        Tree<T, tree_levels> trees[quad];
        for (int begin = 0; begin < count; begin += block) {
            const int end = begin + block < count ? begin + block : count;
            T sum[quad] = {};
            for (int c = begin; c < end; c += loads) {
                Loaded loaded[loads];
                [[maybe_unused]] Loaded gradient[loads];
#pragma unroll
                for (int j = 0; j < loads; ++j) {
                    const int64_t own = c + j < end ? c + j : c;
                    loaded[j] = pixels.load(activations + own * plan.activations.channel);
                    if constexpr (!Rule::weights) gradient[j] = others.load(gradients + own * plan.gradients.channel);
                }
#pragma unroll
                for (int j = 0; j < loads; ++j) {
                    if (c + j >= end) continue;
#pragma unroll
                    for (int i = 0; i < quad; ++i) {
                        if constexpr (Rule::weights)
                            sum[i] += weights[c + j] * loaded[j].value[i];
                        else
                            sum[i] += Rule::product(loaded[j].value[i], gradient[j].value[i]);
                    }
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

// One part of one map into `sums` [H*W], in shared or global memory. Inlined: as a call it would need a stack.
template <class Element, class T, int quad>
__device__ __forceinline__ void fold(const FoldPlan& plan, int64_t map, int64_t part, const FoldSpace<T>& space,
                                     T* sums) {
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
