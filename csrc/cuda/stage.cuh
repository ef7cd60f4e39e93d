// Tiles of channels on their way to shared memory, asynchronously: the block works on one while the next ones come.
#pragma once

#include "intrinsics.cuh"
#include "plan.hpp"

namespace fusedcam::cuda {

template <class Element>
__device__ const Element* start_of(const Source& source, int64_t image, int64_t map) {
    return reinterpret_cast<const Element*>(source.data) + image * source.image + map * source.map;
}

// By the whole block. `tile` gets [channels, pixels], dense.
template <class Element>
__device__ void copy_tile(const Source& source, const Element* from, unsigned channels, unsigned width, Element* tile) {
    const unsigned pixels = static_cast<unsigned>(source.pixels), count = channels * pixels;
    if (source.copy == Copy::linear) {
        constexpr unsigned each = 16 / sizeof(Element);
        const unsigned whole = count / each;
        for (unsigned i = thread(); i < whole; i += threads) copy_async<16>(tile + i * each, from + i * each);
        for (unsigned i = whole * each + thread(); i < count; i += threads) tile[i] = from[i];
        return;
    }
    // Divisions and single elements: as slow as strides allow, yet neighbouring threads read neighbouring memory.
    for (unsigned i = thread(); i < count; i += threads) {
        const bool by_channel = source.copy == Copy::by_channel;
        const unsigned outer = i / (by_channel ? channels : pixels),
                       inner = i - outer * (by_channel ? channels : pixels);
        const unsigned channel = by_channel ? inner : outer, pixel = by_channel ? outer : inner;
        const unsigned row = pixel / width, column = pixel - row * width;
        const Element* element = from + channel * source.channel + row_offset(source, row) + column * source.column;
        if constexpr (sizeof(Element) >= 4)
            copy_async<sizeof(Element)>(tile + channel * pixels + pixel, element);
        else
            tile[channel * pixels + pixel] = *element;
    }
}

// The tiles of one part, one after the other; none reaches over the end of its block of channels.
template <class Element>
class Tiles {
  public:
    __device__ Tiles(const FoldPlan& plan, const Element* activations, const Element* gradients, int count,
                     std::byte* ring)
        : plan_(plan), activations_(activations), gradients_(gradients), count_(count), ring_(ring - shared_memory()) {
        for (int i = 0; i + 1 < stages; ++i) copy_next();
    }

    // Waits for the next tile and starts to copy another over the one before it, which no thread may need any more
    // once all have come here. False when there is none.
    __device__ bool next() {
        first_ += channels_;
        if (first_ >= count_) return false;
        channels_ = channels_at(first_);
        wait_copies<stages - 2>();
        block_barrier();
        copy_next();
        current_ = turn_;
        turn_ = turn_ + 1 == stages ? 0 : turn_ + 1;
        return true;
    }
    // Of the tile: its channels, and how many came before in its block of channels.
    __device__ int channels() const { return channels_; }
    __device__ int before() const { return first_ % static_cast<int>(plan_.block); }
    __device__ bool ends_block() const {
        return before() + channels_ == static_cast<int>(plan_.block) || first_ + channels_ == count_;
    }
    __device__ const Element* activations() const { return reinterpret_cast<const Element*>(stage(current_)); }
    __device__ const Element* gradients(int moment = 0) const {
        return reinterpret_cast<const Element*>(stage(current_) + plan_.activations.tile_bytes +
                                                moment * plan_.gradients.tile_bytes);
    }

  private:
    // From the start of shared memory, so that the compiler knows what it reads.
    __device__ std::byte* stage(int turn) const { return shared_memory() + (ring_ + turn * plan_.stage_bytes()); }
    __device__ int channels_at(int first) const {
        const int block = static_cast<int>(plan_.block), rest = block - first % block;
        const int most = rest < plan_.tile ? rest : plan_.tile;
        return count_ - first < most ? count_ - first : most;
    }
    // A group of copies is counted even where there is no tile left.
    __device__ void copy_next() {
        if (copied_ < count_) {
            const int channels = channels_at(copied_);
            const unsigned width = static_cast<unsigned>(plan_.width);
            std::byte* const to = stage(filled_);
            for (int m = 0; m < plan_.moments; ++m)
                copy_tile(
                    plan_.gradients, gradients_ + copied_ * plan_.gradients.channel + m * plan_.gradients.moment,
                    channels, width,
                    reinterpret_cast<Element*>(to + plan_.activations.tile_bytes + m * plan_.gradients.tile_bytes));
            copy_tile(plan_.activations, activations_ + copied_ * plan_.activations.channel, channels, width,
                      reinterpret_cast<Element*>(to));
            copied_ += channels;
            filled_ = filled_ + 1 == stages ? 0 : filled_ + 1;
        }
        commit_copies();
    }

    const FoldPlan& plan_;
    const Element *activations_, *gradients_;
    const int count_;
    const int64_t ring_;
    int first_ = 0, channels_ = 0, current_ = 0, turn_ = 0, copied_ = 0, filled_ = 0;
};

}  // namespace fusedcam::cuda
