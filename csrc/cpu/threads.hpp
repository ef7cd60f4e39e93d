// Work shared out over threads. The threads are those of the OpenMP runtime that is already in the process (torch's,
// as a rule): a second set beside them stalls both. Without a runtime everything runs on the caller's thread.
#pragma once

#include <cstdint>
#include <exception>
#include <mutex>
#include <string>
#include <type_traits>

namespace fusedcam::cpu {

// Threads a parallel call would use now: the runtime's setting, which torch.set_num_threads and OMP_NUM_THREADS
// change, but no more than the limit and than the processors that the process's control group may keep busy; 1 without
// a runtime and in a forked child, whose runtime has lost its workers.
int thread_count();
// The runtime in use, for people: the file it was loaded from, or why there is none.
std::string thread_runtime();

namespace detail {
using Task = void (*)(void* context, int64_t begin, int64_t end);
void run(int64_t count, Task task, void* context);
// How many processors' time there is in a control group's period, by a file with quota and period or by one for each; 0
// for as many as there are.
int processors_of(const std::string& quota_file, const std::string& period_file);
// The least of the groups that a process is in, as `groups_file` lists them, and of those above; 0 without a limit.
int group_processors(const std::string& groups_file, const std::string& root);
}  // namespace detail

// Calls body(begin, end) on contiguous parts of [0, count), one part a thread. The first exception is thrown again
// here.
template <class Body>
void parallel_ranges(int64_t count, Body&& body) {
    struct Context {
        std::remove_reference_t<Body>& body;
        std::exception_ptr error;
        std::mutex lock;
    } context{body, nullptr, {}};
    detail::run(
        count,
        [](void* pointer, int64_t begin, int64_t end) {
            auto& shared = *static_cast<Context*>(pointer);
            try {
                shared.body(begin, end);
            } catch (...) {
                const std::lock_guard guard(shared.lock);
                if (!shared.error) shared.error = std::current_exception();
            }
        },
        &context);
    if (context.error) std::rethrow_exception(context.error);
}

}  // namespace fusedcam::cpu
