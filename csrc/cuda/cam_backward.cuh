// The kernels of cam's derivative: what every channel adds up, then pixel after pixel what the scores change by. Two
// launches, so that a pixel is written once, with all classes in their order, and few channels still fill a device.
// Large channels are added up in parts, and a launch more combines them.
#pragma once

#include <type_traits>

#include "../array_view.hpp"
#include "../slopes.hpp"
#include "map.cuh"
#include "sums.cuh"

namespace fusedcam::cuda {

// Channels [N, K, C, D, H, W] of one array; strides in elements.
struct Planes {
    std::byte* data = nullptr;
    int64_t image = 0, map = 0, channel = 0, slice = 0, row = 0, column = 0;
    int64_t moment = 0;  // to the next array of as many as the rule has moments

    template <class Element>
    __device__ Element* at(int64_t n, int64_t k, int64_t c) const {
        return reinterpret_cast<Element*>(data) + n * image + k * map + c * channel;
    }
};

struct CamSlopes {
    int64_t images, classes, channels, height, width, pixels;
    int rule;
    int lane_bits;    // 2 to the power of this are the threads that add up a channel; of a warp or the whole block
    int64_t parts;    // blocks that share a channel; one where it is no block's
    bool flat;        // in every array a pixel's offset is its number times `column`
    bool even;        // one gradient is written for all pixels
    bool of_weights;  // it is their sum
    bool by_channel;  // neighbouring threads write neighbouring channels, which lie closer together than pixels
    double eps;
    const std::byte* scores;  // [N, K, pixels], dense
    Planes activations, gradients, of_activations, of_gradients;
};

constexpr int64_t written = 4 * threads;  // pixels of an image's channels, by one block

// What a channel's pixels have to know of all of it, for one class of a rule of weights; the last two where the weight
// takes the sum of the activations.
template <class T>
struct alignas(2 * sizeof(T)) WeightSums {
    T weight;  // score_p += weight A_p
    T common;  // what a change of one term counts
};
template <class T>
struct alignas(16) AllSums : WeightSums<T> {
    T even;   // what a change of any activation counts by the sum of all
    T total;  // the sum of the activations
};
template <class Rule, class T>
using ChannelSlopes = std::conditional_t<Rule::sums_activations, AllSums<T>, WeightSums<T>>;

// What the pixels of a channel, or of a part of it, add up to.
template <class T>
struct PartSums {
    T terms, products;
    T by_total;  // what the terms change by with the sum of the activations
};

// The workspace; there are parts where a channel has more than one.
template <class T>
struct CamSums {
    void* channels;      // ChannelSlopes<Rule, T> [N, K, C]
    PartSums<T>* parts;  // [N, K, C, parts]
    T* totals;           // the same, the activations'
};

// One pixel of every array.
class Pixel {
  public:
    __device__ Pixel(const CamSlopes& plan, int64_t index) : flat_(plan.flat), x_(index) {
        if (flat_) return;
        const int64_t line = quotient(index, plan.width);
        z_ = quotient(line, plan.height);
        y_ = line - z_ * plan.height;
        x_ = index - line * plan.width;
    }
    __device__ int64_t in(const Planes& planes) const {
        const int64_t along = x_ * planes.column;
        return flat_ ? along : z_ * planes.slice + y_ * planes.row + along;
    }

  private:
    bool flat_;
    int64_t z_ = 0, y_ = 0, x_;
};

// A rule's term, or product, at one pixel with its slopes.
template <class Rule, class T, class Element>
__device__ auto slopes_at(const CamSlopes& plan, const Element* activations, const Element* gradients,
                          const Pixel& pixel, T total) {
    T g[Rule::moments], a = T(0);
    const Element* own = gradients + pixel.in(plan.gradients);
#pragma unroll
    for (int m = 0; m < Rule::moments; ++m) g[m] = static_cast<T>(wide(own[m * plan.gradients.moment]));
    if constexpr (Rule::reads_activations) a = static_cast<T>(wide(activations[pixel.in(plan.activations)]));
    return rules::slopes<Rule>(a, g, total, static_cast<T>(plan.eps));
}

// One channel of [N, K, C], and its pixels [begin, end). Every thread that adds it up calls each of these.
template <class Element, class T>
class ChannelPart {
  public:
    __device__ ChannelPart(const CamSlopes& plan, int64_t channel, int64_t begin, int64_t end, T* scratch)
        : plan_(plan), begin_(begin), end_(end), scratch_(scratch) {
        const int64_t map = channel / plan.channels, c = channel - map * plan.channels, n = map / plan.classes;
        activations_ = plan.activations.at<const Element>(n, 0, c);
        gradients_ = plan.gradients.at<const Element>(n, map - n * plan.classes, c);
        scores_ = reinterpret_cast<const T*>(plan.scores) + map * plan.pixels;
    }

    __device__ T total() const {
        Chains<T> all;
        each([&](int64_t, const Pixel& pixel, unsigned count) { all.add(activation(pixel), count); });
        return sum(all);
    }
    template <class Rule>
    __device__ PartSums<T> sums(T total) const {
        Chains<T> terms, along_total, products;
        each([&](int64_t p, const Pixel& pixel, unsigned count) {
            const auto term = slopes_at<Rule, T>(plan_, activations_, gradients_, pixel, total);
            terms.add(term.value, count);
            if constexpr (Rule::sums_activations) along_total.add(term.slope[rules::Variables<Rule>::total], count);
            products.add(activation(pixel) * scores_[p], count);
        });
        PartSums<T> found{sum(terms), sum(products), T(0)};
        if constexpr (Rule::sums_activations) found.by_total = sum(along_total);
        return found;
    }

  private:
    template <class Body>
    __device__ void each(Body&& body) const {
        const int lanes = 1 << plan_.lane_bits, lane = thread() & (lanes - 1);
        unsigned count = 0;
        for (int64_t p = begin_ + lane; p < end_; p += lanes) body(p, Pixel(plan_, p), count++);
    }
    __device__ T activation(const Pixel& pixel) const {
        return static_cast<T>(wide(activations_[pixel.in(plan_.activations)]));
    }
    __device__ T sum(const Chains<T>& chains) const { return group_sum(chains.total(), plan_.lane_bits, scratch_); }

    const CamSlopes& plan_;
    const Element *activations_, *gradients_;
    const T* scores_;
    int64_t begin_, end_;
    T* scratch_;
};

// What the parts of a channel have, `part(i)`, in every lane of a warp, in an order that depends on their number alone.
template <class T, class Part>
__device__ T parts_sum(int64_t parts, Part&& part) {
    T sum = T(0);
    for (int64_t i = thread() % warp; i < parts; i += warp) sum += part(i);
    return warp_sum(sum);
}

template <class Rule, class T>
__device__ void write_channel(const CamSlopes& plan, void* channels, int64_t channel, const PartSums<T>& sums,
                              T total) {
    const auto weight = rules::weight_slopes<Rule>(sums.terms, total, plan.pixels, static_cast<T>(plan.eps));
    ChannelSlopes<Rule, T> slopes;
    slopes.weight = weight.weight;
    slopes.common = sums.products * weight.by_sum;
    if constexpr (Rule::sums_activations) {
        slopes.even = sums.products * (weight.by_sum * sums.by_total + weight.by_total);
        slopes.total = total;
    }
    static_cast<ChannelSlopes<Rule, T>*>(channels)[channel] = slopes;
}

// Of the channels from `first` on. For rules of weights. `totals`: of channels of several parts the activations alone,
// which the terms of some rules take.
template <class Element, class T>
__global__ void __launch_bounds__(threads, resident<T>)
    sum_cam_slopes(const __grid_constant__ CamSlopes plan, CamSums<T> sums, int64_t first, bool totals) {
    Carve carve(shared_memory());
    T* scratch = plan.lane_bits > 5 ? carve.take<T>(threads / warp) : nullptr;
    const int64_t group = block_x() * (threads >> plan.lane_bits) + (thread() >> plan.lane_bits),
                  channel = first + quotient(group, plan.parts), count = plan.images * plan.classes * plan.channels,
                  place = first * plan.parts + group, part = place - channel * plan.parts;
    const bool any = channel < count, whole = plan.parts == 1,
               writes = any && (thread() & ((1 << plan.lane_bits) - 1)) == 0;
    const int64_t begin = whole ? 0 : share(plan.pixels, part, plan.parts),
                  end = whole ? plan.pixels : share(plan.pixels, part + 1, plan.parts);
    const ChannelPart<Element, T> own(plan, any ? channel : count - 1, begin, any ? end : begin, scratch);
    rules::with(plan.rule, [&](auto rule) {
        using Rule = decltype(rule);
        if constexpr (Rule::weights) {
            T total = T(0);
            if constexpr (Rule::sums_activations) {
                total = whole || totals ? own.total() : parts_sum<T>(plan.parts, [&](int64_t i) {
                    return sums.totals[channel * plan.parts + i];
                });
                if (totals) {
                    if (writes) sums.totals[place] = total;
                    return;
                }
            }
            const PartSums<T> found = own.template sums<Rule>(total);
            if (!writes) return;
            if (whole)
                write_channel<Rule>(plan, sums.channels, channel, found, total);
            else
                sums.parts[place] = found;
        }
    });
}

// Of the channels from `first` on, each by a warp.
template <class T>
__global__ void __launch_bounds__(threads, resident<T>)
    combine_cam_parts(const __grid_constant__ CamSlopes plan, CamSums<T> sums, int64_t first) {
    const int64_t channel = first + block_x() * (threads / warp) + thread() / warp;
    if (channel >= plan.images * plan.classes * plan.channels) return;  // all the warp
    const PartSums<T>* parts = sums.parts + channel * plan.parts;
    PartSums<T> found;
    found.terms = parts_sum<T>(plan.parts, [&](int64_t i) { return parts[i].terms; });
    found.products = parts_sum<T>(plan.parts, [&](int64_t i) { return parts[i].products; });
    found.by_total = parts_sum<T>(plan.parts, [&](int64_t i) { return parts[i].by_total; });
    rules::with(plan.rule, [&](auto rule) {
        using Rule = decltype(rule);
        if constexpr (Rule::weights) {
            T total = T(0);
            if constexpr (Rule::sums_activations) {
                total = parts_sum<T>(plan.parts, [&](int64_t i) { return sums.totals[channel * plan.parts + i]; });
            }
            if (thread() % warp == 0) write_channel<Rule>(plan, sums.channels, channel, found, total);
        }
    });
}

// All that is written of one pixel of one channel.
template <class Rule, class Element, class T>
__device__ void write_slopes(const CamSlopes& plan, const void* channels, int64_t n, int64_t c, int64_t p) {
    using Variable = rules::Variables<Rule>;
    const Pixel pixel(plan, p);
    const auto* activations = plan.activations.at<const Element>(n, 0, c);
    T of_activation = T(0);
    for (int64_t k = 0; k < plan.classes; ++k) {
        const int64_t map = n * plan.classes + k;
        const T score = reinterpret_cast<const T*>(plan.scores)[map * plan.pixels + p];
        ChannelSlopes<Rule, T> of{};
        of.common = score;
        if constexpr (Rule::weights) of = static_cast<const ChannelSlopes<Rule, T>*>(channels)[map * plan.channels + c];
        T total = T(0);
        if constexpr (Rule::sums_activations) total = of.total;
        const auto slopes =
            slopes_at<Rule, T>(plan, activations, plan.gradients.at<const Element>(n, k, c), pixel, total);
        if constexpr (Rule::weights) of_activation += of.weight * score;
        if constexpr (Rule::reads_activations) of_activation += of.common * slopes.slope[Variable::activation];
        if constexpr (Rule::sums_activations) of_activation += of.even;
        if (plan.even && p != 0) continue;
        Element* to = plan.of_gradients.at<Element>(n, k, c) + pixel.in(plan.of_gradients);
#pragma unroll
        for (int m = 0; m < Rule::moments; ++m) {
            const T slope = of.common * slopes.slope[m];
            to[m * plan.of_gradients.moment] =
                narrow<Element>(plan.of_weights ? slope * static_cast<T>(plan.pixels) : slope);
        }
    }
    plan.of_activations.at<Element>(n, 0, c)[pixel.in(plan.of_activations)] = narrow<Element>(of_activation);
}

// Of the images from `first` on, each by `tiles` blocks.
template <class Element, class T>
__global__ void __launch_bounds__(threads, resident<T>)
    write_cam_slopes(const __grid_constant__ CamSlopes plan, const void* channels, int64_t tiles, int64_t first) {
    const int64_t image = block_x() / tiles, tile = block_x() - image * tiles, count = plan.channels * plan.pixels,
                  end = (tile + 1) * written < count ? (tile + 1) * written : count;
    const int64_t inner = plan.by_channel ? plan.channels : plan.pixels;
    rules::with(plan.rule, [&](auto rule) {
        for (int64_t i = tile * written + thread(); i < end; i += threads) {
            const int64_t outer = quotient(i, inner), rest = i - outer * inner;
            write_slopes<decltype(rule), Element, T>(plan, channels, first + image, plan.by_channel ? rest : outer,
                                                     plan.by_channel ? outer : rest);
        }
    });
}

}  // namespace fusedcam::cuda
