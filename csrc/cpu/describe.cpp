// What the CPU backend runs with: instruction set, threads and their runtime.
#include "../ops.hpp"
#include "threads.hpp"

namespace fusedcam::cpu {
namespace {

constexpr const char* instruction_set() {
#if defined(__AVX512F__)
    return "avx512";
#elif defined(__AVX2__)
    return "avx2";
#elif defined(__x86_64__)
    return "sse2";
#elif defined(__ARM_NEON)
    return "neon";
#else
    return "none";
#endif
}

}  // namespace

Description describe() { return {instruction_set(), thread_count(), thread_runtime()}; }

}  // namespace fusedcam::cpu
