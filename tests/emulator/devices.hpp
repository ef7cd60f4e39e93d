// The devices that the stand-in for CUDA's runtime pretends to have, what was asked of it, and what it refuses.
#pragma once

#include <set>

#include "emulator.hpp"
#include "runtime_types.hpp"

namespace fusedcam::cuda::emulator {

struct Device {
    int capability, multiprocessors;
    int shared_block, shared_multiprocessor;  // bytes, the former with the kernel's consent
    int threads_multiprocessor;
    int cluster;  // blocks, with the kernel's consent
    int ptx;      // of the image that runs there; compiled for the device's own capability, or by the driver
};
// Places in the table. All of them are there at once, since launchers ask for what a device can do but once.
enum Index { h100, h200_with_old_image, a100, t4, rtx5090, h100_slice, too_old };
inline const std::vector<Device> all_devices = {
    {90, 132, 227 << 10, 228 << 10, 2048, 16, 90},  // h100
    {90, 132, 227 << 10, 228 << 10, 2048, 16, 75},  // h200_with_old_image
    {80, 108, 163 << 10, 164 << 10, 2048, 1, 80},   // a100
    {75, 40, 64 << 10, 64 << 10, 1024, 1, 75},      // t4
    {120, 170, 99 << 10, 100 << 10, 1536, 8, 120},  // rtx5090
    {90, 14, 227 << 10, 228 << 10, 2048, 4, 90},    // h100_slice: clusters of more than four fit nowhere
    {60, 56, 48 << 10, 64 << 10, 2048, 1, 75},      // too_old: no image runs there
};

// What cudaFuncSetAttribute has set.
struct Consent {
    int shared_bytes = 48 << 10;
    bool large_clusters = false;
};

struct Counts {
    int launches = 0, allocations = 0, frees = 0, copies = 0, fills = 0, synchronizations = 0;
};

struct Fake {
    std::vector<Device> devices = all_devices;
    int device = h100;
    bool capturing = false;
    cudaError_t driver = cudaSuccess;        // what every question about devices gets instead of an answer
    cudaError_t launch_error = cudaSuccess;  // what every launch gets
    cudaError_t memory_error = cudaSuccess;  // what every allocation gets
    cudaError_t last = cudaSuccess;
    std::string refusal;  // why, where an error code says less
    Counts counts;
    std::map<std::pair<int, const void*>, Consent> consents;
    std::set<void*> memory;
    std::vector<std::pair<cudaStream_t, cudaStream_t>> followed;  // the latter waited for the former
    std::set<cudaStream_t> used;  // by launches, copies, fills and allocations, and waited for
};
inline Fake fake;

// Everything as at the start, but for what a process keeps: memory that was not freed, and the kernels' attributes.
inline void reset() {
    Fake fresh;
    fresh.consents = std::move(fake.consents);
    fresh.memory = std::move(fake.memory);
    fake = std::move(fresh);
    options = Options{};
}

inline cudaError_t note(cudaError_t error, const char* why = "") {
    if (error != cudaSuccess) fake.last = error, fake.refusal = why;
    return error;
}
inline cudaError_t no_device() {
    if (fake.driver != cudaSuccess) return fake.driver;
    return fake.devices.empty() ? cudaErrorNoDevice : cudaSuccess;
}
inline const Device& device() { return fake.devices.at(static_cast<size_t>(fake.device)); }
inline Consent& consent(const void* kernel) { return fake.consents[{fake.device, kernel}]; }

inline int cluster_of(const cudaLaunchConfig_t& config) {
    for (unsigned index = 0; index < config.numAttrs; ++index) {
        const auto& [x, y, z] = config.attrs[index].val.clusterDim;
        if (config.attrs[index].id == cudaLaunchAttributeClusterDimension) return static_cast<int>(x * y * z);
    }
    return 1;
}

inline int blocks_per_multiprocessor(int threads, size_t shared_bytes) {
    const int reserved = device().capability >= 80 ? 1024 : 0;
    const int by_memory = device().shared_multiprocessor / std::max(1, static_cast<int>(shared_bytes) + reserved);
    return std::min({by_memory, device().threads_multiprocessor / threads, device().capability == 75 ? 16 : 32});
}

inline cudaError_t check(const cudaLaunchConfig_t& config, const void* kernel) {
    if (no_device() != cudaSuccess) return note(no_device());
    const dim3 grid = config.gridDim, block = config.blockDim;
    const int cluster = cluster_of(config);
    if (device().capability < device().ptx) return note(cudaErrorNoKernelImageForDevice, "image for a newer device");
    if (!grid.x || !grid.y || !grid.z) return note(cudaErrorInvalidConfiguration, "empty grid");
    if (grid.x >> 31 || grid.y > 65535 || grid.z > 65535) return note(cudaErrorInvalidConfiguration, "large grid");
    const bool fits = block.x && block.x <= 1024 && block.y == 1 && block.z == 1;  // the emulator's blocks are flat
    if (!fits) return note(cudaErrorInvalidConfiguration, "block size");
    if (config.dynamicSmemBytes > static_cast<size_t>(consent(kernel).shared_bytes)) {
        return note(cudaErrorInvalidValue, "more shared memory than the kernel's attribute allows");
    }
    if (cluster > 1 && device().cluster == 1) return note(cudaErrorNotSupported, "no clusters");
    const int largest = std::min(device().cluster, consent(kernel).large_clusters ? 16 : 8);
    if (cluster < 1 || cluster > largest) return note(cudaErrorInvalidClusterSize, "cluster size");
    if (grid.x % static_cast<unsigned>(cluster)) return note(cudaErrorInvalidClusterSize, "grid of no whole clusters");
    return cudaSuccess;
}

}  // namespace fusedcam::cuda::emulator
