// What a rule makes of channels that lie anywhere: weights, sums and products by the kernels for rows, which get rows
// where they lie or through tiles.
#pragma once

#include "../ops.hpp"
#include "../rules.hpp"
#include "kernels.hpp"
#include "sums.hpp"
#include "tiles.hpp"
#include "workspace.hpp"

namespace fusedcam::cpu {

// Offsets are those of the first of `count` channels, in elements.
template <class Rule, class T>
class ChannelReader {
  public:
    struct Scratch {
        T *totals, *tile, *gradients;
    };

    explicit ChannelReader(const CamCall& call)
        : call_(call),
          activations_(call.activations),
          gradients_(call.gradients),
          pixels_(call.activations.extent(2) * call.activations.extent(3) * call.activations.extent(4)),
          constant_(Rule::averages && no_step(3) && no_step(4) && no_step(5)),
          in_place_(activations_.in_place() && (constant_ || gradients_.in_place())),
          direct_(gradients_.in_place() && (!Rule::reads_activations || activations_.in_place())) {}

    // Whether any number of channels can be weighed and added at once; at most tile_channels can if not.
    bool in_place() const { return in_place_; }
    // Whether whole channels can be handed to `fold`.
    bool folds() const { return in_place_ && !constant_; }

    // For `count` channels at once.
    size_t scratch_bytes(int64_t count) const {
        return Workspace::bytes<T>(totals(count)) + Workspace::bytes<T>(tile_size()) +
               Workspace::bytes<T>(gradients_size());
    }
    Scratch take_scratch(Workspace& space, int64_t count) const {
        Scratch scratch;
        scratch.totals = space.take<T>(totals(count));
        scratch.tile = space.take<T>(tile_size());
        scratch.gradients = space.take<T>(gradients_size());
        return scratch;
    }

    // map = the sum of all that the rule adds, in one go.
    void fold(int64_t activations, int64_t gradients, int64_t count, T* map) const {
        activations_.with_element([&](auto element) {
            const auto channels = where_they_lie<decltype(element)>(activations, gradients);
            of(channels).fold(channels, count, pixels_, eps_, map);
        });
    }

    // The channels' sums of activations, into the scratch memory.
    void total(int64_t activations, int64_t count, const Scratch& scratch) const {
        sum_tiles(count, scratch.totals, [&](int64_t c, int64_t some, int64_t p, int64_t length, T* parts) {
            activations_.load(
                activations + c * call_.activations.strides[1], some, p, length, scratch.tile,
                [&](const auto* rows, int64_t step) { on(rows).rows.sum(rows, step, some, length, parts); });
        });
    }

    // Their weights; `total` came before where the rule sums activations.
    void weigh(int64_t activations, int64_t gradients, int64_t count, const Scratch& scratch, T* weights) const {
        if constexpr (Rule::averages)
            if (constant_) return constant_weights(gradients, count, weights);
        sum_tiles(count, weights, [&](int64_t c, int64_t some, int64_t p, int64_t length, T* parts) {
            load(activations + c * call_.activations.strides[1], gradients + c * call_.gradients.strides[2], some, p,
                 length, scratch, [&](const auto& channels) {
                     of(channels).pool(channels, some, length, scratch.totals + c, eps_, parts);
                 });
        });
        for (int64_t c = 0; c < count; ++c)
            if constexpr (Rule::averages)
                weights[c] /= static_cast<T>(pixels_);
            else
                weights[c] = Rule::weight(weights[c], scratch.totals[c], eps_);
    }

    // Pixels [p, p + length) of weighted activations, once for every class: its weights are `apart` after the ones
    // before, its map (of which map is pixel p) the pixels of a map after.
    void add(int64_t activations, int64_t count, int64_t p, int64_t length, const Scratch& scratch, int64_t classes,
             const T* weights, int64_t apart, T* map) const {
        activations_.load(activations, count, p, length, scratch.tile, [&](const auto* rows, int64_t step) {
            for (int64_t k = 0; k < classes; ++k)
                on(rows).rows.add(rows, step, count, length, weights + k * apart, map + k * pixels_);
        });
    }
    // The same of products, of one class.
    void products(int64_t activations, int64_t gradients, int64_t count, int64_t p, int64_t length,
                  const Scratch& scratch, T* map) const {
        load(activations, gradients, count, p, length, scratch,
             [&](const auto& channels) { of(channels).products(channels, count, length, map); });
    }

  private:
    bool no_step(int axis) const { return call_.gradients.extent(axis) == 1 || call_.gradients.strides[axis] == 0; }
    int64_t totals(int64_t count) const { return Rule::sums_activations ? count : 0; }
    int64_t tile_size() const { return activations_.in_place() && direct_ ? 0 : TileReader<T>::buffer_size; }
    int64_t gradients_size() const { return constant_ || direct_ ? 0 : Rule::moments * TileReader<T>::buffer_size; }

    // The kernels for rows of these elements, and the rule's.
    template <class Element>
    const SumKernels<T, Element>& on(const Element*) const {
        return kernels_.template sums<T, Element>();
    }
    template <class Element>
    const RuleKernels<T, Element>& of(const Channels<Element>& channels) const {
        return on(channels.gradients).rules[rules::index_of(Rule::name)];
    }

    template <class Element>
    Channels<Element> where_they_lie(int64_t activations, int64_t gradients) const {
        return {call_.activations.at<const Element>(activations), call_.activations.strides[1],
                call_.gradients.at<const Element>(gradients), call_.gradients.strides[2], call_.moments_step};
    }

    // Calls visitor with pixels [p, p + length) of `count` channels, those of both arrays that the rule reads: where
    // they lie, or through tiles, for the kernels take one type.
    template <class Visitor>
    void load(int64_t activations, int64_t gradients, int64_t count, int64_t p, int64_t length, const Scratch& scratch,
              Visitor&& visitor) const {
        if (direct_)
            return gradients_.with_element(
                [&](auto element) { visitor(where_they_lie<decltype(element)>(activations + p, gradients + p)); });
        if (Rule::reads_activations) activations_.copy(activations, count, p, length, scratch.tile);
        for (int m = 0; m < Rule::moments; ++m)
            gradients_.copy(gradients + m * call_.moments_step, count, p, length,
                            scratch.gradients + m * TileReader<T>::buffer_size);
        visitor(Channels<T>{Rule::reads_activations ? scratch.tile : scratch.gradients, tile_pixels, scratch.gradients,
                            tile_pixels, TileReader<T>::buffer_size});
    }

    // Every pixel holds the mean.
    void constant_weights(int64_t gradients, int64_t count, T* weights) const {
        const int64_t over_channels = call_.gradients.strides[2];
        gradients_.with_element([&](auto element) {
            const auto* from = call_.gradients.at<const decltype(element)>(gradients);
            for (int64_t c = 0; c < count; ++c) {
                const T g[1] = {static_cast<T>(widen(from[c * over_channels]))};
                weights[c] = Rule::term(T(0), g, T(0), eps_);
            }
        });
    }

    // Sums over all pixels of `count` channels. part(c, some, p, length, parts) gives those over the pixels
    // [p, p + length) of the channels [c, c + some).
    template <class Part>
    void sum_tiles(int64_t count, T* sums, Part&& part) const {
        for (int64_t c = 0; c < count; c += tile_channels) {
            const int64_t some = std::min(tile_channels, count - c);
            PairwiseSum<T> all[tile_channels];
            for (int64_t j = 0; j < some; ++j) all[j].reset();
            for (int64_t p = 0; p < pixels_; p += tile_pixels) {
                T parts[tile_channels];
                part(c, some, p, std::min(tile_pixels, pixels_ - p), parts);
                for (int64_t j = 0; j < some; ++j) all[j].add(parts[j]);
            }
            for (int64_t j = 0; j < some; ++j) sums[c + j] = all[j].total();
        }
    }

    const CamCall& call_;
    const TileReader<T> activations_, gradients_;
    const int64_t pixels_;
    const bool constant_, in_place_, direct_;
    const T eps_ = static_cast<T>(call_.options.weight_eps);
    const Kernels& kernels_ = kernels();
};

}  // namespace fusedcam::cpu
