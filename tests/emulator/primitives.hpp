// What kernels call, as in the part of intrinsics.cuh that is compiled for devices.
#pragma once

#include "emulator.hpp"

namespace fusedcam::cuda::emulator {

[[noreturn]] inline void fail(const std::string& what, const Site& site) {
    throw Failure(what + " (" + name_of(self()) + ", " + name_of(site) + ")");
}

// CUDA lets every thread of a barrier come from the same call only; another block of the cluster may differ.
inline void wait(Barrier& barrier, bool orders, bool one_site, const Site& site) {
    Thread& me = self();
    if (barrier.arrived == 0) barrier.site = site;
    const bool same = barrier.site.line() == site.line() && barrier.site.column() == site.column();
    if (one_site && !same) {
        fail(std::string("divergent ") + barrier.name + ": other threads wait at " + name_of(barrier.site), site);
    }
    me.barrier = &barrier;
    me.site = site;
    char& edge = barrier.edges[barrier.phase];
    if (orders) before(edge);
    if (++barrier.arrived == barrier.count) {
        barrier.arrived = 0;
        barrier.phase ^= 1;
        for (int index = 0; index < barrier.count; ++index) make_ready(barrier.first + index);
    }
    leave(me);
    if (orders) after(edge);
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
    emulator::wait(emulator::machine.blocks[emulator::machine.first_block].cluster, true, false, site);
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

inline void copy_async(void* to, const void* from, emulator::Site site = emulator::Site::current()) {
    {
        const emulator::Quiet quiet;
        emulator::Thread& me = emulator::self();
        if (reinterpret_cast<uintptr_t>(to) % 16) emulator::fail("copy_async to a misaligned address", site);
        if (reinterpret_cast<uintptr_t>(from) % 16) emulator::fail("copy_async from a misaligned address", site);
        if (!emulator::in_shared(to, *me.block)) emulator::fail("copy_async to no shared memory of its block", site);
        me.copies.push_back({to, from, me.group});
    }
    if (!emulator::options.copies_late) std::memcpy(to, from, 16);
}
inline void commit_copies() {
    const emulator::Quiet quiet;
    ++emulator::self().group;
}
inline void wait_copies(int newer, emulator::Site site = emulator::Site::current()) {
    emulator::Thread& me = emulator::self();
    if (newer < 0 || newer > 2) emulator::fail("wait_copies leaves 0 to 2 groups", site);
    size_t arrived = 0;
    for (; arrived < me.copies.size() && me.copies[arrived].group < me.group - newer; ++arrived) {
        if (emulator::options.copies_late) std::memcpy(me.copies[arrived].to, me.copies[arrived].from, 16);
    }
    me.copies.erase(me.copies.begin(), me.copies.begin() + static_cast<std::ptrdiff_t>(arrived));
}

}  // namespace fusedcam::cuda
