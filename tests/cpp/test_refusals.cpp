// What the plans refuse: nothing a kernel could not handle gets past them.
#include "reference.hpp"

using namespace fusedcam;
using test::Array;
using test::refusal;
using test::shape_of;

namespace {

bool refused(const ArrayView& activations, const ArrayView& second, CamSource source, const char* part,
             CamOptions options = {}) {
    const std::string message = refusal([&] { plan_cam(activations, second, source, options); });
    if (message.find(part) == std::string::npos) std::printf("message: '%s'\n", message.c_str());
    return message.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE(cam_refuses_what_does_not_fit) {
    const Array a(shape_of({2, 3, 4, 5}), DType::float32), half(shape_of({2, 3, 4, 5}), DType::float16),
        other(shape_of({2, 3, 5, 4}), DType::float32), flat(shape_of({3, 4}), DType::float32),
        bytes(shape_of({2, 3, 4, 5}), DType::uint8), none(shape_of({2, 0, 4, 5}), DType::float32),
        empty(shape_of({2, 3, 0, 5}), DType::float32), row(shape_of({2, 4}), DType::float32);
    CHECK(refused(a.view(), half.view(), CamSource::gradients,
                  "dtype of activations is float32 but that of gradients is float16"));
    CHECK(refused(a.view(), other.view(), CamSource::gradients, "gradients have shape (2, 3, 5, 4)"));
    CHECK(refused(a.view(), row.view(), CamSource::weights, "weights have shape (2, 4)"));
    CHECK(refused(flat.view(), flat.view(), CamSource::gradients, "activations have shape (3, 4)"));
    CHECK(refused(bytes.view(), bytes.view(), CamSource::gradients, "dtype of activations is uint8"));
    CHECK(refused(none.view(), none.view(), CamSource::gradients, "no channels"));
    CHECK(refused(empty.view(), empty.view(), CamSource::gradients, "no pixels"));
    ArrayView elsewhere = a.view();
    elsewhere.device = {2, 1};
    CHECK(refused(a.view(), elsewhere, CamSource::gradients, "cuda:1"));

    CamOptions options;
    options.method = "gradcamm";
    CHECK(refused(a.view(), a.view(), CamSource::gradients, "accepted: 'gradcam'", options));
    options = {};
    options.layout.spatial = 4;
    CHECK(refused(a.view(), a.view(), CamSource::gradients, "spatial is 4", options));
    for (const Size size : {Size{0, 4}, Size{4, -1}, Size{int64_t{1} << 31, 4}, Size{INT64_MAX, INT64_MAX}}) {
        options = {};
        options.size = size;
        CHECK(refused(a.view(), a.view(), CamSource::gradients, "size is (", options));
    }
    options.size = Size{(int64_t{1} << 31) - 1, (int64_t{1} << 31) - 1};
    CHECK(refused(a.view(), a.view(), CamSource::gradients, "GB of memory", options));
}

TEST_CASE(expanded_arrays_of_absurd_extent_are_refused) {
    const Array one(shape_of({1, 1, 1, 1}), DType::float32);
    ArrayView huge = one.view();
    const int64_t extents[] = {1, int64_t{1} << 20, int64_t{1} << 20, int64_t{1} << 20};
    for (int axis = 0; axis < 4; ++axis) {
        huge.shape.extent[axis] = extents[axis];
        huge.strides[axis] = 0;
    }
    CamOptions options;
    options.size = Size{1, 1};
    CHECK(refused(huge, huge, CamSource::gradients, "elements", options));
}

TEST_CASE(an_empty_batch_has_an_empty_result) {
    const Array a(shape_of({0, 3, 4, 5}), DType::float32);
    CamCall call = plan_cam(a.view(), a.view(), CamSource::gradients, {});
    CHECK(call.result.count() == 0 && call.result.rank == 3);
    call.out = Array(call.result, DType::float32).view();
    cpu::cam(call);
}

TEST_CASE(overlay_and_resize_refuse_what_does_not_fit) {
    const Array map(shape_of({4, 5}), DType::float32), batch(shape_of({2, 4, 5}), DType::float32),
        image(shape_of({8, 9, 3}), DType::uint8), odd(shape_of({8, 9, 4}), DType::uint8),
        line(shape_of({4}), DType::float32);
    uint8_t palette[256][3] = {};
    const auto overlay = [&](const Array& picture, const Array& heatmap, double alpha) {
        return refusal([&] { plan_overlay(picture.view(), heatmap.view(), palette, alpha, Normalize::none); });
    };
    CHECK(overlay(image, map, 0.5).empty());
    CHECK(overlay(odd, map, 0.5).find("image has shape (8, 9, 4)") != std::string::npos);
    CHECK(overlay(image, batch, 0.5).find("batched heatmap") != std::string::npos);
    CHECK(overlay(image, map, 1.5).find("alpha is 1.5") != std::string::npos);
    CHECK(overlay(image, map, std::nan("")).find("alpha is") != std::string::npos);
    CHECK(overlay(image, line, 0.5).find("heatmap has shape (4,)") != std::string::npos);
    CHECK(refusal([&] { plan_resize(line.view(), {2, 2}, Normalize::none); }).find("heatmap") != std::string::npos);
    CHECK(refusal([&] { plan_resize(map.view(), {2, 0}, Normalize::none); }).find("size is (2, 0)") !=
          std::string::npos);
    CHECK(refusal([&] { plan_colorize(image.view(), palette, {}, Normalize::none); }).find("uint8") !=
          std::string::npos);
}
