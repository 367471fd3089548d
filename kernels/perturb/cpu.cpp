// perturb: see reference.py, which defines it.
#include "arrays.hpp"
#include "targets.hpp"

namespace camrt {
namespace {

template <class T>
CAMRT_INLINE void mix_body(const std::int64_t* CAMRT_RESTRICT ranks, std::int64_t count, const T* CAMRT_RESTRICT first,
                           const T* CAMRT_RESTRICT rest, Index channels, Index pixels, T* CAMRT_RESTRICT out) {
    for (Index c = 0; c < channels; ++c, first += pixels, rest += pixels, out += pixels) {
        for (Index i = 0; i < pixels; ++i) out[i] = ranks[i] < count ? first[i] : rest[i];
    }
}

CAMRT_CLONES void mix(const std::int64_t* ranks, std::int64_t count, const float* first, const float* rest,
                      Index channels, Index pixels, float* out) {
    mix_body(ranks, count, first, rest, channels, pixels, out);
}

CAMRT_CLONES void mix(const std::int64_t* ranks, std::int64_t count, const double* first, const double* rest,
                      Index channels, Index pixels, double* out) {
    mix_body(ranks, count, first, rest, channels, pixels, out);
}

template <class T>
void perturb(const Array<T>& sheets, const Indices& ranks, const Indices& ranking, const Indices& count,
             const Indices& first, const Indices& rest, Array<T>& out, Index threads) {
    require(sheets.ndim() == 4 && ranks.ndim() == 2 && out.ndim() == 4, "wrong number of axes");
    const Index batch = out.shape(0);
    const Index channels = sheets.shape(1);
    const Index pixels = sheets.shape(2) * sheets.shape(3);
    for (int axis = 1; axis < 4; ++axis) {
        require(out.shape(axis) == sheets.shape(axis), "out and sheets differ in shape");
    }
    require(ranks.shape(1) == pixels, "a ranking must rank every pixel");
    require(ranking.size() == batch && count.size() == batch && first.size() == batch && rest.size() == batch,
            "ranking, count, first and rest must be as long as out");
    require(within(ranking, ranks.shape(0)) && within(first, sheets.shape(0)) && within(rest, sheets.shape(0)),
            "index out of range");
    const T* from = sheets.data();
    const std::int64_t* orders = ranks.data();
    const std::int64_t *order = ranking.data(), *counts = count.data(), *one = first.data(), *other = rest.data();
    T* to = out.mutable_data();
    const py::gil_scoped_release release;
    const Index size = channels * pixels;
    parallel_for(batch, useful_threads(threads, batch * size), [&](Index begin, Index end) {
        for (Index b = begin; b < end; ++b) {
            mix(orders + order[b] * pixels, counts[b], from + one[b] * size, from + other[b] * size, channels, pixels,
                to + b * size);
        }
    });
}

template <class T>
void define(py::module_& module) {
    module.def("perturb", &perturb<T>, py::arg("sheets").noconvert(), py::arg("ranks").noconvert(),
               py::arg("ranking").noconvert(), py::arg("count").noconvert(), py::arg("first").noconvert(),
               py::arg("rest").noconvert(), py::arg("out").noconvert(), py::arg("threads"));
}

}  // namespace
}  // namespace camrt

void register_perturb(pybind11::module_& module) {
    camrt::define<float>(module);
    camrt::define<double>(module);
}
