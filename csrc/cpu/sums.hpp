// The order in which floating-point numbers are added. No chain is longer than 128 additions, and the order depends
// on the count alone: the same numbers give the same bits whatever the threads, the batch or the memory layout.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../dtype.hpp"

namespace fusedcam::cpu {

// Always inline, since kernels of several instruction sets use it.
// Adds values as they come in pairs, pairs of pairs and so on; a remainder joins its larger neighbour at the end.
template <class T>
class PairwiseSum {
  public:
    FUSEDCAM_HD void reset() {
        depth_ = 0;
        count_ = 0;
    }
    FUSEDCAM_HD void add(T value) {
        for (uint64_t carry = count_; carry & 1; carry >>= 1) value = partial_[--depth_] + value;
        partial_[depth_++] = value;
        ++count_;
    }
    FUSEDCAM_HD T total() const {
        T sum = depth_ ? partial_[depth_ - 1] : T(0);
        for (int level = depth_ - 2; level >= 0; --level) sum = partial_[level] + sum;
        return sum;
    }

  private:
    T partial_[64];
    int depth_;
    uint64_t count_;
};

// The same tree over `count` rows of `width` elements, `step` elements apart; the sum is left in the first.
template <class T>
void pairwise_rows(T* rows, int64_t count, int64_t step, int64_t width) {
    for (int64_t apart = 1; apart < count; apart *= 2)
        for (int64_t i = 0; i + apart < count; i += 2 * apart) {
            T* __restrict into = rows + i * step;
            const T* from = rows + (i + apart) * step;
            for (int64_t p = 0; p < width; ++p) into[p] += from[p];
        }
}

// Channels that are summed in one chain. About 16 blocks, so that a single image has work for several threads.
constexpr int64_t channel_block(int64_t channels) {
    const int64_t sixteenth = (channels + 15) / 16;
    return std::clamp<int64_t>((sixteenth + 7) / 8 * 8, 8, 128);
}

}  // namespace fusedcam::cpu
