// ASan finds what is written past a piece of shared memory, TSan finds missing barriers.
#include <sys/wait.h>
#include <unistd.h>

#include "bench.hpp"

extern "C" const char* __tsan_default_options() { return "atexit_sleep_ms=0"; }

namespace {

// Whether a sanitizer ends a process that does this. A fiber is a thread to TSan, which takes no more orders from a
// process that had threads and forks, so these cases come before all others.
bool reported(const Body& body) {
    CHECK(!emulator::sees_races || emulator::machine.threads.empty(), "link this file first");
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        if (!std::freopen("/dev/null", "w", stderr)) std::abort();
        test::refusal(body);  // no report
        std::exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0 || WEXITSTATUS(status) == (emulator::sees_races ? 66 : 1), "%d", status);
    return status != 0;
}

void look(const volatile float* place) { static_cast<void>(*place); }

bool right = true;
std::vector<int> places(2);

struct Race {
    const char* name;
    void (*kernel)();
    int blocks, cluster;
};
constexpr Race all_races[] = {
    {"block_barrier",
     [] {
         floats()[thread()] = 1;
         if (right) block_barrier();
         look(floats() + (thread() + 1) % threads);
     },
     1, 1},
    {"cluster_barrier",
     [] {
         floats()[thread()] = 1;
         right ? cluster_barrier() : block_barrier();
         look(in_block(floats() + thread(), cluster_rank() ^ 1));
         cluster_barrier();
     },
     2, 2},
    {"cluster_barrier at the start",
     [] {
         if (right) cluster_barrier();
         *in_block(floats() + thread(), cluster_rank() ^ 1) = 1;
         cluster_barrier();
     },
     2, 2},
    {"cluster_barrier at the end",
     [] {
         float* other = in_block(floats() + thread(), cluster_rank() ^ 1);
         cluster_barrier();
         *other = 1;
         if (right) cluster_barrier();
     },
     2, 2},
    {"two blocks",
     [] {
         if (thread() == 0) places[right ? static_cast<size_t>(block_x()) : 0] = 1;
     },
     2, 1},
    {"shuffle_xor",
     [] {
         floats()[thread()] = 1;
         shuffle_xor(1, 1);
         look(floats() + (thread() ^ 1));
     },
     1, 1},
};

}  // namespace

TEST_CASE(races) {
    if (!emulator::sees_races) return;
    for (const auto order : {emulator::Order::forward, emulator::Order::reverse, emulator::Order::random}) {
        emulator::options.order = order;
        emulator::options.shuffles_order = right = true;
        CHECK(!reported([] {
            for (const Race& race : all_races) run(race.kernel, race.blocks, race.cluster);
        }));
        emulator::options.shuffles_order = right = false;
        for (const Race& race : all_races) {
            CHECK(reported([&] { run(race.kernel, race.blocks, race.cluster); }), "%s", race.name);
        }
    }
}

TEST_CASE(memory) {
    const auto overrun = [] {
        Carve carve(shared_memory());
        float* first = carve.take<float>(threads);
        carve.take<float>(threads);
        const int shift = thread() == threads - 1;
        first[thread() + shift] = 1;
    };
    if (emulator::sees_addresses) {
        CHECK(!reported([] { run([] { floats()[room / 4 - 1] = 1; }); }));
        CHECK(reported([] { run([] { floats()[room / 4] = 1; }); }));
        CHECK(reported([&] { run(overrun); }));
    } else {
        fails("written past a piece of shared memory, at byte 1024", overrun);
    }
    // The last thread of all writes to a block that has ended, through a pointer from before.
    const auto late = [] {
        float* other = in_block(floats(), cluster_rank() ^ 1) + thread();
        cluster_barrier();
        *other = 1;
    };
    if (emulator::sees_addresses) {
        CHECK(reported([&] { run(late, 2, 2); }));
    } else if (!emulator::sees_races) {
        fails("shared memory was written after its block had ended", late, 2, 2);
    }
}
