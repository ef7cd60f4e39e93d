// The emulator finds what it is there to find, and its primitives do what CUDA's do, in every order of the threads.
#include <cmath>

#include "bench.hpp"

TEST_CASE(indices_and_order) {
    in_all_orders([] {
        std::vector<int> seen;
        emulator::launch({dim3(3, 2), threads, 0}, [&] {
            CHECK(blocks_x() == 3 && blockDim.x == threads && block_y() < 2);
            const emulator::Quiet quiet;
            seen.push_back(static_cast<int>((block_y() * blocks_x() + block_x()) * threads) + thread());
        });
        std::vector<int> sorted = seen;
        std::sort(sorted.begin(), sorted.end());
        for (int index = 0; index < 6 * threads; ++index) CHECK(sorted[static_cast<size_t>(index)] == index);
        const auto order = emulator::options.order;
        CHECK((seen == sorted) == (order == emulator::Order::forward));
        CHECK((seen[0] == 6 * threads - 1) == (order == emulator::Order::reverse) || order == emulator::Order::random);
    });
}

TEST_CASE(shuffles) {
    in_all_orders([] {
        run([] {
            for (int lanes = 0; lanes < 32; ++lanes) {
                const int other = thread() ^ lanes;
                CHECK(shuffle_xor(thread(), lanes) == other);
                CHECK(shuffle_xor(thread() + 0.5f, lanes) == other + 0.5f);
                CHECK(shuffle_xor(thread() * 1e100, lanes) == other * 1e100);
                CHECK(shuffle_xor(int64_t{thread()} << 40, lanes) == int64_t{other} << 40);
            }
        });
    });
}

TEST_CASE(barriers_and_shared_memory) {
    in_all_orders([] {
        run(
            [] {
                for (int index = thread(); index < room / 4; index += threads) CHECK(std::isnan(floats()[index]));
                block_barrier();
                for (int round = 0; round < 5; ++round) {
                    floats()[thread()] = static_cast<float>(thread() + round);
                    block_barrier();
                    const int other = (thread() + 37 * round) % threads;
                    CHECK(floats()[other] == static_cast<float>(other + round));
                    block_barrier();
                }
            },
            3);
    });
}

TEST_CASE(clusters) {
    in_all_orders([] {
        run(
            [] {
                CHECK(cluster_size() == 4 && cluster_rank() == block_x() % 4);
                if (thread() == 0) floats()[5] = static_cast<float>(block_x());
                cluster_barrier();
                const int other = (cluster_rank() + thread()) % 4;
                CHECK(*in_block(floats() + 5, other) == static_cast<float>(block_x() / 4 * 4 + other));
                cluster_barrier();
            },
            8, 4);
    });
}

TEST_CASE(a_barrier_in_halves) {
    in_all_orders([] {
        run(
            [] {
                for (int round = 0; round < 3; ++round) {
                    if (thread() == 0) floats()[round] = static_cast<float>(10 * round + cluster_rank());
                    cluster_arrive();
                    if (thread() == 1) floats()[8 + round] = static_cast<float>(round);  // nobody else's
                    block_barrier();
                    cluster_wait();
                    const int other = (cluster_rank() + thread()) % 4;
                    CHECK(in_block(floats(), other)[round] == static_cast<float>(10 * round + other));
                }
                cluster_arrive();
                cluster_wait();
            },
            4, 4);
    });
}

TEST_CASE(copies) {
    alignas(16) static float source[3][4 * threads];
    for (int index = 0; index < 12 * threads; ++index) {
        source[index / (4 * threads)][index % (4 * threads)] = static_cast<float>(index);
    }
    in_all_orders([] {
        emulator::launch({dim3(1), threads, sizeof(source)}, [] {
            for (int tile = 0; tile < 3; ++tile) {
                copy_async<16>(floats() + (tile * threads + thread()) * 4, source[tile] + 4 * thread());
                commit_copies();
            }
            const auto is_there = [](int tile) { return !std::isnan(floats()[(tile * threads + thread()) * 4 + 3]); };
            const bool early = !emulator::options.copies_late;
            CHECK(is_there(0) == early);
            for (int newer = 2; newer >= 0; --newer) {
                newer == 2 ? wait_copies<2>() : newer == 1 ? wait_copies<1>() : wait_copies<0>();
                for (int tile = 0; tile < 3; ++tile) CHECK(is_there(tile) == (early || tile + newer < 3));
            }
            block_barrier();
            for (int index = thread(); index < 12 * threads; index += threads) CHECK(floats()[index] == index);
        });
    });
}

TEST_CASE(mistakes) {
    fails("deadlock, not all threads reached the same call: 1 have ended; 255 wait at block_barrier, test_emulator.cpp",
          [] {
              if (thread() != 77) block_barrier();
          });
    fails("divergent block_barrier", [] {
        if (thread() == 77) return block_barrier();
        block_barrier();
    });
    fails("wait at shuffle_xor", [] {
        if (thread() != 77) shuffle_xor(1, 1);
    });
    fails("divergent shuffle_xor", [] { thread() % 2 ? shuffle_xor(1, 1) : shuffle_xor(2, 1); });
    fails("deadlock", [] { thread() % 2 ? static_cast<void>(shuffle_xor(1, 1)) : block_barrier(); });
    fails(
        "wait at cluster_barrier",
        [] {
            if (cluster_rank()) cluster_barrier();
        },
        4, 2);
    fails("cluster_wait without cluster_arrive", [] { cluster_wait(); });
    fails("cluster_arrive twice", [] { cluster_arrive(), cluster_arrive(); });
    fails("cluster_barrier after cluster_arrive", [] { cluster_arrive(), cluster_barrier(); });
    fails("arrived at the cluster's barrier and never waited", [] { cluster_arrive(); });
    fails("shuffle_xor with lanes 32", [] { shuffle_xor(1, 32); });
    alignas(16) static float source[8];
    fails("to a misaligned address", [] { copy_async<16>(floats() + 1, source); });
    fails("from a misaligned address", [] { copy_async<16>(floats(), source + 1); });
    fails("to no shared memory", [] { copy_async<16>(source, source); });
    fails("never waited for its copies", [] { copy_async<16>(floats() + 4 * thread(), source), commit_copies(); });
    fails(
        "in_block of a block that has ended",
        [] {
            cluster_barrier();
            in_block(floats(), cluster_rank() ^ 1);
        },
        2, 2);
    fails("outside its shared memory", [] { in_block(source, 0); });
    fails("in_block of another cluster", [] { in_block(floats(), 2); }, 2, 2);
    fails("thrown inside", [] {
        if (thread() == 9) throw std::runtime_error("thrown inside");
        block_barrier();
    });
    fails("that the kernel was launched with", [] { Carve(shared_memory()).take<float>(room / 4); });
    const std::string large = test::refusal([] { emulator::launch({dim3(1), threads, (227 << 10) + 1}, [] {}); });
    CHECK(large == "232449 bytes of shared memory, of the device's 232448");
    CHECK(test::refusal([] { block_barrier(); }) == "a device function was called outside a kernel");
}
