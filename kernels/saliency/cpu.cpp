// saliency: see reference.py, which defines it.
#include <bit>
#include <cmath>
#include <type_traits>

#include "arrays.hpp"
#include "resampling.hpp"
#include "scanning.hpp"

namespace camrt {
namespace {

enum Flag : std::uint8_t { kOk = 0, kConstant = 1, kNothingPositive = 2, kNotFinite = 3 };

struct Options {
    bool library, minmax, relu;

    bool by_max() const { return !library && !minmax; }
};

constexpr double kLibraryEpsilon = 1e-7;

template <class T>
CAMRT_INLINE Flag flag_of(Options options, const T* raw, Index cells) {
    if (any_not_finite(raw, cells)) return kNotFinite;
    const Range<T> range = range_of(raw, cells);
    if (!std::isfinite(range.high - range.low)) return kNotFinite;
    if (range.low == range.high) return kConstant;
    if ((options.relu || options.by_max()) && range.high <= 0) return kNothingPositive;
    if (!options.relu && options.by_max() && !std::isfinite(range.low / range.high)) return kNotFinite;
    return kOk;
}

// One map from h × w to height × width; `scratch` holds h × w + h × width numbers. Leaves `out` alone when the
// flag is not kOk.
template <class T>
CAMRT_INLINE Flag map_body(const Upsampling<T>& up, Options options, const T* raw, T* scratch, T* out) {
    const Index cells = up.h * up.w;
    const Flag flag = flag_of(options, raw, cells);
    if (flag != kOk) return flag;

    T* low = scratch;
    T* stretched = low + cells;
    for (Index i = 0; i < cells; ++i) low[i] = options.relu && raw[i] < 0 ? T{0} : raw[i];
    const Range<T> range = range_of(low, cells);
    const T base = options.by_max() ? T{0} : range.low;
    const T divisor = range.high - base + (options.library ? static_cast<T>(kLibraryEpsilon) : T{0});
    for (Index i = 0; i < cells; ++i) low[i] = (low[i] - base) / divisor;
    stretch_rows(up, low, stretched);

    const Index width = up.width;
    for (Index i = 0; i < up.height; ++i) {
        T* CAMRT_RESTRICT row = out + i * width;
        blend_row(up, stretched, i, row);
        if (!options.library) {
            for (Index j = 0; j < width; ++j) row[j] = row[j] < 0 ? T{0} : (row[j] > 1 ? T{1} : row[j]);
        }
    }
    if (options.library) {
        const Index pixels = up.height * width;
        const Range<T> again = range_of(out, pixels);
        const T least = again.low;
        const T most = again.high - least + static_cast<T>(kLibraryEpsilon);
        for (Index i = 0; i < pixels; ++i) out[i] = (out[i] - least) / most;
    }
    return kOk;
}

CAMRT_CLONES Flag map_one(const Upsampling<float>& up, Options options, const float* raw, float* scratch,
                          float* out) {
    return map_body(up, options, raw, scratch, out);
}

CAMRT_CLONES Flag map_one(const Upsampling<double>& up, Options options, const double* raw, double* scratch,
                          double* out) {
    return map_body(up, options, raw, scratch, out);
}

// Numbers in [0, 1] as binary16, each rounded to the nearest, ties to even.
CAMRT_CLONES void to_half(const float* CAMRT_RESTRICT from, Index count, std::uint16_t* CAMRT_RESTRICT to) {
    constexpr float kLeastNormal = 6.103515625e-05f;  // 2^-14
    constexpr std::uint32_t kHalf = 0x3f000000u;      // 0.5, whose last place is binary16's smallest number
    constexpr std::uint32_t kBias = 112u << 23;       // between the exponents of the two types
    for (Index i = 0; i < count; ++i) {
        const std::uint32_t bits = std::bit_cast<std::uint32_t>(from[i]);
        const std::uint32_t normal = (bits - kBias + 0xfffu + ((bits >> 13) & 1u)) >> 13;
        const std::uint32_t small = std::bit_cast<std::uint32_t>(from[i] + 0.5f) - kHalf;
        to[i] = static_cast<std::uint16_t>(from[i] < kLeastNormal ? small : normal);
    }
}

// Out is T, or std::uint16_t for maps in binary16.
template <class T, class Out>
void saliency(const Array<T>& raw, Array<Out>& maps, Array<std::uint8_t>& flags, bool library, bool minmax,
              bool relu, bool align_corners, Index threads) {
    require(raw.ndim() == 3 && maps.ndim() == 3, "wrong number of axes");
    const Index count = raw.shape(0);
    require(raw.shape(1) > 0 && raw.shape(2) > 0, "raw without cells");
    require(maps.shape(0) == count && flags.size() == count, "raw, maps and flags differ in length");
    const Options options{library, minmax, relu};
    const T* from = raw.data();
    constexpr bool kInHalf = !std::is_same_v<T, Out>;
    Out* to = maps.mutable_data();
    std::uint8_t* flag = flags.mutable_data();
    const py::gil_scoped_release release;
    const Upsampling<T> up(raw.shape(1), raw.shape(2), maps.shape(1), maps.shape(2), align_corners);
    const Index cells = up.h * up.w;
    const Index pixels = up.height * up.width;
    parallel_for(count, useful_threads(threads, count * pixels), [&](Index begin, Index end) {
        const Index held = cells + up.h * up.width;
        const Scratch<T> scratch(held + (kInHalf ? pixels : 0));
        for (Index m = begin; m < end; ++m) {
            Out* result = to + m * pixels;
            if constexpr (kInHalf) {
                T* wide = scratch.get() + held;
                flag[m] = map_one(up, options, from + m * cells, scratch.get(), wide);
                if (flag[m] == kOk) to_half(wide, pixels, result);
            } else {
                flag[m] = map_one(up, options, from + m * cells, scratch.get(), result);
            }
            if (flag[m] != kOk) std::fill_n(result, pixels, Out{0});
        }
    });
}

template <class T, class Out>
void define(py::module_& module) {
    module.def("saliency", &saliency<T, Out>, py::arg("raw").noconvert(), py::arg("maps").noconvert(),
               py::arg("flags").noconvert(), py::arg("library"), py::arg("minmax"), py::arg("relu"),
               py::arg("align_corners"), py::arg("threads"));
}

}  // namespace
}  // namespace camrt

void register_saliency(pybind11::module_& module) {
    camrt::define<float, float>(module);
    camrt::define<double, double>(module);
    camrt::define<float, std::uint16_t>(module);
}
