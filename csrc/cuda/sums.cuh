// Sums in a fixed order: chains of at most 128 additions, combined by binary trees whose shape depends on a count
// alone.
#pragma once

#include "intrinsics.cuh"
#include "plan.hpp"

namespace fusedcam::cuda {

// Adds values as they come in pairs, pairs of pairs and so on; a remainder joins its larger neighbour at the end.
// Indices are known when it is compiled, so that the partial sums stay in registers.
template <class T, int levels>
class Tree {
  public:
    __device__ void add(T value) {
        bool carried = true;
#pragma unroll
        for (int level = 0; level < levels; ++level) {
            if (!carried) continue;
            carried = count_ >> level & 1;
            if (carried)
                value = partial_[level] + value;
            else
                partial_[level] = value;
        }
        ++count_;
    }
    __device__ T total() const {
        T sum = T(0);
        bool any = false;
#pragma unroll
        for (int level = 0; level < levels; ++level) {
            if (!(count_ >> level & 1)) continue;
            sum = any ? partial_[level] + sum : partial_[level];
            any = true;
        }
        return sum;
    }

  private:
    T partial_[levels] = {};
    unsigned count_ = 0;
};

constexpr int tree_levels = 5;   // room for the 16 chains of a part and the 16 parts of a cluster
constexpr int many_levels = 16;  // room for the parts of 2**26 channels

// Any number of values, 128 to a chain, the chains to a chain and so on.
template <class T>
class Chains {
  public:
    // `count` values came before.
    __device__ void add(T value, unsigned count) {
        inner_ += value;
        if ((count + 1) % chain != 0) return;
        middle_ += inner_;
        inner_ = T(0);
        if ((count + 1) % (chain * chain) != 0) return;
        outer_ += middle_;
        middle_ = T(0);
    }
    __device__ T total() const { return outer_ + (middle_ + inner_); }

  private:
    T inner_ = T(0), middle_ = T(0), outer_ = T(0);
};

// The sum over the lanes of a warp, in every lane.
template <class T>
__device__ T warp_sum(T value) {
#pragma unroll
    for (int lanes = warp / 2; lanes > 0; lanes /= 2) value += shuffle_xor(value, lanes);
    return value;
}

// The sum over 2 to the power of lane_bits neighbouring threads, in each of them: of one warp, or the whole block,
// where `scratch` has room for one a warp.
template <class T>
__device__ T group_sum(T value, int lane_bits, T* scratch) {
    const int lanes = 1 << lane_bits;
    for (int step = (lanes < warp ? lanes : warp) / 2; step > 0; step /= 2) value += shuffle_xor(value, step);
    if (lanes <= warp) return value;
    if (thread() % warp == 0) scratch[thread() / warp] = value;
    block_barrier();
    T sum = T(0);
    for (int i = 0; i < threads / warp; ++i) sum += scratch[i];
    block_barrier();
    return sum;
}

}  // namespace fusedcam::cuda
