// Runs CUDA kernels on the CPU, for tests without a GPU. Every CUDA thread is a fiber; all of them share one thread of
// the process and change over where a kernel waits: at barriers and shuffles. A launch throws std::runtime_error for
// what would hang or go astray on a device; ASan sees shared memory piece by piece, and TSan sees nothing but barriers
// order the threads, so that it reports the missing ones.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <source_location>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "fibers.hpp"
#include "runtime_types.hpp"

inline dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the running thread, set whenever another one goes on

namespace fusedcam::cuda::emulator {

using Site = std::source_location;

enum class Order { forward, reverse, random };

struct Options {
    Order order = Order::forward;  // which of the threads that can run goes on, and which cluster comes next
    unsigned seed = 0;
    bool copies_late = false;          // copy_async copies in wait_copies, not at once
    bool shuffles_order = true;        // TSan takes a shuffle for a barrier of the warp; CUDA promises less
    size_t raced_threads = 512;        // of so many TSan sees races between clusters; its time grows with their square
    int64_t shared_limit = 227 << 10;  // bytes of shared memory of a block
};
inline Options options;

struct Launch {
    dim3 grid;
    int threads;
    int64_t shared_bytes = 0;
    int cluster = 1;
    bool has_clusters = true;  // without, the kernel was compiled to stop where it asks for its cluster
};

struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

constexpr int64_t fence_bytes = 16;
// NaN as float and as double, and no value that a kernel would write.
constexpr std::array<uint32_t, 4> fence_pattern = {0x7fc0beef, 0x7ff8dead, 0x7fc0feed, 0x7ff8face};

struct Barrier {
    const char* name = "";
    int first = 0, count = 0;  // the threads of the cluster that it waits for
    int arrived = 0, phase = 0;
    Site site;      // of the first to arrive
    char edges[2];  // used in turn: a thread that is already at the next barrier orders nothing for this one
};

struct Warp {
    Barrier shuffle;
    uint64_t values[2][32];
};

struct Block {
    dim3 position;
    int rank = 0, running = 0;
    bool started = false;
    std::byte* memory = nullptr;
    std::vector<std::byte*> fences;
    std::vector<Warp> warps;
    Barrier block, cluster;  // the latter of the first block only
    char start, end;
};

struct Copy {
    void* to;
    const void* from;
    int bytes, group;
};

struct Thread : Fiber {
    dim3 position;
    Block* block = nullptr;
    const Barrier* barrier = nullptr;  // that it waits for
    Site site;
    bool done = true;
    int phase = -1;  // of the cluster's barrier, between arriving and waiting
    std::vector<Copy> copies;
    int group = 0;
};

// One launch at a time. Memory, fibers and blocks are used again for the next cluster; under TSan, which would take
// that for races (or for an order, by which it would miss some), only when they run out.
struct Machine {
    std::mutex lock;
    Launch launch;
    const std::function<void()>* kernel = nullptr;
    std::deque<Block> blocks;
    std::vector<std::unique_ptr<Thread>> threads;
    size_t first_block = 0, first_thread = 0;  // of the cluster
    size_t next_thread = 0, next_byte = 0;
    std::byte* memory = nullptr;
    std::vector<std::pair<uint64_t, int>> ready;  // a heap: the greatest key goes on
    std::mt19937_64 random;
    Thread* current = nullptr;
    Fiber host;
    std::exception_ptr error;
    char begin, end;
};
inline Machine machine;

constexpr size_t memory_bytes = 64 << 20;

inline std::string name_of(const Site& site) {
    const std::string path = site.file_name();
    return path.substr(path.rfind('/') + 1) + ":" + std::to_string(site.line());
}
inline std::string name_of(const Thread& thread) {
    const dim3& block = thread.block->position;
    return "thread " + std::to_string(thread.position.x) + " of block (" + std::to_string(block.x) + ", " +
           std::to_string(block.y) + ", " + std::to_string(block.z) + ")";
}

inline Thread& self() {
    if (!machine.current) throw Failure("a device function was called outside a kernel");
    return *machine.current;
}

inline void make_ready(int index) {
    uint64_t key = static_cast<uint64_t>(index);
    if (options.order == Order::forward) key = ~key;
    if (options.order == Order::random) key = machine.random();
    machine.ready.emplace_back(key, index);
    std::push_heap(machine.ready.begin(), machine.ready.end());
}

// Goes on with a thread that can run, or with the launch when there is none.
inline void leave(Fiber& from) {
    Fiber* to = &machine.host;
    machine.current = nullptr;
    if (!machine.error && !machine.ready.empty()) {
        std::pop_heap(machine.ready.begin(), machine.ready.end());
        Thread& next = *machine.threads[machine.first_thread + machine.ready.back().second];
        machine.ready.pop_back();
        threadIdx = next.position;
        blockIdx = next.block->position;
        to = machine.current = &next;
    }
    if (to != &from) switch_fiber(from, *to);
}

// NaN everywhere. Blocks start when their first thread does: another block that is earlier is at fault.
inline void start_block(Block& block) {
    const size_t bytes = static_cast<size_t>(machine.launch.shared_bytes);
    bool first = false;
    {
        const Quiet quiet;
        if (!std::exchange(block.started, true)) {
            unpoison(block.memory, bytes);
            first = true;
        }
    }
    if (!first) return after(block.start);
    after(machine.begin);
    std::memset(block.memory, 0xff, bytes);
    before(block.start);
}

inline void end_thread(Thread& me) {
    Block& block = *me.block;
    const size_t bytes = static_cast<size_t>(machine.launch.shared_bytes);
    before(block.end);
    {
        const Quiet quiet;
        if (!me.copies.empty()) throw Failure("never waited for its copies: " + name_of(me));
        if (me.phase >= 0) throw Failure("arrived at the cluster's barrier and never waited: " + name_of(me));
        if (--block.running > 0) return;
        for (const std::byte* fence : block.fences) {
            if (sees_addresses || !std::memcmp(fence, &fence_pattern, fence_bytes)) continue;
            throw Failure("written past a piece of shared memory, at byte " + std::to_string(fence - block.memory) +
                          ", in the block of " + name_of(me));
        }
        unpoison(block.memory, bytes);
    }
    after(block.end);
    std::memset(block.memory, 0xff, bytes);
    poison(block.memory, bytes);
    before(machine.end);
}

inline void run_threads() {
    arrive_on(*machine.current);
    while (true) {
        Thread& me = *machine.current;
        try {
            start_block(*me.block);
            (*machine.kernel)();
            end_thread(me);
        } catch (...) {
            const Quiet quiet;
            machine.error = std::current_exception();
        }
        const Quiet quiet;
        me.done = true;
        leave(me);
    }
}

inline std::string describe_deadlock() {
    std::map<std::string, int> counts;
    for (size_t index = machine.first_thread; index < machine.next_thread; ++index) {
        const Thread& thread = *machine.threads[index];
        const std::string name = thread.done ? "" : thread.barrier->name;
        ++counts[thread.done ? "have ended" : "wait at " + name + ", " + name_of(thread.site)];
    }
    std::string text = "deadlock, not all threads reached the same call:";
    for (const auto& [state, count] : counts) text += " " + std::to_string(count) + " " + state + ";";
    return text;
}

inline void run_cluster(dim3 position) {
    const Launch& launch = machine.launch;
    const size_t bytes = static_cast<size_t>(launch.shared_bytes);
    const size_t slice = (16 + bytes + 255) / 128 * 128;  // 16: no more aligned than promised; room for ASan behind
    const size_t threads = static_cast<size_t>(launch.threads * launch.cluster);
    if (!sees_races || machine.next_thread + threads > options.raced_threads ||
        machine.next_byte + slice * launch.cluster > memory_bytes) {
        after(machine.end);
        machine.blocks.clear();
        machine.next_thread = machine.next_byte = 0;
    }
    machine.first_block = machine.blocks.size();
    machine.first_thread = machine.next_thread;
    for (int rank = 0; rank < launch.cluster; ++rank) {
        Block& block = machine.blocks.emplace_back();
        block.position = dim3(position.x + static_cast<unsigned>(rank), position.y, position.z);
        block.rank = rank;
        block.running = launch.threads;
        block.memory = machine.memory + machine.next_byte + 16;
        machine.next_byte += slice;
        if (!sees_addresses) std::memset(block.memory, 0xff, bytes);  // for blocks that come too early
        const int first = rank * launch.threads;
        block.block = {"block_barrier", first, launch.threads, 0, 0, {}, {}};
        block.cluster = {"cluster_barrier", 0, launch.threads * launch.cluster, 0, 0, {}, {}};
        block.warps.resize(static_cast<size_t>(launch.threads + 31) / 32);
        for (size_t warp = 0; warp < block.warps.size(); ++warp) {
            block.warps[warp].shuffle = {"shuffle_xor", first + static_cast<int>(warp) * 32, 32, 0, 0, {}, {}};
        }
        for (int index = 0; index < launch.threads; ++index) {
            if (machine.next_thread == machine.threads.size()) machine.threads.push_back(std::make_unique<Thread>());
            Thread& thread = *machine.threads[machine.next_thread++];
            if (!thread.top) prepare(thread, run_threads);  // or it waits in there for another thread to run
            thread.position = dim3(static_cast<unsigned>(index), 0, 0);
            thread.block = &block;
            thread.done = false;
            thread.barrier = nullptr;
            thread.phase = -1;
            thread.group = 0;
            make_ready(first + index);
        }
    }
    before(machine.begin);
    leave(machine.host);
    if (machine.error) std::rethrow_exception(machine.error);
    for (size_t index = machine.first_thread; index < machine.next_thread; ++index) {
        if (!machine.threads[index]->done) throw Failure(describe_deadlock());
    }
    for (size_t index = machine.first_block; !sees_addresses && index < machine.blocks.size(); ++index) {
        const std::byte* memory = machine.blocks[index].memory;
        if (std::all_of(memory, memory + bytes, [](std::byte byte) { return byte == std::byte{0xff}; })) continue;
        throw Failure("shared memory was written after its block had ended");
    }
}

// The threads of a failed cluster stay where they are; their fibers begin anew.
inline void give_up() {
    machine.ready.clear();
    poison(machine.memory, memory_bytes);
    for (size_t index = 0; index < machine.next_thread; ++index) {
        Thread& thread = *machine.threads[index];
        const bool waits = !thread.done && thread.barrier;
        join(thread, machine.host, waits);
        thread.copies.clear();
        if (waits) thread.top = nullptr;
    }
}

inline void launch(const Launch& shape, const std::function<void()>& kernel) {
    const Quiet quiet;
    const std::lock_guard guard(machine.lock);
    if (shape.shared_bytes > options.shared_limit) {
        throw Failure(std::to_string(shape.shared_bytes) + " bytes of shared memory, of the device's " +
                      std::to_string(options.shared_limit));
    }
    if (shape.threads < 1 || shape.threads > 1024) throw Failure("a block has 1 to 1024 threads");
    if (shape.cluster < 1 || shape.cluster > 16 || shape.grid.x % static_cast<unsigned>(shape.cluster)) {
        throw Failure("a cluster has 1 to 16 blocks, and the grid whole clusters");
    }
    if (!machine.memory) {
        machine.memory = static_cast<std::byte*>(map_memory(memory_bytes));
        poison(machine.memory, memory_bytes);
    }
    machine.launch = shape;
    machine.kernel = &kernel;
    machine.error = nullptr;
    machine.random.seed(options.seed);
    machine.blocks.clear();
    machine.next_thread = machine.next_byte = 0;
    gridDim = shape.grid;
    blockDim = dim3(static_cast<unsigned>(shape.threads));
    adopt(machine.host);
    const unsigned cluster = static_cast<unsigned>(shape.cluster), columns = shape.grid.x / cluster;
    std::vector<size_t> clusters(size_t{columns} * shape.grid.y * shape.grid.z);
    for (size_t index = 0; index < clusters.size(); ++index) clusters[index] = index;
    if (options.order == Order::reverse) std::reverse(clusters.begin(), clusters.end());
    if (options.order == Order::random) std::shuffle(clusters.begin(), clusters.end(), machine.random);
    for (size_t index : clusters) {
        const size_t row = index / columns;
        const unsigned column = static_cast<unsigned>(index % columns) * cluster;
        try {
            run_cluster({column, static_cast<unsigned>(row % shape.grid.y), static_cast<unsigned>(row / shape.grid.y)});
        } catch (...) {
            give_up();
            throw;
        }
    }
    after(machine.end);
}

}  // namespace fusedcam::cuda::emulator

#include "primitives.hpp"
#include "runtime.hpp"
