// What the tests of CUDA's ops share: devices, a queue for each call, the order of its threads.
#pragma once

#include <array>
#include <cstring>

#include "../cpp/compare.hpp"
#include "emulator.hpp"

namespace test {

using namespace fusedcam;
using namespace fusedcam::cuda::emulator;

inline constexpr std::array devices{h100, h200_with_old_image, a100, t4, rtx5090, h100_slice};

template <class Call>
bool is_empty(const Call& call) {
    if constexpr (requires { call.forward; })
        return call.forward.result.count() == 0;
    else
        return call.result.count() == 0;
}

// A queue with a workspace of exactly the size that is asked for, filled with NaN.
template <class Call>
void run_on(int device, const Call& call, void (*op)(const Call&, const cuda::Queue&)) {
    const Counts before = fake.counts;
    std::vector<std::byte> workspace(static_cast<size_t>(cuda::workspace(call, device)), std::byte{0xff});
    // The vector's memory is aligned to 16 bytes only, which is what the kernels rely on.
    const auto stream = reinterpret_cast<cudaStream_t>(uintptr_t{0x50});
    fake.used.clear();
    op(call, {device, stream, workspace.data()});
    CHECK(is_empty(call) || (fake.used.size() == 1 && *fake.used.begin() == stream), "another stream was used");
    CHECK(fake.counts.allocations == before.allocations, "memory was allocated");
    CHECK(fake.device == h100, "the current device was changed");
}

// ThreadSanitizer takes a thousand times as long: few rounds, small clusters, and shuffles that order nothing, as CUDA
// promises none.
#if defined(__SANITIZE_THREAD__)
inline constexpr bool thread_sanitizer = true;
#else
inline constexpr bool thread_sanitizer = false;
#endif

inline int rounds(int usual) { return thread_sanitizer ? 2 : usual; }

inline void begin() {
    reset();
    if (!thread_sanitizer) return;
    fake.devices[h100].cluster = 8;
    options.shuffles_order = false;
}

inline void choose_order(int round) {
    options.order = static_cast<Order>(round % 3);
    options.seed = static_cast<unsigned>(integer(0, 1 << 30));
    options.copies_late = integer(0, 1);
}

inline Array widened(const Array& array) {
    Array wide(array.view().shape, DType::float64);
    for (int64_t i = 0; i < array.view().shape.count(); ++i) wide.set(i, array.get(i));
    return wide;
}

// Random numbers of which the rule's assumptions hold; moments are away from 0, which they are divided by.
template <class Rule>
void fill_for(Array& activations, Array& gradients) {
    activations.fill_normal();
    gradients.fill_normal();
    if (Rule::sums_activations)
        for (int64_t i = 0; i < activations.view().shape.count(); ++i) activations.set(i, std::abs(activations.get(i)));
    if (Rule::moments > 1)
        for (int64_t i = 0; i < gradients.view().shape.count(); ++i)
            gradients.set(i, 0.25 + std::abs(gradients.get(i)));
}

inline bool same_bits(const Array& first, const Array& second) {
    const int64_t count = first.view().shape.count();
    for (int64_t i = 0; i < count; ++i)
        if (std::memcmp(first.element(i), second.element(i), static_cast<size_t>(item_size(first.view().dtype))) != 0)
            return false;
    return true;
}

}  // namespace test
