// What the emulator's tests share. They are built together with tests/cpp/main.cpp, plainly and with each sanitizer.
#pragma once

#include "../cpp/check.hpp"
#include "cuda/intrinsics.cuh"

using namespace fusedcam::cuda;

using Body = std::function<void()>;

inline void in_all_orders(const Body& body) {
    for (const auto order : {emulator::Order::forward, emulator::Order::reverse, emulator::Order::random}) {
        for (const bool late : {false, true}) {
            emulator::reset();
            emulator::options.order = order;
            emulator::options.copies_late = late;
            emulator::options.seed = static_cast<unsigned>(test::integer(0, 1 << 30));
            body();
        }
    }
}

constexpr int64_t room = 4096;

inline void run(const Body& kernel, int blocks = 1, int cluster = 1) {
    emulator::launch({dim3(static_cast<unsigned>(blocks)), threads, room, cluster}, kernel);
}

// The launch throws what contains these words, and the next one is none the worse for it.
inline void fails(const char* words, const Body& kernel, int blocks = 1, int cluster = 1) {
    in_all_orders([&] {
        const std::string found = test::refusal([&] { run(kernel, blocks, cluster); });
        CHECK(found.find(words) != std::string::npos, "'%s' instead of '%s'", found.c_str(), words);
        int counts[2] = {0, 0};
        run(
            [&] {
                block_barrier();
                if (thread() == 0) ++counts[block_x()];
            },
            2);
        CHECK(counts[0] == 1 && counts[1] == 1);
    });
}

inline float* floats() { return reinterpret_cast<float*>(shared_memory()); }
