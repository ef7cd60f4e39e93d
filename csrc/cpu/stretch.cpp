// A picture as pytorch-grad-cam draws it: blended in floats, then stretched so that its brightest value is white.
#include <algorithm>
#include <memory>
#include <mutex>

#include "../ops.hpp"
#include "kernels.hpp"
#include "threads.hpp"
#include "workspace.hpp"

namespace fusedcam::cpu {

template <class T>
Stretched overlay_stretched(const StretchCall<T>& call) {
    const int64_t count = 3 * call.width;
    const auto size = static_cast<size_t>(call.height * count + 1);  // one past the end, which the kernels may write
    const std::unique_ptr<T[]> blended = std::make_unique_for_overwrite<T[]>(size);
    const DrawKernels<T>& extremes = kernels().draw<T>();
    const StretchKernels<T>& stretch = kernels().stretch<T>();
    Extremes<T> image, picture;
    std::mutex lock;
    // A row's last pixel writes over the next row's first value, which another thread may have written already.
    const auto blend = [&](int64_t begin, int64_t end) {
        Workspace space(Workspace::bytes<T>(count + 1));
        T* row = space.take<T>(count + 1);
        Extremes<T> of_image, of_picture;
        for (int64_t y = begin; y < end; ++y) {
            const T* from = call.image + y * count;
            stretch.lay(call.index + y * call.width, call.width, call.colours, from, call.share, row);
            extremes.extremes(from, from, T(0), count, of_image);
            extremes.extremes(row, row, T(0), count, of_picture);
            std::copy_n(row, count, blended.get() + y * count);
        }
        const std::lock_guard guard(lock);
        image.add(of_image);
        picture.add(of_picture);
    };
    const auto finish = [&](int64_t begin, int64_t end) {
        stretch.quantize(blended.get() + begin * count, (end - begin) * count, picture.high, call.out + begin * count);
    };
    const bool alone = static_cast<double>(size * (2 * sizeof(T) + 1)) < serial_below;
    const auto shared = [&](const auto& body) { alone ? body(0, call.height) : parallel_ranges(call.height, body); };
    shared(blend);
    shared(finish);
    return {static_cast<double>(image.high), static_cast<double>(picture.high)};
}

template Stretched overlay_stretched(const StretchCall<float>&);
template Stretched overlay_stretched(const StretchCall<double>&);

}  // namespace fusedcam::cpu
