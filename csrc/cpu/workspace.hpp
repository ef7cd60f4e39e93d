// Scratch memory of one call or one thread: cut into aligned pieces, taken from the stack while it is small.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace fusedcam::cpu {

class Workspace {
  public:
    explicit Workspace(size_t bytes) {
        if (bytes > sizeof(inline_)) {
            heap_.reset(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{alignment})));
            next_ = heap_.get();
        }
    }
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    // Bytes that `count` elements take, for the constructor's sum.
    template <class T>
    static size_t bytes(int64_t count) {
        return (static_cast<size_t>(count) * sizeof(T) + alignment - 1) / alignment * alignment;
    }

    template <class T>
    T* take(int64_t count) {
        T* piece = reinterpret_cast<T*>(next_);
        next_ += bytes<T>(count);
        return piece;
    }

    // All pieces are given back.
    void reset() { next_ = heap_ ? heap_.get() : inline_; }

  private:
    static constexpr size_t alignment = 64;
    struct Free {
        void operator()(std::byte* memory) const { ::operator delete(memory, std::align_val_t{alignment}); }
    };

    alignas(alignment) std::byte inline_[4096];
    std::unique_ptr<std::byte, Free> heap_;
    std::byte* next_ = inline_;
};

}  // namespace fusedcam::cpu
