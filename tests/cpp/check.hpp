// A small test bench: cases that register themselves, checks that count and print, a seeded source of random numbers.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace test {

struct Case {
    const char* name;
    void (*run)();
};

std::vector<Case>& cases();
int& failures();

struct Register {
    Register(const char* name, void (*run)()) { cases().push_back({name, run}); }
};

inline std::mt19937_64& random() {
    static std::mt19937_64 source;
    return source;
}
inline int64_t integer(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random());
}
inline double normal() { return std::normal_distribution<double>()(random()); }

// The message of the exception that body throws, or nothing.
inline std::string refusal(const std::function<void()>& body) {
    try {
        body();
    } catch (const std::exception& error) {
        return error.what();
    }
    return "";
}

}  // namespace test

#define TEST_CASE(name)                                         \
    static void name();                                         \
    static const ::test::Register register_##name(#name, name); \
    static void name()

#define CHECK(condition, ...)                                           \
    do {                                                                \
        if (!(condition)) {                                             \
            std::printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            std::printf("    " __VA_ARGS__);                            \
            std::printf("\n");                                          \
            if (++::test::failures() > 20) std::exit(1);                \
        }                                                               \
    } while (false)
