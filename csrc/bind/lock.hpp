// Python's lock given back while kernels run.
#pragma once

#include <Python.h>
#include <cxxabi.h>
#include <unistd.h>

namespace fusedcam::bind {

class WithoutLock {
  public:
    explicit WithoutLock(bool release) : state_(release ? PyEval_SaveThread() : nullptr) {}
    // At the interpreter's end CPython before 3.14 ends a thread that asks for the lock by unwinding its stack, which
    // would run destructors that need the lock, and abort in this one. The thread stays here instead, as from 3.14 on.
    ~WithoutLock() {
        if (!state_) return;
        try {
            PyEval_RestoreThread(state_);
        } catch (const abi::__forced_unwind&) {
            for (;;) pause();
        }
    }
    WithoutLock(const WithoutLock&) = delete;
    WithoutLock& operator=(const WithoutLock&) = delete;

  private:
    PyThreadState* state_;
};

}  // namespace fusedcam::bind
