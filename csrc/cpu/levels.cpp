// The instruction sets that kernels were compiled for, and which of them this process uses.
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "../check.hpp"
#include "kernels.hpp"

namespace fusedcam::cpu {

namespace baseline {
extern constinit const Kernels table;
}
#if defined(FUSEDCAM_X86_LEVELS)
namespace avx2 {
extern constinit const Kernels table;
}
namespace avx512 {
extern constinit const Kernels table;
}
#endif

namespace {

struct Level {
    const Kernels& kernels;
    bool (*runs)();
};

#if defined(FUSEDCAM_X86_LEVELS)
bool runs_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
// From Ice Lake and Zen 4 on.
bool runs_avx512() {
    return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vbmi");
}
#endif

// The best comes first.
const Level levels[] = {
#if defined(FUSEDCAM_X86_LEVELS)
    {avx512::table, runs_avx512},
    {avx2::table, runs_avx2},
#endif
    {baseline::table, [] { return true; }},
};

const Kernels& choose() {
    const char* wanted = std::getenv("FUSEDCAM_SIMD");
    std::string able;
    for (int i = 0; const Kernels* level = kernels_of_level(i); ++i) {
        if (!wanted || !*wanted || !std::strcmp(wanted, level->name)) return *level;
        able += text(able.empty() ? "'" : ", '", level->name, "'");
    }
    throw std::invalid_argument(text("FUSEDCAM_SIMD is '", wanted, "'; accepted on this processor: ", able));
}

}  // namespace

const Kernels* kernels_of_level(int index) {
    for (const Level& level : levels)
        if (level.runs() && index-- == 0) return &level.kernels;
    return nullptr;
}

const Kernels& kernels() {
    static const Kernels& chosen = choose();
    return chosen;
}

}  // namespace fusedcam::cpu
