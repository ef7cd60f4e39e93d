// What the CPU backend runs with: instruction set, threads and their runtime.
#include "../ops.hpp"
#include "kernels.hpp"
#include "threads.hpp"

namespace fusedcam::cpu {
Description describe() { return {kernels().name, thread_count(), thread_runtime()}; }

}  // namespace fusedcam::cpu
