// A kernel that does nothing but load and store, as many bytes as a call has to: the rate that others are held against.
// Built and called by gpu.py.
#include <cuda_runtime.h>

#include <cstddef>

namespace {

__global__ void __launch_bounds__(256) load_and_store(const float4* in, size_t loads, float4* out, size_t stores) {
    const size_t first = blockIdx.x * size_t{blockDim.x} + threadIdx.x, step = size_t{gridDim.x} * blockDim.x;
    float4 sum = make_float4(0, 0, 0, 0);
    size_t i = first;
    for (; i + 3 * step < loads; i += 4 * step) {
        const float4 a = in[i], b = in[i + step], c = in[i + 2 * step], d = in[i + 3 * step];
        sum.x += (a.x + b.x) + (c.x + d.x);
        sum.y += (a.y + b.y) + (c.y + d.y);
        sum.z += (a.z + b.z) + (c.z + d.z);
        sum.w += (a.w + b.w) + (c.w + d.w);
    }
    for (; i < loads; i += step) sum.x += in[i].x;
    for (size_t o = first; o < stores; o += step) out[o] = sum;
}

}  // namespace

// Counts of 16 bytes each. Returns CUDA's status.
extern "C" int load_store(const void* in, size_t loads, void* out, size_t stores, int blocks, void* stream) {
    load_and_store<<<blocks, 256, 0, static_cast<cudaStream_t>(stream)>>>(static_cast<const float4*>(in), loads,
                                                                          static_cast<float4*>(out), stores);
    return static_cast<int>(cudaGetLastError());
}
