// A team of std::threads in place of the OpenMP runtime, which ThreadSanitizer cannot see into. threads.cpp includes it
// where FUSEDCAM_STD_THREADS is defined; the loops that are shared out are the same.
#pragma once

#include <thread>
#include <vector>

namespace std_threads {

constexpr int team = 4;
inline thread_local int own_number = 0;
inline thread_local bool inside = false;

inline void parallel(void (*function)(void*), void* data, unsigned, unsigned) {
    std::vector<std::thread> threads;
    for (int number = 0; number < team; ++number)
        threads.emplace_back([=] {
            own_number = number;
            inside = true;
            function(data);
        });
    for (std::thread& thread : threads) thread.join();
}
inline int thread_num() { return own_number; }
inline int num_threads() { return team; }
inline int in_parallel() { return inside; }

}  // namespace std_threads
