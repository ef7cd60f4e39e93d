// cam on CUDA: one launch where a cluster can hold a map, else two.
#include <algorithm>
#include <bit>

#include "../check.hpp"
#include "cam.cuh"
#include "drawing.hpp"
#include "volumes.hpp"

namespace fusedcam::cuda {
namespace {

constexpr int64_t most_workspace = int64_t{256} << 20;  // for several maps at once; a larger one gets what it needs
constexpr int64_t most_channels = int64_t{1} << 26;     // what the trees of sums have room for

struct Cluster {
    template <class Element, class T, int quad>
    static auto get() {
        return cam_cluster<Element, T, quad>;
    }
};
struct Partial {
    template <class Element, class T, int quad>
    static auto get() {
        return cam_partial<Element, T, quad>;
    }
};

// The kernel for the call's element type, for quads of pixels where their number is a multiple of four.
template <class Kernel, class T, int quad>
auto pick_element(DType dtype) {
    if constexpr (sizeof(T) == 8) {
        return Kernel::template get<double, double, quad>();
    } else {
        switch (dtype) {
            case DType::float16: return Kernel::template get<Float16, float, quad>();
            case DType::bfloat16: return Kernel::template get<BFloat16, float, quad>();
            default: return Kernel::template get<float, float, quad>();
        }
    }
}
template <class Kernel, class T>
auto pick(const CamCall& call) {
    const bool quads = call.activations.extent(2) * call.activations.extent(3) * call.activations.extent(4) % 4 == 0;
    return quads ? pick_element<Kernel, T, 4>(call.activations.dtype)
                 : pick_element<Kernel, T, 1>(call.activations.dtype);
}

template <class T>
class Cam {
  public:
    // `start` is the workspace; null to find out how much of it there has to be.
    Cam(const CamCall& call, const Device& device, void* start)
        : call_(call), device_(device), maps_(call.activations.extent(0) * call.gradients.extent(1)) {
        finish_.frame = {call.activations.extent(3), call.activations.extent(4), call.size.height, call.size.width};
        finish_.nan = call.options.nan;
        finish_.relu = call.options.relu;
        finish_.normalize = call.options.normalize;
        Pieces pieces(start);
        finish_.not_finite = call.options.nan == NanPolicy::raise ? pieces.take<int>(1) : nullptr;
        if (call.volumes() || !plan_cluster()) plan_passes(pieces);
        bytes_ = pieces.bytes();
    }

    int64_t bytes() const { return bytes_; }

    void run(const Queue& queue) {
        output_ = output_of<T>(call_.maps());
        if (cluster_)
            run_cluster(queue);
        else
            for (int64_t first = 0; first < maps_; first += together_) run_passes(queue, first);
    }

    const int* not_finite() const { return finish_.not_finite; }

  private:
    int rule() const { return rules::index_of(call_.options.method); }

    auto cluster_kernel() const { return pick<Cluster, T>(call_); }

    // Shared memory for the ring of tiles: what lets two blocks share a multiprocessor, beside all else that they hold.
    int64_t room() const { return std::max<int64_t>(24 * 1024, device_.shared_memory / 2 - 40 * 1024); }
    // What lets one block have all of it; `beside` is what a block holds beside the ring, at most.
    int64_t most_room(int64_t beside) const { return std::max(room(), device_.shared_memory - beside); }

    // As many blocks a map as keep the device busy twice over; false where a map does not fit into a cluster.
    bool plan_cluster() {
        const auto* kernel = reinterpret_cast<const void*>(cluster_kernel());
        int64_t wanted = 1;
        while (wanted < cluster_parts && maps_ * wanted * 2 <= 2 * device_.multiprocessors) wanted *= 2;
        // Twice, if the device cannot hold a cluster of that size.
        for (int64_t largest = cluster_parts; largest > 0;) {
            plan_ = plan_fold(call_, rule(), std::min(wanted, largest), room(), most_room(64 * 1024));
            const auto size = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(plan_.parts)));
            if (size > largest) return false;
            Carve carve(nullptr);
            ClusterSpace<T>(carve, plan_, finish_, size);
            largest = largest_cluster(kernel, device_, carve.bytes());
            if (size > largest) continue;
            cluster_ = static_cast<int>(size);
            shared_memory_ = carve.bytes();
            return true;
        }
        return false;
    }

    void plan_passes(Pieces& pieces) {
        const int64_t busy = 4 * device_.multiprocessors;
        plan_ = plan_fold(call_, rule(), std::max<int64_t>(1, busy / maps_), room(), most_room(12 * 1024));
        const Size own = size_of_channels(call_.activations);
        if (call_.volumes()) {
            volumes_ = plan_volumes(own, call_.size, finish_.normalize, maps_, device_);
            drawing_.range_tiles = drawing_.tiles = 1;
        } else {
            drawing_ = plan_drawing<T>(finish_.frame, finish_.normalize, maps_, device_);
        }
        Carve carve(nullptr);
        FoldSpace<T>(carve, plan_);
        shared_memory_ = carve.bytes();
        const int64_t sums = plan_.parts * plan_.pixels,
                      each = (sums + (drawing_.staged ? 0 : plan_.pixels)) * static_cast<int64_t>(sizeof(T));
        together_ = std::clamp<int64_t>(most_workspace / each, 1, maps_);
        together_ = std::min(together_, most_blocks / std::max({plan_.parts, drawing_.tiles, drawing_.range_tiles}));
        sums_ = pieces.take<T>(together_ * sums);
        if (drawing_.staged) return;
        small_ = pieces.take<T>(together_ * plan_.pixels);
        if (call_.volumes())
            ranges_ = pieces.take<Extremes<T>>(range_count<T>(volumes_, together_));
        else if (needs_ranges<T>(drawing_))
            ranges_ = pieces.take<Extremes<T>>(together_ * drawing_.range_tiles);
    }

    void run_cluster(const Queue& queue) {
        const int64_t together = most_blocks / cluster_;
        for (int64_t first = 0; first < maps_; first += together)
            launch(cluster_kernel(), device_, queue,
                   {std::min(together, maps_ - first) * cluster_, cluster_, shared_memory_}, plan_, finish_, output_,
                   first);
    }

    void run_passes(const Queue& queue, int64_t first) {
        const int64_t count = std::min(together_, maps_ - first);
        launch(pick<Partial, T>(call_), device_, queue, {count * plan_.parts, 1, shared_memory_}, plan_, sums_, first);
        if (drawing_.staged) {
            launch(cam_draw<T>, device_, queue, {count * drawing_.tiles, 1, draw_bytes<T>(drawing_)}, plan_, finish_,
                   drawing_, output_, sums_, first);
            return;
        }
        const int64_t blocks =
            std::min<int64_t>((count * plan_.pixels + threads - 1) / threads, 32 * device_.multiprocessors);
        launch(cam_finish<T>, device_, queue, {blocks}, plan_, finish_, sums_, small_, count);
        Shape shape;
        shape.append(count);
        if (call_.volumes()) shape.append(volumes_.from.depth);
        shape.append(finish_.frame.height);
        shape.append(finish_.frame.width);
        const ArrayView small = dense_view(small_, shape, sizeof(T) == 8 ? DType::float64 : DType::float32);
        if (call_.volumes())
            return draw_volumes<T>(volumes_, small, 0, output_.view, first, count, ranges_, device_, queue);
        draw_view<T>(small, 0, count, drawing_, ranges_, device_, queue, [&](const Drawing& drawing, const Grid& grid) {
            launch(resize_maps<T>, device_, queue, grid, drawing, small, int64_t{0}, output_, first);
        });
    }

    const CamCall& call_;
    const Device& device_;
    const int64_t maps_;
    FoldPlan plan_{};
    Finish finish_{};
    Drawing drawing_{};
    VolumeDrawing volumes_{};
    Output output_{};
    int cluster_ = 0;
    int64_t shared_memory_ = 0, together_ = 0, bytes_ = 0;
    T *sums_ = nullptr, *small_ = nullptr;
    Extremes<T>* ranges_ = nullptr;
};

template <class T>
void run(const CamCall& call, const Queue& queue) {
    const bool raise = call.options.nan == NanPolicy::raise;
    if (raise && capturing(queue))
        refuse_value(
            "cam: nan is 'raise', which waits for the device and so cannot be captured in a CUDA graph; "
            "accepted there: 'propagate', 'zero'");
    Cam<T> cam(call, device(queue.device), queue.workspace);
    const auto stream = static_cast<cudaStream_t>(queue.stream);
    if (raise) check(cudaMemsetAsync(const_cast<int*>(cam.not_finite()), 0, sizeof(int), stream), "clearing a flag");
    cam.run(queue);
    if (!raise) return;
    int found = 0;
    check(cudaMemcpyAsync(&found, cam.not_finite(), sizeof(int), cudaMemcpyDeviceToHost, stream), "reading a flag");
    check(cudaStreamSynchronize(stream), "waiting for the maps");
    if (found)
        refuse_value("cam: nan='raise' and the class activation maps hold NaN or infinity; nothing was returned");
}

}  // namespace

int64_t workspace(const CamCall& call, int index) {
    if (call.result.count() == 0) return 0;
    const OnDevice here(index);
    if (call.activations.dtype == DType::float64) return Cam<double>(call, device(index), nullptr).bytes();
    return Cam<float>(call, device(index), nullptr).bytes();
}

void cam(const CamCall& call, const Queue& queue) {
    if (call.result.count() == 0) return;
    if (call.activations.extent(1) > most_channels)
        refuse_value("cam: activations have ", call.activations.extent(1), " channels; on CUDA accepted are at most ",
                     most_channels);
    const OnDevice here(queue.device);
    if (call.activations.dtype == DType::float64)
        run<double>(call, queue);
    else
        run<float>(call, queue);
}

}  // namespace fusedcam::cuda
