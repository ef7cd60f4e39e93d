// See launch.hpp.
#include <map>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "../check.hpp"
#include "launch.hpp"

namespace fusedcam::cuda {
namespace {

std::mutex lock;

int attribute(cudaDeviceAttr which, int index) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, index), "asking for a device's attribute");
    return value;
}

}  // namespace

void check(cudaError_t status, const char* doing) {
    if (status == cudaSuccess) return;
    static_cast<void>(cudaGetLastError());  // else the next call, maybe another library's, would report it
    throw std::runtime_error(
        text("fusedcam: ", doing, " failed: ", cudaGetErrorName(status), ", ", cudaGetErrorString(status)));
}

std::string unavailable() {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    static_cast<void>(cudaGetLastError());
    if (status != cudaSuccess) return text(cudaGetErrorName(status), ": ", cudaGetErrorString(status));
    return count == 0 ? "the driver reports no device" : "";
}

int device_of(const void* pointer) {
    cudaPointerAttributes attributes{};
    check(cudaPointerGetAttributes(&attributes, pointer), "asking where memory lies");
    return attributes.device;
}

void* reserve(int64_t bytes, const Queue& queue) {
    if (bytes == 0) return nullptr;
    const OnDevice here(queue.device);
    void* memory = nullptr;
    check(cudaMallocAsync(&memory, static_cast<size_t>(bytes), static_cast<cudaStream_t>(queue.stream)),
          "reserving memory");
    return memory;
}

void release(void* memory) noexcept {
    // A failure here has no one to tell: the interpreter may be ending, and the driver with it.
    if (memory && cudaFree(memory) != cudaSuccess) static_cast<void>(cudaGetLastError());
}

void wait(const Queue& queue) {
    const OnDevice here(queue.device);
    check(cudaStreamSynchronize(static_cast<cudaStream_t>(queue.stream)), "waiting for the result");
}

const Device& device(int index) {
    static std::map<int, Device> known;
    const std::lock_guard guard(lock);
    const auto found = known.find(index);
    if (found != known.end()) return found->second;
    Device facts;
    facts.index = index;
    facts.major = attribute(cudaDevAttrComputeCapabilityMajor, index);
    facts.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, index);
    facts.shared_memory = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
    return known.emplace(index, facts).first->second;
}

OnDevice::OnDevice(int index) : index_(index) {
    check(cudaGetDevice(&before_), "asking for the current device");
    if (before_ != index_) check(cudaSetDevice(index_), "choosing a device");
}

OnDevice::~OnDevice() {
    if (before_ != index_) static_cast<void>(cudaSetDevice(before_));
}

namespace {

struct Allowed {
    int64_t shared_memory = 48 * 1024;  // what every kernel may use
    bool large_cluster = false;
};

void allow_locked(const void* kernel, const Device& device, int64_t shared_memory, bool large_cluster) {
    static std::map<std::pair<const void*, int>, Allowed> allowed;
    Allowed& now = allowed[{kernel, device.index}];
    if (shared_memory > now.shared_memory) {
        check(
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_memory)),
            "asking for shared memory");
        now.shared_memory = shared_memory;
    }
    if (large_cluster && !now.large_cluster) {
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
              "asking for a large cluster");
        now.large_cluster = true;
    }
}

constexpr int portable_cluster = 8;

}  // namespace

void allow(const void* kernel, const Device& device, const Grid& grid) {
    if (grid.shared_memory <= 48 * 1024 && grid.cluster <= portable_cluster) return;
    const std::lock_guard guard(lock);
    allow_locked(kernel, device, grid.shared_memory, grid.cluster > portable_cluster);
}

int largest_cluster(const void* kernel, const Device& device, int64_t shared_memory) {
    if (device.major < 9 || shared_memory > device.shared_memory) return 0;
    static std::map<std::pair<const void*, int>, std::pair<int, int>> known;  // PTX version, and whether 16 fit
    const std::lock_guard guard(lock);
    auto found = known.find({kernel, device.index});
    if (found == known.end()) {
        cudaFuncAttributes attributes{};
        check(cudaFuncGetAttributes(&attributes, kernel), "asking for a kernel's attributes");
        int large = 0;
        if (attributes.ptxVersion >= 90) {
            // At the most shared memory a call could want, so that the answer holds for every call.
            allow_locked(kernel, device, device.shared_memory, true);
            cudaLaunchAttribute cluster{};
            cluster.id = cudaLaunchAttributeClusterDimension;
            cluster.val.clusterDim.x = 16;
            cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
            cudaLaunchConfig_t config{};
            config.gridDim = dim3(16, 1, 1);
            config.blockDim = dim3(threads, 1, 1);
            config.dynamicSmemBytes = static_cast<size_t>(device.shared_memory);
            config.attrs = &cluster;
            config.numAttrs = 1;
            if (cudaOccupancyMaxActiveClusters(&large, kernel, &config) != cudaSuccess) {
                static_cast<void>(cudaGetLastError());
                large = 0;
            }
        }
        found = known.emplace(std::pair{kernel, device.index}, std::pair{attributes.ptxVersion, large}).first;
    }
    const auto [version, large] = found->second;
    if (version < 90) return 0;
    return large > 0 ? 16 : portable_cluster;
}

bool capturing(const Queue& queue) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(static_cast<cudaStream_t>(queue.stream), &status), "asking for a stream's state");
    return status != cudaStreamCaptureStatusNone;
}

}  // namespace fusedcam::cuda
