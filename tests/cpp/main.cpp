// Runs every case with a fresh seed, which is printed: FUSEDCAM_SEED repeats a run.
#include <cstdlib>

#include "check.hpp"

std::vector<test::Case>& test::cases() {
    static std::vector<Case> list;
    return list;
}

int& test::failures() {
    static int count = 0;
    return count;
}

int main() {
    const char* given = std::getenv("FUSEDCAM_SEED");
    const uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    std::printf("FUSEDCAM_SEED=%llu\n", static_cast<unsigned long long>(seed));
    for (const test::Case& one : test::cases()) {
        test::random().seed(seed);
        const int before = test::failures();
        one.run();
        std::printf("%s %s\n", test::failures() == before ? "passed" : "FAILED", one.name);
    }
    return test::failures() ? 1 : 0;
}
