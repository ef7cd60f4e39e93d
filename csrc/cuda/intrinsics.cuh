// What the kernels need beyond C++: thread indices, barriers, shuffles, clusters. One line each, so that the
// emulator in tests/emulator, which runs these kernels on the CPU, has a stand-in for every one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../dtype.hpp"

#if defined(FUSEDCAM_EMULATE)
#include "emulator.hpp"
#else
#include <cooperative_groups.h>
#include <cuda_fp16.h>
#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>
#endif

namespace fusedcam::cuda {

constexpr int threads = 256;  // of every block
constexpr int warp = 32;
template <class T>
constexpr int resident = sizeof(T) == 8 ? 1 : 2;  // blocks on a multiprocessor that registers are left for

#if !defined(FUSEDCAM_EMULATE)

// The dynamic shared memory of the block; `Carve` cuts it into pieces.
__device__ inline std::byte* shared_memory() {
    extern __shared__ __align__(16) std::byte memory[];
    return memory;
}

template <class T>
__device__ T shuffle_xor(T value, int lanes) {
    return __shfl_xor_sync(0xffffffffu, value, lanes);
}

#if __CUDA_ARCH__ >= 900
__device__ inline int cluster_rank() { return static_cast<int>(cooperative_groups::this_cluster().block_rank()); }
__device__ inline int cluster_size() { return static_cast<int>(cooperative_groups::this_cluster().num_blocks()); }
__device__ inline void cluster_barrier() { cooperative_groups::this_cluster().sync(); }
// The barrier in two halves: what is between them need not wait.
__device__ inline void cluster_arrive() { cooperative_groups::this_cluster().barrier_arrive(); }
__device__ inline void cluster_wait() { cooperative_groups::this_cluster().barrier_wait(); }
// The same piece of shared memory in another block of the cluster.
template <class T>
__device__ T* in_block(T* piece, int rank) {
    return cooperative_groups::this_cluster().map_shared_rank(piece, rank);
}
#else
// Compiled for a device without clusters; launch.cu never starts the kernels that would come here.
__device__ inline int cluster_rank() {
    __trap();
    return 0;
}
__device__ inline int cluster_size() {
    __trap();
    return 1;
}
__device__ inline void cluster_barrier() { __trap(); }
__device__ inline void cluster_arrive() { __trap(); }
__device__ inline void cluster_wait() { __trap(); }
template <class T>
__device__ T* in_block(T* piece, int) {
    __trap();
    return piece;
}
#endif

// From global to shared memory: at once on devices that cannot do it otherwise.
template <int bytes>
__device__ void copy_async(void* to, const void* from) {
    __pipeline_memcpy_async(to, from, bytes);
}
// Ends a group of the calling thread's copies.
__device__ inline void commit_copies() { __pipeline_commit(); }
// Until no more than the `newer` latest groups of the calling thread are under way.
template <int newer>
__device__ void wait_copies() {
    __pipeline_wait_prior(newer);
}

// To global memory in one instruction, at a multiple of 16 bytes. In its own words, since the compiler takes a plain
// assignment apart where another branch stores the same values one by one.
__device__ inline void store_16(float* to, const float* values) {
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "f"(values[0]),
                 "f"(values[1]), "f"(values[2]), "f"(values[3])
                 : "memory");
}
__device__ inline void store_16(double* to, const double* values) {
    asm volatile("st.global.v2.f64 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)), "d"(values[0]), "d"(values[1])
                 : "memory");
}

// Many threads may do so at once.
__device__ inline void set_flag(int* flag) { atomicExch(flag, 1); }

__device__ inline void block_barrier() { __syncthreads(); }
__device__ inline int thread() { return static_cast<int>(threadIdx.x); }
__device__ inline int64_t block_x() { return blockIdx.x; }
__device__ inline int64_t block_y() { return blockIdx.y; }
__device__ inline int64_t blocks_x() { return gridDim.x; }

#endif

// As dtype.hpp's widen, by the device's own instruction for float16.
template <class Element>
__device__ auto wide(Element value) {
    return widen(value);
}
#if !defined(FUSEDCAM_EMULATE)
__device__ inline float wide(Float16 value) { return __half2float(__ushort_as_half(value.bits)); }
#endif

// 64 bits take several times as long, and few indices need them.
__device__ inline int64_t quotient(int64_t value, int64_t divisor) {
    if ((static_cast<uint64_t>(value) | static_cast<uint64_t>(divisor)) >> 32 != 0) return value / divisor;
    return static_cast<uint32_t>(value) / static_cast<uint32_t>(divisor);
}

// Cuts shared memory into aligned pieces; on the host, with a null start, it counts the bytes that a kernel needs.
class Carve {
  public:
    __host__ __device__ explicit Carve(std::byte* start) : start_(start) {}

    template <class T>
    __host__ __device__ T* take(int64_t count) {
        T* piece = start_ ? reinterpret_cast<T*>(start_ + used_) : nullptr;
        const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
        used_ += (bytes + 15) / 16 * 16;
#if defined(FUSEDCAM_EMULATE)
        if (start_) emulator::fence(start_ + used_);
        used_ += emulator::fence_bytes;
#endif
        return piece;
    }
    __host__ __device__ int64_t bytes() const { return used_; }

  private:
    std::byte* start_;
    int64_t used_ = 0;
};

}  // namespace fusedcam::cuda
