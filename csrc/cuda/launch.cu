// See launch.hpp.
#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string_view>
#include <tuple>
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

// A list as CMake writes it: "80-real" is code for the minor versions of 8 from 0 on, "90-virtual" what the driver
// compiles for 9.0 and everything later, "120" both.
bool runs(std::string_view architectures, int capability) {
    while (!architectures.empty()) {
        const size_t end = std::min(architectures.find(';'), architectures.size());
        const std::string_view entry = architectures.substr(0, end);
        architectures.remove_prefix(std::min(end + 1, architectures.size()));
        const int compiled = std::atoi(std::string(entry).c_str());
        const bool real = entry.find("-virtual") == entry.npos, virtually = entry.find("-real") == entry.npos;
        if (compiled == 0) return true;  // "native" and the like
        if (real && compiled / 10 == capability / 10 && compiled <= capability) return true;
        if (virtually && compiled <= capability) return true;
    }
    return false;
}

std::string unavailable() {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    static_cast<void>(cudaGetLastError());
    if (status != cudaSuccess) return text(cudaGetErrorName(status), ": ", cudaGetErrorString(status));
    if (count == 0) return "the driver reports no device";
#if defined(FUSEDCAM_CUDA_ARCHITECTURES)
    std::string found;
    for (int index = 0; index < count; ++index) {
        const int capability = 10 * attribute(cudaDevAttrComputeCapabilityMajor, index) +
                               attribute(cudaDevAttrComputeCapabilityMinor, index);
        if (runs(FUSEDCAM_CUDA_ARCHITECTURES, capability)) return "";
        found += text(found.empty() ? "" : ", ", "sm_", capability);
    }
    return text("the kernels were compiled for ", FUSEDCAM_CUDA_ARCHITECTURES, ", and the devices here are ", found);
#else
    return "";
#endif
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
    const cudaError_t status =
        cudaMallocAsync(&memory, static_cast<size_t>(bytes), static_cast<cudaStream_t>(queue.stream));
    if (status == cudaErrorMemoryAllocation) {
        static_cast<void>(cudaGetLastError());
        throw std::bad_alloc();
    }
    check(status, "reserving memory");
    return memory;
}

void release(void* memory, int index) noexcept {
    if (!memory) return;
    // A failure here has no one to tell: the interpreter may be ending, and the driver with it.
    try {
        const OnDevice here(index);
        // cudaFree would not wait for memory of cudaMallocAsync.
        if (cudaDeviceSynchronize() == cudaSuccess && cudaFree(memory) == cudaSuccess) return;
    } catch (const std::exception&) {
    }
    static_cast<void>(cudaGetLastError());
}

void follow(const Queue& queue, void* stream) {
    if (stream == queue.stream) return;
    const OnDevice here(queue.device);
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
    cudaError_t status = cudaEventRecord(event, static_cast<cudaStream_t>(stream));
    if (status == cudaSuccess) status = cudaStreamWaitEvent(static_cast<cudaStream_t>(queue.stream), event, 0);
    static_cast<void>(cudaEventDestroy(event));
    check(status, "waiting for another stream's work");
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
    // Asked for in coarse steps of shared memory, so that few answers serve every call.
    const int64_t step = 16 * 1024, asked = std::min((shared_memory + step - 1) / step * step, device.shared_memory);
    static std::map<std::tuple<const void*, int, int64_t>, int> known;
    const std::lock_guard guard(lock);
    const auto found = known.find({kernel, device.index, asked});
    if (found != known.end()) return found->second;
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, kernel), "asking for a kernel's attributes");
    if (attributes.ptxVersion < 90) return known[{kernel, device.index, asked}] = 0;
    allow_locked(kernel, device, asked, true);
    int largest = 0;
    cudaLaunchAttribute cluster{};
    cudaLaunchConfig_t config{};
    config.blockDim = dim3(threads, 1, 1);
    config.dynamicSmemBytes = static_cast<size_t>(asked);
    config.attrs = &cluster;
    config.numAttrs = 1;
    // A part of a device may have too few multiprocessors side by side for a large one.
    for (largest = 16; largest > 1; largest /= 2) {
        config.gridDim = dim3(static_cast<unsigned>(largest), 1, 1);
        set_cluster(cluster, largest);
        int active = 0;
        if (cudaOccupancyMaxActiveClusters(&active, kernel, &config) == cudaSuccess && active > 0) break;
        static_cast<void>(cudaGetLastError());
    }
    return known[{kernel, device.index, asked}] = largest;
}

bool capturing(const Queue& queue) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(static_cast<cudaStream_t>(queue.stream), &status), "asking for a stream's state");
    return status != cudaStreamCaptureStatusNone;
}

}  // namespace fusedcam::cuda
