// The part of the CUDA runtime that the launchers use, with its names and meanings, on a device that tests choose.
// Kernels run at once, through the emulator. Refused is what hardware refuses; what a kernel does wrong is thrown.
#pragma once

#include <cstdlib>
#include <tuple>

#include "devices.hpp"

inline cudaError_t cudaGetLastError() { return std::exchange(fusedcam::cuda::emulator::fake.last, cudaSuccess); }

inline cudaError_t cudaGetDeviceCount(int* count) {
    using namespace fusedcam::cuda::emulator;
    *count = no_device() == cudaSuccess ? static_cast<int>(fake.devices.size()) : 0;
    return note(no_device());
}
// All memory is the first device's.
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void*) {
    using namespace fusedcam::cuda::emulator;
    if (no_device() != cudaSuccess) return note(no_device());
    *attributes = {2, h100, nullptr, nullptr};
    return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* index) {
    using namespace fusedcam::cuda::emulator;
    *index = fake.device;
    return note(no_device());
}
inline cudaError_t cudaSetDevice(int index) {
    using namespace fusedcam::cuda::emulator;
    if (no_device() != cudaSuccess) return note(no_device());
    if (index < 0 || index >= static_cast<int>(fake.devices.size())) return note(cudaErrorInvalidDevice);
    fake.device = index;
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int index) {
    using namespace fusedcam::cuda::emulator;
    if (no_device() != cudaSuccess) return note(no_device());
    if (index < 0 || index >= static_cast<int>(fake.devices.size())) return note(cudaErrorInvalidDevice);
    const Device& device = fake.devices[static_cast<size_t>(index)];
    switch (attribute) {
        case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
        case cudaDevAttrMaxGridDimX: *value = 0x7fffffff; break;
        case cudaDevAttrMaxGridDimY:
        case cudaDevAttrMaxGridDimZ: *value = 65535; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 << 10; break;
        case cudaDevAttrWarpSize: *value = 32; break;
        case cudaDevAttrMultiProcessorCount: *value = device.multiprocessors; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = device.threads_multiprocessor; break;
        case cudaDevAttrComputeCapabilityMajor: *value = device.capability / 10; break;
        case cudaDevAttrComputeCapabilityMinor: *value = device.capability % 10; break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = device.shared_multiprocessor; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = device.shared_block; break;
        case cudaDevAttrReservedSharedMemoryPerBlock: *value = device.capability >= 80 ? 1024 : 0; break;
        case cudaDevAttrMemoryPoolsSupported: *value = 1; break;
        case cudaDevAttrClusterLaunch: *value = device.capability >= 90; break;
        default: return note(cudaErrorInvalidValue, "no such attribute");
    }
    return cudaSuccess;
}

inline cudaError_t cudaDeviceSynchronize() {
    using namespace fusedcam::cuda::emulator;
    ++fake.counts.synchronizations;
    return note(fake.capturing ? cudaErrorStreamCaptureUnsupported : no_device());
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    using namespace fusedcam::cuda::emulator;
    ++fake.counts.synchronizations;
    fake.used.insert(stream);
    return note(fake.capturing ? cudaErrorStreamCaptureUnsupported : no_device());
}
// Whatever was started is done already, so streams only have to be there.
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    using namespace fusedcam::cuda::emulator;
    *event = new CUevent_st{};
    return note(no_device());
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    event->recorded = true;
    event->stream = stream;
    return cudaSuccess;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    using namespace fusedcam::cuda::emulator;
    if (!event->recorded) return note(cudaErrorInvalidValue, "waited for an event that was never recorded");
    fake.followed.emplace_back(event->stream, stream);
    return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
    *status = fusedcam::cuda::emulator::fake.capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t stream = nullptr) {
    fusedcam::cuda::emulator::fake.used.insert(stream);
    ++fusedcam::cuda::emulator::fake.counts.copies;
    if (bytes) std::memcpy(to, from, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream = nullptr) {
    fusedcam::cuda::emulator::fake.used.insert(stream);
    ++fusedcam::cuda::emulator::fake.counts.fills;
    if (bytes) std::memset(to, value, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t stream) {
    using namespace fusedcam::cuda::emulator;
    fake.used.insert(stream);
    if (no_device() != cudaSuccess) return note(no_device());
    if (fake.memory_error != cudaSuccess) return note(fake.memory_error);
    ++fake.counts.allocations;
    // No more than was asked for, so that ASan sees the end; 256 bytes aligned all the same.
    if (bytes && posix_memalign(pointer, 256, bytes)) return note(cudaErrorMemoryAllocation);
    if (!bytes) return *pointer = nullptr, cudaSuccess;
    std::memset(*pointer, 0xff, bytes);
    fake.memory.insert(*pointer);
    return cudaSuccess;
}
inline cudaError_t cudaFreeAsync(void* pointer, cudaStream_t) {
    using namespace fusedcam::cuda::emulator;
    if (!pointer) return cudaSuccess;
    if (!fake.memory.erase(pointer)) return note(cudaErrorInvalidValue, "freed what was not allocated");
    ++fake.counts.frees;
    std::free(pointer);
    return cudaSuccess;
}
inline cudaError_t cudaMalloc(void** pointer, size_t bytes) {
    using namespace fusedcam::cuda::emulator;
    return fake.capturing ? note(cudaErrorStreamCaptureUnsupported) : cudaMallocAsync(pointer, bytes, nullptr);
}
template <class T>
cudaError_t cudaMalloc(T** pointer, size_t bytes) {
    return cudaMalloc(reinterpret_cast<void**>(pointer), bytes);
}
inline cudaError_t cudaFree(void* pointer) {
    using namespace fusedcam::cuda::emulator;
    return fake.capturing ? note(cudaErrorStreamCaptureUnsupported) : cudaFreeAsync(pointer, nullptr);
}

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel* kernel) {
    using namespace fusedcam::cuda::emulator;
    if (no_device() != cudaSuccess) return note(no_device());
    if (device().capability < device().ptx) return note(cudaErrorNoKernelImageForDevice);
    const Consent& given = consent(reinterpret_cast<const void*>(kernel));
    *attributes = {};
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 32;
    attributes->ptxVersion = device().ptx;
    attributes->binaryVersion = device().capability;
    attributes->maxDynamicSharedSizeBytes = given.shared_bytes;
    attributes->nonPortableClusterSizeAllowed = given.large_clusters;
    return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
    using namespace fusedcam::cuda::emulator;
    if (no_device() != cudaSuccess) return note(no_device());
    if (device().capability < device().ptx) return note(cudaErrorNoKernelImageForDevice);
    Consent& given = consent(reinterpret_cast<const void*>(kernel));
    if (attribute == cudaFuncAttributeNonPortableClusterSizeAllowed) given.large_clusters = value;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || value > device().shared_block) return note(cudaErrorInvalidValue, "more than the device's memory");
    given.shared_bytes = value;
    return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* count, Kernel* kernel, int threads, size_t bytes) {
    using namespace fusedcam::cuda::emulator;
    if (no_device() != cudaSuccess) return note(no_device());
    const bool fits = bytes <= static_cast<size_t>(consent(reinterpret_cast<const void*>(kernel)).shared_bytes);
    *count = fits ? blocks_per_multiprocessor(threads, bytes) : 0;
    return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveClusters(int* count, Kernel* kernel, const cudaLaunchConfig_t* config) {
    using namespace fusedcam::cuda::emulator;
    const cudaError_t refused = check(*config, reinterpret_cast<const void*>(kernel));
    if (refused != cudaSuccess) return refused;
    const int blocks = blocks_per_multiprocessor(static_cast<int>(config->blockDim.x), config->dynamicSmemBytes);
    *count = blocks * device().multiprocessors / cluster_of(*config);
    return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
    using namespace fusedcam::cuda::emulator;
    if (fake.launch_error != cudaSuccess) return note(fake.launch_error);
    const cudaError_t refused = check(*config, reinterpret_cast<const void*>(kernel));
    if (refused != cudaSuccess) return refused;
    ++fake.counts.launches;
    fake.used.insert(config->stream);
    const std::tuple<std::decay_t<Parameters>...> values(std::forward<Arguments>(arguments)...);
    launch({config->gridDim, static_cast<int>(config->blockDim.x), static_cast<int64_t>(config->dynamicSmemBytes),
            cluster_of(*config), device().ptx >= 90},
           [&] { std::apply(kernel, values); });
    return cudaSuccess;
}
