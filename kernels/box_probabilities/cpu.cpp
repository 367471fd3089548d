// box_probabilities and box_probabilities_pair: see reference.py, which defines them, and README.md for the
// two routes to the denominator of a softmax.
#include "arrays.hpp"
#include "box_probabilities/problem.hpp"
#include "boxes.hpp"
#include "exponential.hpp"
#include "scanning.hpp"
#include "targets.hpp"

namespace camrt {
namespace {

constexpr Index kProductArea = 9;       // boxes up to this area may take the route by products,
constexpr double kProductBound = 30.0;  // when no class can change by more than this

// Decides the route of boxes first..last-1 of image n and prepares their shifts and totals.
template <class T>
CAMRT_INLINE void choose_routes(const Problem<T>& p, Index n, Index first, Index last, Workspace<T>& space) {
    const T* cells = p.contributions + n * p.grid.cells() * p.classes;
    double* peaks = space.peaks.get();
    for (Index cell = 0; cell < p.grid.cells(); ++cell) {
        const Range<T> range = range_of(cells + cell * p.classes, p.classes);
        peaks[cell] = static_cast<double>(range.high > -range.low ? range.high : -range.low);
    }
    for (Index b = first; b < last; ++b) {
        const Box box(p.box + 4 * b);
        double bound = 0;
        for (Index r = box.r0; r < box.r1; ++r) {
            for (Index c = box.c0; c < box.c1; ++c) bound += peaks[r * p.grid.columns + c];
        }
        space.product[static_cast<std::size_t>(b)] = box.area() <= kProductArea && bound <= kProductBound;
    }
    for (int d = 0; d < p.directions; ++d) {
        const double greatest = static_cast<double>(range_of(p.direction[d].logits + n * p.classes, p.classes).high);
        space.greatest[d] = greatest;
        for (Index b = first; b < last; ++b) {
            space.shift[d].get()[b] = space.product[static_cast<std::size_t>(b)] ? greatest : kMinusInfinity;
            space.total[d].get()[b] = 0;
        }
    }
}

// The route by products, for classes start..start+width-1: adds to the totals.
template <class T>
CAMRT_INLINE void add_products(const Problem<T>& p, Index n, Index first, Index last, Index start, Index width,
                               Workspace<T>& space) {
    const Index cells = p.grid.cells();
    const T* CAMRT_RESTRICT from = p.contributions + n * cells * p.classes + start;
    const T sign = static_cast<T>(p.direction[0].sign);
    T* CAMRT_RESTRICT powers = space.powers[0].get();
    T* CAMRT_RESTRICT inverse = space.powers[1].get();
    for (Index cell = 0; cell < cells; ++cell, from += p.classes) {
        T* CAMRT_RESTRICT row = powers + cell * kBlock;
        if (width == kBlock) {
            for (Index j = 0; j < kBlock; ++j) row[j] = exponential(sign * from[j]);
        } else {
            for (Index j = 0; j < width; ++j) row[j] = exponential(sign * from[j]);
            for (Index j = width; j < kBlock; ++j) row[j] = 1;
        }
        if (p.directions == 2) {
            for (Index j = 0; j < kBlock; ++j) inverse[cell * kBlock + j] = 1 / row[j];
        }
    }
    for (int d = 0; d < p.directions; ++d) {
        const T* CAMRT_RESTRICT logits = p.direction[d].logits + n * p.classes + start;
        const T* CAMRT_RESTRICT factors = space.powers[d].get();
        double shifted[kBlock];
        T whole[kBlock];
        for (Index j = 0; j < kBlock; ++j) shifted[j] = kMinusInfinity;
        for (Index j = 0; j < width; ++j) shifted[j] = static_cast<double>(logits[j]) - space.greatest[d];
        for (Index j = 0; j < kBlock; ++j) whole[j] = static_cast<T>(exponential(shifted[j]));
        double* total = space.total[d].get();
        for (Index b = first; b < last; ++b) {
            if (!space.product[static_cast<std::size_t>(b)]) continue;
            const Box box(p.box + 4 * b);
            T product[kBlock];
            for (Index j = 0; j < kBlock; ++j) product[j] = whole[j];
            for (Index r = box.r0; r < box.r1; ++r) {
                for (Index c = box.c0; c < box.c1; ++c) {
                    const T* CAMRT_RESTRICT factor = factors + (r * p.grid.columns + c) * kBlock;
                    for (Index j = 0; j < kBlock; ++j) product[j] *= factor[j];
                }
            }
            total[b] += sum_row(product);
        }
    }
}

// The route by sums, for classes start..start+width-1: shifts by the greatest altered logit so far, and adds to
// the totals, rescaled when the shift grows.
template <class T>
CAMRT_INLINE void add_sums(const Problem<T>& p, Index n, Index first, Index last, Index start, Index width,
                           Workspace<T>& space) {
    const Index cells = p.grid.cells();
    double* block = space.block.get();
    copy_block(p.contributions + n * cells * p.classes + start, cells, p.classes, width, kBlock, block);
    // Through a table, one NaN or infinity would reach boxes that do not hold it.
    const bool use_table = p.table_pays && !any_not_finite(block, cells * kBlock);
    if (use_table) fill_table(p.grid, block, kBlock, space.table.get());
    for (Index b = first; b < last; ++b) {
        if (space.product[static_cast<std::size_t>(b)]) continue;
        double sum[kBlock], altered[kBlock], powers[kBlock];
        sum_box(p.grid, Box(p.box + 4 * b), block, use_table ? space.table.get() : nullptr, kBlock, sum);
        for (int d = 0; d < p.directions; ++d) {
            const T* CAMRT_RESTRICT logits = p.direction[d].logits + n * p.classes + start;
            const double sign = p.direction[d].sign;
            for (Index j = 0; j < width; ++j) altered[j] = static_cast<double>(logits[j]) + sign * sum[j];
            for (Index j = width; j < kBlock; ++j) altered[j] = kMinusInfinity;
            double& shift = space.shift[d].get()[b];
            double& total = space.total[d].get()[b];
            const double greatest = range_of(altered, kBlock).high;
            const double grown = greatest > shift ? greatest : shift;
            const double from = grown == kMinusInfinity ? 0 : grown;  // nothing to shift by yet
            for (Index j = 0; j < kBlock; ++j) powers[j] = exponential(altered[j] - from);
            total = total * exponential(shift - from) + sum_row(powers);
            shift = grown;
        }
    }
}

// Writes the probabilities of targets start..start+width-1: exp(altered logit - shift) / total.
template <class T>
CAMRT_INLINE void write_targets(const Problem<T>& p, Index n, Index first, Index last, Index start, Index width,
                                Workspace<T>& space) {
    const Index cells = p.grid.cells();
    const Index lanes = lanes_for(width);
    const std::int64_t* target = p.target + n * p.targets + start;
    const T* from = p.contributions + n * cells * p.classes;
    double* block = space.block.get();
    for (Index cell = 0; cell < cells; ++cell) {
        for (Index j = 0; j < lanes; ++j) {
            block[cell * lanes + j] = j < width ? static_cast<double>(from[cell * p.classes + target[j]]) : 0;
        }
    }
    const bool use_table = p.table_pays && !any_not_finite(block, cells * lanes);
    if (use_table) fill_table(p.grid, block, lanes, space.table.get());
    double logits[2][kBlock] = {};
    for (int d = 0; d < p.directions; ++d) {
        const T* all = p.direction[d].logits + n * p.classes;
        for (Index j = 0; j < width; ++j) logits[d][j] = static_cast<double>(all[target[j]]);
    }
    for (Index b = first; b < last; ++b) {
        double sum[kBlock], powers[kBlock];
        sum_box(p.grid, Box(p.box + 4 * b), block, use_table ? space.table.get() : nullptr, lanes, sum);
        for (int d = 0; d < p.directions; ++d) {
            const double sign = p.direction[d].sign;
            const double shift = space.shift[d].get()[b];
            const double total = space.total[d].get()[b];
            for (Index j = 0; j < lanes; ++j) powers[j] = exponential((logits[d][j] + sign * sum[j]) - shift);
            T* out = p.direction[d].out + (n * p.boxes + b) * p.targets + start;
            for (Index j = 0; j < width; ++j) {
                const double probability = powers[j] / total;
                out[j] = static_cast<T>(probability > 1 ? 1.0 : probability);  // past 1 by round-off only
            }
        }
    }
}

template <class T>
CAMRT_INLINE void answer_body(const Problem<T>& p, Index n, Index first, Index last, Workspace<T>& space) {
    choose_routes(p, n, first, last, space);
    Index products = 0;
    for (Index b = first; b < last; ++b) products += space.product[static_cast<std::size_t>(b)];
    for (Index start = 0; start < p.classes; start += kBlock) {
        const Index width = std::min(kBlock, p.classes - start);
        if (products > 0) add_products(p, n, first, last, start, width, space);
        if (products < last - first) add_sums(p, n, first, last, start, width, space);
    }
    for (Index start = 0; start < p.targets; start += kBlock) {
        write_targets(p, n, first, last, start, std::min(kBlock, p.targets - start), space);
    }
}

CAMRT_CLONES void answer(const Problem<float>& p, Index n, Index first, Index last, Workspace<float>& space) {
    answer_body(p, n, first, last, space);
}

CAMRT_CLONES void answer(const Problem<double>& p, Index n, Index first, Index last, Workspace<double>& space) {
    answer_body(p, n, first, last, space);
}

// Shares out the images, and the boxes of each when there are fewer images than threads.
template <class T>
void solve(const Problem<T>& p, Index threads) {
    if (p.boxes == 0 || p.targets == 0) return;
    const Index work = p.images * p.classes * (4 * p.grid.cells() + 4 * p.boxes);
    threads = useful_threads(threads, work);
    const Index parts = p.images >= threads ? 1 : std::min(p.boxes, threads);
    parallel_for(p.images * parts, threads, [&](Index begin, Index end) {
        Workspace<T> space(p);
        for (Index i = begin; i < end; ++i) {
            const Index part = i % parts;
            answer(p, i / parts, part * p.boxes / parts, (part + 1) * p.boxes / parts, space);
        }
    });
}

template <class T>
Problem<T> problem_of(const Array<T>& contributions, const Indices& boxes, const Indices& targets) {
    require(contributions.ndim() == 4 && targets.ndim() == 2, "wrong number of axes");
    const Grid grid{contributions.shape(1), contributions.shape(2)};
    const Index classes = contributions.shape(3);
    require(classes > 0, "no classes");
    require(boxes_within(boxes, grid.rows, grid.columns), "boxes out of range");
    require(targets.shape(0) == contributions.shape(0) && within(targets, classes), "targets out of range");
    return {contributions.shape(0), classes,        boxes.shape(0), targets.shape(1), grid,
            contributions.data(),   boxes.data(),   targets.data(), 0,                {},
            table_pays(grid, boxes.data(), boxes.shape(0))};
}

template <class T>
void add_direction(Problem<T>& p, double sign, const Array<T>& logits, Array<T>& out) {
    require(logits.ndim() == 2 && logits.shape(0) == p.images && logits.shape(1) == p.classes,
            "logits have the wrong shape");
    require(out.ndim() == 3 && out.shape(0) == p.images && out.shape(1) == p.boxes &&
                out.shape(2) == p.targets,
            "out has the wrong shape");
    p.direction[p.directions++] = {sign, logits.data(), out.mutable_data()};
}

template <class T>
void box_probabilities(const Array<T>& contributions, const Array<T>& logits, const Indices& boxes,
                       const Indices& targets, int sign, Array<T>& out, Index threads) {
    Problem<T> p = problem_of(contributions, boxes, targets);
    add_direction(p, sign, logits, out);
    const py::gil_scoped_release release;
    solve(p, threads);
}

template <class T>
void box_probabilities_pair(const Array<T>& contributions, const Array<T>& logits_delete,
                            const Array<T>& logits_keep, const Indices& boxes, const Indices& targets,
                            Array<T>& deleted, Array<T>& kept, Index threads) {
    Problem<T> p = problem_of(contributions, boxes, targets);
    add_direction(p, -1.0, logits_delete, deleted);
    add_direction(p, +1.0, logits_keep, kept);
    const py::gil_scoped_release release;
    solve(p, threads);
}

template <class T>
void define(py::module_& module) {
    module.def("box_probabilities", &box_probabilities<T>, py::arg("contributions").noconvert(),
               py::arg("logits").noconvert(), py::arg("boxes").noconvert(), py::arg("targets").noconvert(),
               py::arg("sign"), py::arg("out").noconvert(), py::arg("threads"));
    module.def("box_probabilities_pair", &box_probabilities_pair<T>, py::arg("contributions").noconvert(),
               py::arg("logits_delete").noconvert(), py::arg("logits_keep").noconvert(),
               py::arg("boxes").noconvert(), py::arg("targets").noconvert(), py::arg("deleted").noconvert(),
               py::arg("kept").noconvert(), py::arg("threads"));
}

}  // namespace
}  // namespace camrt

void register_box_probabilities(pybind11::module_& module) {
    camrt::define<float>(module);
    camrt::define<double>(module);
}
