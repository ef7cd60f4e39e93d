// What kernels call, as in the part of intrinsics.cuh that is compiled for devices.
#pragma once

#include <atomic>

#include "emulator.hpp"

namespace fusedcam::cuda::emulator {

[[noreturn]] inline void fail(const std::string& what, const Site& site) {
    throw Failure(what + " (" + name_of(self()) + ", " + name_of(site) + ")");
}

// Returns the barrier's phase, for `await`. CUDA lets every thread of a barrier come from the same call only; another
// block of the cluster may differ.
inline int arrive(Barrier& barrier, bool orders, bool one_site, const Site& site) {
    if (barrier.arrived == 0) barrier.site = site;
    const bool same = barrier.site.line() == site.line() && barrier.site.column() == site.column();
    if (one_site && !same) {
        fail(std::string("divergent ") + barrier.name + ": other threads wait at " + name_of(barrier.site), site);
    }
    const int phase = barrier.phase;
    if (orders) before(barrier.edges[phase]);
    if (++barrier.arrived < barrier.count) return phase;
    barrier.arrived = 0;
    barrier.phase ^= 1;
    for (int index = barrier.first; index < barrier.first + barrier.count; ++index) {
        const Thread& thread = *machine.threads[machine.first_thread + static_cast<size_t>(index)];
        if (thread.barrier == &barrier) make_ready(index);
    }
    return phase;
}
// Even where nobody is missing any more another thread may go on first.
inline void await(Barrier& barrier, int phase, bool orders, const Site& site) {
    Thread& me = self();
    me.barrier = &barrier;
    me.site = site;
    if (barrier.phase != phase) make_ready(me.block->rank * machine.launch.threads + static_cast<int>(me.position.x));
    leave(me);
    me.barrier = nullptr;
    if (orders) after(barrier.edges[phase]);
}
inline void wait(Barrier& barrier, bool orders, bool one_site, const Site& site) {
    await(barrier, arrive(barrier, orders, one_site, site), orders, site);
}

// Called by every thread of the block, so only the first call counts: what has been written since is to be found.
inline void fence(std::byte* end) {
    if (!machine.current) return;
    const Quiet quiet;
    Block& block = *machine.current->block;
    if (std::find(block.fences.begin(), block.fences.end(), end) != block.fences.end()) return;
    if (end < block.memory || end + fence_bytes > block.memory + machine.launch.shared_bytes) {
        throw Failure("a piece of shared memory ends at byte " + std::to_string(end - block.memory) + ", of " +
                      std::to_string(machine.launch.shared_bytes) + " that the kernel was launched with");
    }
    block.fences.push_back(end);
    std::memcpy(end, &fence_pattern, fence_bytes);
    poison(end, fence_bytes);
}

inline bool in_shared(const void* pointer, const Block& block) {
    const std::byte* byte = static_cast<const std::byte*>(pointer);
    return byte >= block.memory && byte < block.memory + machine.launch.shared_bytes;
}

inline void need_clusters(const Site& site) {
    if (!machine.launch.has_clusters) fail("the kernel was compiled for devices without clusters", site);
}

}  // namespace fusedcam::cuda::emulator

namespace fusedcam::cuda {

inline int thread() { return static_cast<int>(threadIdx.x); }
inline int64_t block_x() { return blockIdx.x; }
inline int64_t block_y() { return blockIdx.y; }
inline int64_t blocks_x() { return gridDim.x; }

inline std::byte* shared_memory() {
    const emulator::Quiet quiet;
    return emulator::self().block->memory;
}

inline void block_barrier(emulator::Site site = emulator::Site::current()) {
    const emulator::Quiet quiet;
    emulator::wait(emulator::self().block->block, true, true, site);
}

template <class T>
T shuffle_xor(T value, int lanes, emulator::Site site = emulator::Site::current()) {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "what __shfl_xor_sync takes");
    const emulator::Quiet quiet;
    if (lanes < 0 || lanes > 31) emulator::fail("shuffle_xor with lanes " + std::to_string(lanes), site);
    const size_t lane = threadIdx.x % 32;
    emulator::Warp& warp = emulator::self().block->warps[threadIdx.x / 32];
    uint64_t* values = warp.values[warp.shuffle.phase];
    std::memcpy(&values[lane], &value, sizeof(T));
    emulator::wait(warp.shuffle, emulator::options.shuffles_order, true, site);
    std::memcpy(&value, &values[lane ^ static_cast<size_t>(lanes)], sizeof(T));
    return value;
}

inline int cluster_rank(emulator::Site site = emulator::Site::current()) {
    const emulator::Quiet quiet;
    emulator::need_clusters(site);
    return emulator::self().block->rank;
}
inline int cluster_size(emulator::Site site = emulator::Site::current()) {
    const emulator::Quiet quiet;
    emulator::need_clusters(site);
    return emulator::machine.launch.cluster;
}
inline void cluster_barrier(emulator::Site site = emulator::Site::current()) {
    const emulator::Quiet quiet;
    emulator::need_clusters(site);
    if (emulator::self().phase >= 0) emulator::fail("cluster_barrier after cluster_arrive", site);
    emulator::wait(emulator::machine.blocks[emulator::machine.first_block].cluster, true, false, site);
}

inline void cluster_arrive(emulator::Site site = emulator::Site::current()) {
    const emulator::Quiet quiet;
    emulator::need_clusters(site);
    int& phase = emulator::self().phase;
    if (phase >= 0) emulator::fail("cluster_arrive twice", site);
    phase = emulator::arrive(emulator::machine.blocks[emulator::machine.first_block].cluster, true, false, site);
}
inline void cluster_wait(emulator::Site site = emulator::Site::current()) {
    const emulator::Quiet quiet;
    emulator::need_clusters(site);
    const int phase = std::exchange(emulator::self().phase, -1);
    if (phase < 0) emulator::fail("cluster_wait without cluster_arrive", site);
    emulator::await(emulator::machine.blocks[emulator::machine.first_block].cluster, phase, true, site);
}

template <class T>
T* in_block(T* piece, int rank, emulator::Site site = emulator::Site::current()) {
    const emulator::Quiet quiet;
    emulator::need_clusters(site);
    const emulator::Block& own = *emulator::self().block;
    if (!emulator::in_shared(piece, own)) emulator::fail("in_block of a pointer outside its shared memory", site);
    if (rank < 0 || rank >= emulator::machine.launch.cluster) emulator::fail("in_block of another cluster", site);
    const emulator::Block& other = emulator::machine.blocks[emulator::machine.first_block + static_cast<size_t>(rank)];
    if (other.running == 0) emulator::fail("in_block of a block that has ended", site);
    return reinterpret_cast<T*>(other.memory + (reinterpret_cast<std::byte*>(piece) - own.memory));
}

template <class T>
void store_16(T* to, const T* values, emulator::Site site = emulator::Site::current()) {
    if (reinterpret_cast<uintptr_t>(to) % 16) emulator::fail("store_16 to a misaligned address", site);
    std::memcpy(to, values, 16);
}

inline void set_flag(int* flag) { std::atomic_ref(*flag).store(1, std::memory_order_relaxed); }

template <int bytes>
void copy_async(void* to, const void* from, emulator::Site site = emulator::Site::current()) {
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "what __pipeline_memcpy_async takes");
    {
        const emulator::Quiet quiet;
        emulator::Thread& me = emulator::self();
        if (reinterpret_cast<uintptr_t>(to) % bytes) emulator::fail("copy_async to a misaligned address", site);
        if (reinterpret_cast<uintptr_t>(from) % bytes) emulator::fail("copy_async from a misaligned address", site);
        if (!emulator::in_shared(to, *me.block)) emulator::fail("copy_async to no shared memory of its block", site);
        me.copies.push_back({to, from, bytes, me.group});
    }
    if (!emulator::options.copies_late) std::memcpy(to, from, bytes);
}
inline void commit_copies() {
    const emulator::Quiet quiet;
    ++emulator::self().group;
}
template <int newer>
void wait_copies() {
    static_assert(newer >= 0 && newer <= 8);
    emulator::Thread& me = emulator::self();
    size_t arrived = 0;
    for (; arrived < me.copies.size() && me.copies[arrived].group < me.group - newer; ++arrived) {
        const emulator::Copy& copy = me.copies[arrived];
        if (emulator::options.copies_late) std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
    }
    me.copies.erase(me.copies.begin(), me.copies.begin() + static_cast<std::ptrdiff_t>(arrived));
}

}  // namespace fusedcam::cuda
