// Fibers: stacks that one thread of the process runs in turn. ASan is told which stack is in use; for TSan every fiber
// is a thread of its own, and only the edges that are drawn here order what two of them do.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <stdexcept>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#endif

// Saves the registers that a call must keep and the stack pointer, then loads those of another stack. swapcontext would
// do it as well, but with a system call each time.
#if defined(__x86_64__)
asm(R"(.pushsection .text.fusedcam_emulator_switch,"axG",@progbits,fusedcam_emulator_switch,comdat
.weak fusedcam_emulator_switch
.type fusedcam_emulator_switch,@function
fusedcam_emulator_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
.size fusedcam_emulator_switch,.-fusedcam_emulator_switch
.popsection)");
#elif defined(__aarch64__)
asm(R"(.pushsection .text.fusedcam_emulator_switch,"axG",@progbits,fusedcam_emulator_switch,comdat
.weak fusedcam_emulator_switch
.type fusedcam_emulator_switch,@function
fusedcam_emulator_switch:
    sub sp, sp, #160
    stp x19, x20, [sp]; stp x21, x22, [sp, #16]; stp x23, x24, [sp, #32]; stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]; stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]; stp d10, d11, [sp, #112]; stp d12, d13, [sp, #128]; stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]; ldp x21, x22, [sp, #16]; ldp x23, x24, [sp, #32]; ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]; ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]; ldp d10, d11, [sp, #112]; ldp d12, d13, [sp, #128]; ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size fusedcam_emulator_switch,.-fusedcam_emulator_switch
.popsection)");
#else
#error "stacks are switched on x86-64 and aarch64 only"
#endif
extern "C" void fusedcam_emulator_switch(void** from, void* to);

namespace fusedcam::cuda::emulator {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool sees_addresses = true;
inline void poison(const void* start, size_t bytes) { __asan_poison_memory_region(start, bytes); }
inline void unpoison(const void* start, size_t bytes) { __asan_unpoison_memory_region(start, bytes); }
#else
constexpr bool sees_addresses = false;
inline void poison(const void*, size_t) {}
inline void unpoison(const void*, size_t) {}
#endif

// Quiet hides the emulator's own state from TSan. What precedes before() happens before what follows after().
#if defined(__SANITIZE_THREAD__)
constexpr bool sees_races = true;
struct Quiet {
    Quiet() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__), AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
    ~Quiet() { AnnotateIgnoreWritesEnd(__FILE__, __LINE__), AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
};
inline void before(char& edge) { __tsan_release(&edge); }
inline void after(char& edge) { __tsan_acquire(&edge); }
#else
constexpr bool sees_races = false;
struct Quiet {
    Quiet() {}
};
inline void before(char&) {}
inline void after(char&) {}
#endif

struct Fiber {
    void* top = nullptr;  // of the stack, with the saved registers; null: the fiber has not been prepared
    std::byte* stack = nullptr;
    size_t bytes = 0;
    const void* bounds = nullptr;  // as ASan knows them
    void* fake_stack = nullptr;
    void* tsan = nullptr;
};
inline Fiber* left = nullptr;  // the one that was running before this one

inline void* map_memory(size_t bytes) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (pages == MAP_FAILED) throw std::runtime_error("no memory for the emulator");
    return pages;
}

// The first thing that a fiber does, and what it does when it goes on.
inline void arrive_on(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &left->bounds, &left->bytes);
#else
    (void)fiber;
#endif
}

inline void switch_fiber(Fiber& from, Fiber& to) {
    left = &from;
    void* top = to.top;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&from.fake_stack, to.bounds, to.bytes);
#elif defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
    fusedcam_emulator_switch(&from.top, top);
    arrive_on(from);
}

// The fiber of the process's own thread.
inline void adopt([[maybe_unused]] Fiber& fiber) {
#if defined(__SANITIZE_THREAD__)
    fiber.tsan = __tsan_get_current_fiber();
#endif
}

// Lets the fiber begin with body, which never returns, when it is switched to.
inline void prepare(Fiber& fiber, void (*body)()) {
    constexpr size_t guard = 64 << 10;  // a multiple of any page
    if (!fiber.stack) {
        fiber.bytes = sees_addresses || sees_races ? 256 << 10 : 64 << 10;  // sanitizers print their reports from here
        fiber.stack = static_cast<std::byte*>(map_memory(guard + fiber.bytes)) + guard;
        fiber.bounds = fiber.stack;
        if (mprotect(fiber.stack - guard, guard, PROT_NONE)) throw std::runtime_error("no guard below a stack");
    }
    unpoison(fiber.stack, fiber.bytes);
    void** top = reinterpret_cast<void**>(fiber.stack + fiber.bytes);
#if defined(__x86_64__)
    *--top = nullptr;  // the body's return address, which aligns the stack as a call does
    *--top = reinterpret_cast<void*>(body);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
#else
    for (int saved = 0; saved < 20; ++saved) *--top = nullptr;
    top[11] = reinterpret_cast<void*>(body);
#endif
    fiber.top = top;
    fiber.fake_stack = nullptr;
#if defined(__SANITIZE_THREAD__)
    if (!fiber.tsan) fiber.tsan = __tsan_create_fiber(0);  // takes half a millisecond
#endif
}

// Orders all that the fiber has done before what the host does next. If it is given up, it leaves the Quiet in which it
// waits; TSan would go on ignoring it.
inline void join([[maybe_unused]] Fiber& fiber, [[maybe_unused]] Fiber& host, [[maybe_unused]] bool give_up) {
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(fiber.tsan, __tsan_switch_to_fiber_no_sync);
    if (give_up) AnnotateIgnoreWritesEnd(__FILE__, __LINE__), AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    __tsan_switch_to_fiber(host.tsan, 0);
#endif
}

}  // namespace fusedcam::cuda::emulator
