// Three calls that never change, for test_instructions.py to count: fixed_calls NAME TIMES.
#include <cstdlib>
#include <cstring>

#include "compare.hpp"

using namespace fusedcam;
using namespace test;

namespace {

int cam_of(const Shape& shape, DType dtype, int times) {
    Shape gradients = shape;
    gradients.extent[gradients.rank++] = 0;
    for (int axis = gradients.rank - 1; axis > 1; --axis) gradients.extent[axis] = shape.extent[axis - 1];
    gradients.extent[1] = 1;
    Array a(shape, dtype, false), g(gradients, dtype, false);
    a.fill_normal();
    g.fill_normal();
    CamOptions options;
    options.size = Size{224, 224};
    CamCall call = plan_cam(a.view(), g.view(), CamSource::gradients, options);
    Array out(call.result, result_dtype(dtype));
    call.out = out.view();
    for (int i = 0; i < times; ++i) cpu::cam(call);
    return out.get(0) <= 1 ? 0 : 1;
}

int overlay(int times) {
    uint8_t palette[256][3];
    for (int i = 0; i < 256; ++i) std::memset(palette[i], i, 3);
    Array image(shape_of({2, 224, 224, 3}), DType::uint8), heatmap(shape_of({2, 7, 7}), DType::float32);
    heatmap.fill_normal();
    OverlayCall call = plan_overlay(image.view(), heatmap.view(), palette, 0.5, Normalize::minmax);
    Array out(call.result, DType::uint8);
    call.out = out.view();
    for (int i = 0; i < times; ++i) cpu::overlay(call);
    return 0;
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 3) return 2;
    const std::string name = arguments[1];
    const int times = std::atoi(arguments[2]);
    if (name == "cam_7x7") return cam_of(shape_of({1, 2048, 7, 7}), DType::float32, times);
    if (name == "cam_28x28_bfloat16") return cam_of(shape_of({2, 256, 28, 28}), DType::bfloat16, times);
    if (name == "overlay") return overlay(times);
    return 2;
}
