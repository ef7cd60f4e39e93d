// A channel's weight by pooling: of a tile of channels in shared memory, or of channels where they lie. Each rule's own
// part; what comes after it is the same for all.
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

    __device__ T sum() const {
        if constexpr (quad == 1) return value[0];
        return (value[0] + value[quad > 1]) + (value[quad / 2] + value[quad - 1]);
    }
};

template <class T, int quad, class Element>
__device__ Quad<T, quad> widened(Packed<Element, quad> packed) {
    Quad<T, quad> result;
#pragma unroll
    for (int i = 0; i < quad; ++i) result.value[i] = static_cast<T>(wide(packed.value[i]));
    return result;
}

// A rule's terms at `quad` pixels. `gradient(m)` loads a moment, `activation()` the activations.
template <class Rule, class T, int quad, class Gradient, class Activation>
__device__ T term_sum(T total, T eps, Gradient&& gradient, Activation&& activation) {
    Quad<T, quad> g[Rule::moments], a{}, terms;
#pragma unroll
    for (int m = 0; m < Rule::moments; ++m) g[m] = gradient(m);
    if constexpr (Rule::reads_activations) a = activation();
#pragma unroll
    for (int i = 0; i < quad; ++i) {
        T moments[Rule::moments];
#pragma unroll
        for (int m = 0; m < Rule::moments; ++m) moments[m] = g[m].value[i];
        terms.value[i] = Rule::term(a.value[i], moments, total, eps);
    }
    return terms.sum();
}

template <class Rule, class T>
__device__ T weight_of(const FoldPlan& plan, T sum, T total) {
    if constexpr (Rule::averages)
        return sum / static_cast<T>(plan.pixels);
    else
        return Rule::weight(sum, total, static_cast<T>(plan.eps));
}

// The weights of channels whose gradients are the same at every pixel, `apart` elements apart.
template <class Rule, class T, class Element>
__device__ void constant_weights(const Element* gradients, int64_t apart, int64_t count, T* weights) {
    for (int64_t c = thread(); c < count; c += threads) {
        const T g[1] = {static_cast<T>(wide(gradients[c * apart]))};
        weights[c] = Rule::term(T(0), g, T(0), T(0));
    }
}

// ---- Small maps, staged ----

// The weights of a tile's channels.
template <class Rule, class T, int quad, class Element>
__device__ __forceinline__ void weigh_tile(const FoldPlan& plan, const Tiles<Element>& tiles, T* weights) {
    using Pack = Packed<Element, quad>;
    const int channels = tiles.channels();
    if constexpr (Rule::averages) {
        if (plan.constant) return constant_weights<Rule>(tiles.gradients(), 1, channels, weights);
    }
    const int lanes = 1 << plan.lane_bits, lane = thread() & (lanes - 1), units = static_cast<int>(plan.units);
    const auto over_lanes = [&](T sum) {
        for (int step = lanes / 2; step > 0; step /= 2) sum += shuffle_xor(sum, step);
        return sum;
    };
    // The bounds are the same for all: every thread takes part in the shuffles.
    for (int first = 0; first < channels; first += threads >> plan.lane_bits) {
        const int own = first + (thread() >> plan.lane_bits), last = own < channels ? units : 0;
        const auto* activations = reinterpret_cast<const Pack*>(tiles.activations()) + own * units;
        T total = T(0), sum = T(0);
        if constexpr (Rule::sums_activations) {
            for (int unit = lane; unit < last; unit += lanes) total += widened<T>(activations[unit]).sum();
            total = over_lanes(total);
        }
        for (int unit = lane; unit < last; unit += lanes)
            sum += term_sum<Rule, T, quad>(
                total, static_cast<T>(plan.eps),
                [&](int m) {
                    return widened<T>(reinterpret_cast<const Pack*>(tiles.gradients(m))[own * units + unit]);
                },
                [&] { return widened<T>(activations[unit]); });
        sum = over_lanes(sum);
        if (lane == 0 && own < channels) weights[own] = weight_of<Rule>(plan, sum, total);
    }
}

// ---- Large maps, read where they lie ----

// One unit's pixels in a channel.
template <class Element, class T, int quad>
class Pixels {
  public:
    __device__ Pixels(const Source& source, const FoldPlan& plan, int64_t unit) : vector_(source.vector) {
        int64_t column = unit * quad, row = 0, slice = 0;
        if (!source.flat) {  // spares the divisions
            row = column / plan.width;
            column -= row * plan.width;
        }
        if (source.slice) {
            slice = row / source.height;
            row -= slice * source.height;
        }
#pragma unroll
        for (int i = 0; i < quad; ++i) {
            offset_[i] = slice * source.slice + row * source.row + column * source.column;
            if (++column < plan.width || source.flat) continue;
            column = 0;
            if (++row < source.height || !source.slice) continue;
            row = 0;
            ++slice;
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

// Loads of one thread that are under way at once, of one array; of each of several, fewer fit into registers.
constexpr int loads_together(int arrays) { return arrays == 1 ? 4 : arrays == 2 ? 2 : 1; }

// Sums over the pixels of one channel by a warp, in every lane. load(unit) gives what `sum` adds up.
template <class T, int loads, class Load, class Sum>
__device__ __forceinline__ T channel_sum(const FoldPlan& plan, Load&& load, Sum&& sum_of) {
    constexpr int64_t length = int64_t{warp} * chain;  // units that the lanes add up in one chain each
    const int lane = thread() % warp;
    Chains<T> sums;
    unsigned chunk = 0;
    for (int64_t begin = 0; begin < plan.units; begin += length, ++chunk) {
        const int64_t end = begin + length < plan.units ? begin + length : plan.units;
        T sum = T(0);
        for (int64_t unit = begin + lane; unit < end; unit += loads * warp) {
            decltype(load(unit)) loaded[loads];  // the last may be in vain, and are not added
#pragma unroll
            for (int j = 0; j < loads; ++j) loaded[j] = load(unit + j * warp < end ? unit + j * warp : unit);
#pragma unroll
            for (int j = 0; j < loads; ++j)
                if (unit + j * warp < end) sum += sum_of(loaded[j]);
        }
        sums.add(warp_sum(sum), chunk);
    }
    return sums.total();
}

// The weights of `count` channels, a warp each.
template <class Rule, class T, int quad, class Element>
__device__ __forceinline__ void weigh(const FoldPlan& plan, const Element* activations, const Element* gradients,
                                      int64_t count, T* weights) {
    if constexpr (Rule::averages) {
        if (plan.constant) return constant_weights<Rule>(gradients, plan.gradients.channel, count, weights);
    }
    using Loaded = Quad<T, quad>;
    struct Both {
        Loaded g[Rule::moments], a;
    };
    for (int64_t c = thread() / warp; c < count; c += threads / warp) {
        const Element *a = activations + c * plan.activations.channel, *g = gradients + c * plan.gradients.channel;
        T total = T(0);
        if constexpr (Rule::sums_activations)
            total = channel_sum<T, loads_together(1)>(
                plan, [&](int64_t unit) { return Pixels<Element, T, quad>(plan.activations, plan, unit).load(a); },
                [](const Loaded& loaded) { return loaded.sum(); });
        const T sum = channel_sum<T, loads_together(Rule::moments + Rule::reads_activations)>(
            plan,
            [&](int64_t unit) {
                Both both;
                const Pixels<Element, T, quad> pixels(plan.gradients, plan, unit);
#pragma unroll
                for (int m = 0; m < Rule::moments; ++m) both.g[m] = pixels.load(g + m * plan.gradients.moment);
                if constexpr (Rule::reads_activations)
                    both.a = Pixels<Element, T, quad>(plan.activations, plan, unit).load(a);
                return both;
            },
            [&](const Both& both) {
                return term_sum<Rule, T, quad>(
                    total, static_cast<T>(plan.eps), [&](int m) { return both.g[m]; }, [&] { return both.a; });
            });
        if (thread() % warp == 0) weights[c] = weight_of<Rule>(plan, sum, total);
    }
}

}  // namespace fusedcam::cuda
