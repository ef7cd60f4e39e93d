// The stand-in for CUDA's runtime refuses what hardware refuses, and tells devices apart.
#include "../cpp/check.hpp"
#include "cuda/intrinsics.cuh"

using namespace fusedcam::cuda;

namespace {

__global__ void __launch_bounds__(threads) twice(const __grid_constant__ float4 value, float* out) {
    if (thread() == 0) out[block_x()] = value.y * 2;
}

cudaError_t start(dim3 grid, size_t bytes = 0, unsigned cluster = 1) {
    static float out[64];
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {cluster, 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(warp);
    config.dynamicSmemBytes = bytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    const cudaError_t status = cudaLaunchKernelEx(&config, twice, float4{1, 2, 3, 4}, out);
    CHECK(status != cudaSuccess || out[0] == 4);
    CHECK(cudaGetLastError() == status && cudaGetLastError() == cudaSuccess);
    return status;
}

}  // namespace

TEST_CASE(runtime) {
    using emulator::fake;
    emulator::reset();
    CHECK(start(dim3(4)) == cudaSuccess && fake.counts.launches == 1);
    CHECK(start(dim3(0)) == cudaErrorInvalidConfiguration);
    CHECK(start(dim3(1, 65536)) == cudaErrorInvalidConfiguration);
    CHECK(start(dim3(12), 0, 8) == cudaErrorInvalidClusterSize);
    CHECK(start(dim3(16), 0, 16) == cudaErrorInvalidClusterSize);
    CHECK(cudaFuncSetAttribute(twice, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) == cudaSuccess);
    CHECK(start(dim3(16), 0, 16) == cudaSuccess);
    CHECK(start(dim3(1), 49153) == cudaErrorInvalidValue);
    CHECK(cudaFuncSetAttribute(twice, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10) == cudaSuccess);
    CHECK(start(dim3(1), 227 << 10) == cudaSuccess && start(dim3(1), (227 << 10) + 1) == cudaErrorInvalidValue);
    CHECK(fake.counts.launches == 3);
    for (int index = 0; index < static_cast<int>(fake.devices.size()); ++index) {
        int major = 0, bytes = 0;
        CHECK(cudaSetDevice(index) == cudaSuccess);
        CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index) == cudaSuccess);
        CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, index) == cudaSuccess);
        CHECK(cudaFuncSetAttribute(twice, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes + 1) != cudaSuccess);
        cudaFuncAttributes attributes;
        const bool runs = index != emulator::too_old;
        const cudaError_t with_cluster = major < 9 ? cudaErrorNotSupported : cudaSuccess;
        CHECK(cudaFuncGetAttributes(&attributes, twice) == (runs ? cudaSuccess : cudaErrorNoKernelImageForDevice));
        CHECK(!runs || attributes.ptxVersion == fake.devices[static_cast<size_t>(index)].ptx);
        CHECK(cudaGetLastError() != cudaSuccess);
        CHECK(start(dim3(4), 0, 2) == (runs ? with_cluster : cudaErrorNoKernelImageForDevice));
    }
    emulator::reset();
    void* pointer = nullptr;
    CHECK(cudaMallocAsync(&pointer, 5, nullptr) == cudaSuccess && cudaMemsetAsync(pointer, 7, 5) == cudaSuccess);
    CHECK(cudaFree(pointer) == cudaSuccess && cudaFree(pointer) == cudaErrorInvalidValue);
    fake.capturing = true;
    CHECK(cudaMalloc(&pointer, 5) == cudaErrorStreamCaptureUnsupported && fake.counts.allocations == 1);
    fake.driver = cudaErrorInsufficientDriver;
    int count = 1;
    CHECK(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver && count == 0);
    emulator::reset();
}
