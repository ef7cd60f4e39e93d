// Finds the process's OpenMP runtime when it is needed and calls its (stable) entry points by name. Linking one would
// fix the choice at import: with a renamed copy in torch's wheel the process would end up with two.
#include "threads.hpp"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <mutex>

#include "../ops.hpp"

#if defined(FUSEDCAM_STD_THREADS)
#include "std_threads.hpp"  // of tests/cpp
#endif

namespace fusedcam::cpu {
namespace {

struct Runtime {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
    int (*thread_num)() = nullptr;
    int (*num_threads)() = nullptr;
    int (*max_threads)() = nullptr;
    int (*in_parallel)() = nullptr;
    int (*torch_threads)() = nullptr;  // at::get_num_threads, where torch's own runtime is shared
    std::string path = "none found; calls run on one thread";
};

template <class Function>
bool bind(void* library, const char* symbol, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, symbol));
    return function != nullptr;
}

bool bind_all(void* library, Runtime& runtime) {
    return bind(library, "GOMP_parallel", runtime.parallel) &&
           bind(library, "omp_get_thread_num", runtime.thread_num) &&
           bind(library, "omp_get_num_threads", runtime.num_threads) &&
           bind(library, "omp_get_max_threads", runtime.max_threads) &&
           bind(library, "omp_in_parallel", runtime.in_parallel);
}

// Copies of the runtime travel in wheels under changed names (libgomp-<hash>.so.1), so the name's beginning decides.
bool is_runtime(const char* path) {
    const char* slash = std::strrchr(path, '/');
    const char* file = slash ? slash + 1 : path;
    return !std::strncmp(file, "libgomp", 7) || !std::strncmp(file, "libiomp5", 8) || !std::strncmp(file, "libomp", 6);
}

// Two copies may be loaded: the one in torch's folder, whose threads torch keeps spinning, is the one to share.
int note_runtime(dl_phdr_info* info, size_t, void* found) {
    if (!info->dlpi_name || !is_runtime(info->dlpi_name)) return 0;
    std::string& path = *static_cast<std::string*>(found);
    const bool torch = std::strstr(info->dlpi_name, "/torch");
    if (path.empty() || torch) path = info->dlpi_name;
    return torch;
}

int note_torch(dl_phdr_info* info, size_t, void* found) {
    const char* slash = info->dlpi_name ? std::strrchr(info->dlpi_name, '/') : nullptr;
    if (!slash || std::strcmp(slash, "/libtorch_cpu.so")) return 0;
    *static_cast<std::string*>(found) = info->dlpi_name;
    return 1;
}

// Null without torch, or where it has no such function.
int (*find_torch_threads())() {
    std::string path;
    dl_iterate_phdr(note_torch, &path);
    void* library = path.empty() ? nullptr : dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    int (*function)() = nullptr;
    if (library) bind(library, "_ZN2at15get_num_threadsEv", function);
    return function;
}

std::unique_ptr<Runtime> find_runtime() {
#if defined(FUSEDCAM_STD_THREADS)
    return std::make_unique<Runtime>(Runtime{std_threads::parallel, std_threads::thread_num, std_threads::num_threads,
                                             std_threads::num_threads, std_threads::in_parallel, nullptr,
                                             "std::thread"});
#endif
    std::string loaded;
    dl_iterate_phdr(note_runtime, &loaded);
    for (const char* candidate : {loaded.c_str(), "libgomp.so.1", "libomp.so.5"}) {
        if (!*candidate) continue;
        Runtime runtime;
        void* library = dlopen(candidate, RTLD_LAZY | RTLD_LOCAL);
        if (!library || !bind_all(library, runtime)) continue;
        runtime.path = candidate;
        runtime.torch_threads = find_torch_threads();
        return std::make_unique<Runtime>(std::move(runtime));
    }
    return std::make_unique<Runtime>();
}

int count_loads(dl_phdr_info* info, size_t, void* count) {
    *static_cast<unsigned long long*>(count) = info->dlpi_adds;
    return 1;
}

// Looked for again whenever a library has been loaded, since torch may be imported after the first call. A runtime that
// has been in use is never freed: another thread may be inside it.
const Runtime& runtime() {
    static std::mutex lock;
    static const Runtime* current = nullptr;
    static unsigned long long seen = 0;
    unsigned long long loads = 0;
    dl_iterate_phdr(count_loads, &loads);
    const std::lock_guard guard(lock);
    if (!current || loads != seen) {
        std::unique_ptr<Runtime> found = find_runtime();
        const bool other = !current || found->path != current->path || found->torch_threads != current->torch_threads;
        if (other) current = found.release();
        dl_iterate_phdr(count_loads, &seen);
    }
    return *current;
}

std::atomic<bool> forked{false};

[[maybe_unused]] const int watching_forks =
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });

std::atomic<int> own_limit{0};

// The control group's limit, which containers and job schedulers set: the runtime counts processors, of which each then
// gets a part.
int group_limit() {
    static const int limit = detail::group_processors("/proc/self/cgroup", "/sys/fs/cgroup");
    return limit;
}

int thread_limit() {
    int least = std::numeric_limits<int>::max();
    for (const int limit : {own_limit.load(std::memory_order_relaxed), group_limit()})
        if (limit > 0) least = std::min(least, limit);
    return least;
}

struct Share {
    const Runtime& runtime;
    int limit;  // read once, or the parts would not fit together when it is changed meanwhile
    int64_t count;
    detail::Task task;
    void* context;
};

void run_share(void* pointer) {
    const Share& share = *static_cast<Share*>(pointer);
    // The runtime's whole team comes, since another size would make it start and end threads; those past the limit go.
    const int64_t thread = share.runtime.thread_num(), threads = std::min(share.runtime.num_threads(), share.limit);
    if (thread >= threads) return;
    const int64_t each = share.count / threads, rest = share.count % threads;
    const int64_t begin = thread * each + std::min(thread, rest);
    const int64_t end = begin + each + (thread < rest ? 1 : 0);
    if (begin < end) share.task(share.context, begin, end);
}

int count_threads(const Runtime& runtime) {
    if (!runtime.parallel || runtime.in_parallel()) return 1;
    // The runtime keeps its setting for each thread apart, and torch brings a new thread's up to date when it is asked.
    const int threads = runtime.torch_threads ? runtime.torch_threads() : runtime.max_threads();
    return std::max(1, std::min(threads, thread_limit()));
}

}  // namespace

// A forked child has lost the runtime's workers, and a lock may have been held when it was forked.
int thread_count() { return forked.load(std::memory_order_relaxed) ? 1 : count_threads(runtime()); }

int detail::processors_of(const std::string& quota_file, const std::string& period_file) {
    std::ifstream quotas(quota_file);
    int64_t quota = 0, period = 0;
    if (!(quotas >> quota)) return 0;  // not there, or "max"
    if (period_file.empty())
        quotas >> period;
    else
        std::ifstream(period_file) >> period;
    return quota > 0 && period > 0 ? static_cast<int>(std::min<int64_t>((quota + period - 1) / period, 1 << 20)) : 0;
}

// A line is hierarchy:controllers:path. The second version of control groups has one, without controllers. The groups
// above limit as well; in a container the path may be the host's, and then the root is the container's own.
int detail::group_processors(const std::string& groups_file, const std::string& root) {
    int least = 0;
    const auto found = [&](int processors) {
        if (processors > 0) least = least > 0 ? std::min(least, processors) : processors;
    };
    std::ifstream groups(groups_file);
    for (std::string line; std::getline(groups, line);) {
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
        const bool unified = controllers == ",,";
        if (!unified && controllers.find(",cpu,") == std::string::npos) continue;
        for (const char* mount : {"", "/cpu", "/cpu,cpuacct"}) {
            if (unified != !*mount) continue;
            for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
                if (path == "/") path.clear();
                const std::string folder = root + mount + path;
                found(unified ? processors_of(folder + "/cpu.max", "")
                              : processors_of(folder + "/cpu.cfs_quota_us", folder + "/cpu.cfs_period_us"));
                if (path.find('/') == std::string::npos) break;
            }
        }
    }
    return least;
}

void limit_threads(int count) { own_limit.store(count, std::memory_order_relaxed); }

std::string thread_runtime() {
    return forked.load(std::memory_order_relaxed) ? "not used in a forked process" : runtime().path;
}

void detail::run(int64_t count, Task task, void* context) {
    if (count <= 1 || forked.load(std::memory_order_relaxed)) {
        if (count > 0) task(context, 0, count);
        return;
    }
    const Runtime& shared = runtime();
    if (count_threads(shared) == 1) return task(context, 0, count);
    // 0 threads asked for: the runtime's own setting. An explicit number hangs in DataLoader's forked workers.
    Share share{shared, thread_limit(), count, task, context};
    shared.parallel(run_share, &share, 0, 0);
}

}  // namespace fusedcam::cpu
