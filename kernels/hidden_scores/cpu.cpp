// hidden_scores: see reference.py, which defines it.
#include <vector>

#include "arrays.hpp"
#include "exponential.hpp"
#include "scanning.hpp"
#include "targets.hpp"

namespace camrt {
namespace {

// In the order of reference.py's FUNCTIONS.
enum class Function : Index { relu, relu6, hard_swish, silu, count };

// NaN stays NaN: comparisons with it are false.
template <class T>
CAMRT_INLINE T between(T value, T low, T high) {
    value = value < low ? low : value;
    return value > high ? high : value;
}

// One altered input (F,) behind the function: hidden[f] = function(base[f] - factor * row[f]).
template <class T>
CAMRT_INLINE void activate_body(const T* CAMRT_RESTRICT base, const T* CAMRT_RESTRICT row, T factor,
                                Index features, Function function, T* CAMRT_RESTRICT hidden) {
    constexpr T kZero = 0, kOne = 1, kHalf = T(0.5), kSix = 6, kSixth = kOne / kSix;
    switch (function) {
        case Function::relu:
            for (Index f = 0; f < features; ++f) {
                const T z = base[f] - factor * row[f];
                hidden[f] = z < kZero ? kZero : z;
            }
            break;
        case Function::relu6:
            for (Index f = 0; f < features; ++f) hidden[f] = between(base[f] - factor * row[f], kZero, kSix);
            break;
        case Function::hard_swish:
            for (Index f = 0; f < features; ++f) {
                const T z = base[f] - factor * row[f];
                hidden[f] = z * between(z * kSixth + kHalf, kZero, kOne);
            }
            break;
        default:
            for (Index f = 0; f < features; ++f) {
                const T z = base[f] - factor * row[f];
                hidden[f] = z / (kOne + exponential(-z));
            }
    }
}

// The scores (T,) of one altered input; hidden is room for F numbers.
template <class T>
CAMRT_INLINE void score_body(const T* base, const T* row, T factor, const T* rows, Index targets, Index features,
                             Function function, T* hidden, T* out) {
    activate_body(base, row, factor, features, function, hidden);
    for (Index t = 0; t < targets; ++t) out[t] = inner_product(rows + t * features, hidden, features);
}

CAMRT_CLONES void score(const float* base, const float* row, float factor, const float* rows, Index targets,
                        Index features, Function function, float* hidden, float* out) {
    score_body(base, row, factor, rows, targets, features, function, hidden, out);
}

CAMRT_CLONES void score(const double* base, const double* row, double factor, const double* rows, Index targets,
                        Index features, Function function, double* hidden, double* out) {
    score_body(base, row, factor, rows, targets, features, function, hidden, out);
}

template <class T>
void hidden_scores(const Array<T>& base, const Array<T>& weight, const Array<T>& factor,
                   const Indices& batch_index, const Indices& row, const Array<T>& rows, Index function,
                   Array<T>& out, Index threads) {
    require(base.ndim() == 2 && weight.ndim() == 2 && factor.ndim() == 1 && rows.ndim() == 3 && out.ndim() == 2,
            "wrong number of axes");
    const Index images = base.shape(0), features = base.shape(1), targets = rows.shape(1);
    const Index batch = factor.shape(0);
    require(weight.shape(1) == features && rows.shape(0) == images && rows.shape(2) == features,
            "weight or rows do not match base");
    require(out.shape(0) == batch && out.shape(1) == targets, "out has a wrong shape");
    require(batch_index.size() == batch && row.size() == batch, "batch_index and row must be as long as factor");
    require(within(batch_index, images) && within(row, weight.shape(0)), "index out of range");
    require(function >= 0 && function < static_cast<Index>(Function::count), "unknown function");
    const T* whole = base.data();
    const T* taken = weight.data();
    const T* factors = factor.data();
    const T* last = rows.data();
    T* to = out.mutable_data();
    const std::int64_t* index = batch_index.data();
    const std::int64_t* chosen = row.data();
    const py::gil_scoped_release release;
    parallel_for(batch, useful_threads(threads, batch * features * (2 + targets)), [&](Index begin, Index end) {
        std::vector<T> hidden(static_cast<std::size_t>(features));
        for (Index b = begin; b < end; ++b) {
            score(whole + index[b] * features, taken + chosen[b] * features, factors[b],
                  last + index[b] * targets * features, targets, features, static_cast<Function>(function),
                  hidden.data(), to + b * targets);
        }
    });
}

template <class T>
void define(py::module_& module) {
    module.def("hidden_scores", &hidden_scores<T>, py::arg("base").noconvert(), py::arg("weight").noconvert(),
               py::arg("factor").noconvert(), py::arg("batch_index").noconvert(), py::arg("row").noconvert(),
               py::arg("rows").noconvert(), py::arg("function"), py::arg("out").noconvert(), py::arg("threads"));
}

}  // namespace
}  // namespace camrt

void register_hidden_scores(pybind11::module_& module) {
    camrt::define<float>(module);
    camrt::define<double>(module);
}
