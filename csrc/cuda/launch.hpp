// Starting kernels: errors, devices and what they hold, launches with shared memory and clusters.
#pragma once

#include <string>

#include "../ops.hpp"
#include "intrinsics.cuh"

namespace fusedcam::cuda {

// Throws std::runtime_error with CUDA's own words.
void check(cudaError_t status, const char* doing);

// What is known about a device; asked for once.
struct Device {
    int index = 0;
    int major = 0;  // of the compute capability
    int multiprocessors = 0;
    int64_t shared_memory = 0;  // that one block may use
};
const Device& device(int index);

// The caller's device for as long as this lives, then the one before.
class OnDevice {
  public:
    explicit OnDevice(int index);
    ~OnDevice();
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

  private:
    int before_ = 0, index_;
};

struct Grid {
    int64_t blocks;
    int cluster = 1;
    int64_t shared_memory = 0;
};

constexpr int64_t most_blocks = (int64_t{1} << 31) - 1;

// The largest cluster that this kernel can be started with, each block with that much shared memory: 0 where it was
// compiled for or runs on a device without clusters, or cannot have as much. The one place that decides it, by what was
// really compiled: code for an older device runs on a newer one.
int largest_cluster(const void* kernel, const Device& device, int64_t shared_memory);

// Lets the kernel have that much shared memory; asked for once a kernel and device.
void allow(const void* kernel, const Device& device, const Grid& grid);

bool capturing(const Queue& queue);

inline void set_cluster(cudaLaunchAttribute& attribute, int blocks) {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(blocks);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
}

template <class... Parameters, class... Values>
void launch(void (*kernel)(Parameters...), const Device& device, const Queue& queue, const Grid& grid,
            Values&&... values) {
    allow(reinterpret_cast<const void*>(kernel), device, grid);
    cudaLaunchAttribute attribute{};
    set_cluster(attribute, grid.cluster);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(grid.blocks), 1, 1);
    config.blockDim = dim3(threads, 1, 1);
    config.dynamicSmemBytes = static_cast<size_t>(grid.shared_memory);
    config.stream = static_cast<cudaStream_t>(queue.stream);
    config.attrs = &attribute;
    config.numAttrs = grid.cluster > 1 ? 1 : 0;
    check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(values)...), "starting a kernel");
}

// Pieces of the workspace, aligned; counts their bytes when there is no start.
class Pieces {
  public:
    explicit Pieces(void* start) : start_(static_cast<std::byte*>(start)) {}
    template <class T>
    T* take(int64_t count) {
        T* piece = start_ ? reinterpret_cast<T*>(start_ + used_) : nullptr;
        used_ += (count * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
        return piece;
    }
    int64_t bytes() const { return used_; }

  private:
    std::byte* start_;
    int64_t used_ = 0;
};

}  // namespace fusedcam::cuda
