// box_sums: see reference.py, which defines it.
#include "arrays.hpp"
#include "boxes.hpp"
#include "scanning.hpp"
#include "targets.hpp"

namespace camrt {
namespace {

// One block of `width` features of one image: cells (h, w, F) from its first feature on, out (P, F) likewise.
template <class T>
CAMRT_INLINE void block_body(Grid grid, const T* cells, Index features, Index width, const std::int64_t* boxes,
                             Index count, bool table_wanted, double* block, double* table, T* out) {
    const Index lanes = lanes_for(width);
    copy_block(cells, grid.cells(), features, width, lanes, block);
    // Through a table, one NaN or infinity would reach boxes that do not hold it.
    const bool use_table = table_wanted && !any_not_finite(block, grid.cells() * lanes);
    if (use_table) fill_table(grid, block, lanes, table);
    for (Index p = 0; p < count; ++p, out += features) {
        double sum[kBlock];
        sum_box(grid, Box(boxes + 4 * p), block, use_table ? table : nullptr, lanes, sum);
        for (Index j = 0; j < width; ++j) out[j] = static_cast<T>(sum[j]);
    }
}

CAMRT_CLONES void sum_block(Grid grid, const float* cells, Index features, Index width,
                            const std::int64_t* boxes, Index count, bool table_wanted, double* block,
                            double* table, float* out) {
    block_body(grid, cells, features, width, boxes, count, table_wanted, block, table, out);
}

CAMRT_CLONES void sum_block(Grid grid, const double* cells, Index features, Index width,
                            const std::int64_t* boxes, Index count, bool table_wanted, double* block,
                            double* table, double* out) {
    block_body(grid, cells, features, width, boxes, count, table_wanted, block, table, out);
}

template <class T>
void box_sums(const Array<T>& cells, const Indices& boxes, Array<T>& out, Index threads) {
    require(cells.ndim() == 4 && out.ndim() == 3, "wrong number of axes");
    const Grid grid{cells.shape(1), cells.shape(2)};
    const Index images = cells.shape(0), features = cells.shape(3), count = out.shape(1);
    require(out.shape(0) == images && out.shape(2) == features, "out and cells differ in shape");
    require(boxes_within(boxes, grid.rows, grid.columns) && boxes.shape(0) == count, "boxes out of range");
    const T* from = cells.data();
    T* to = out.mutable_data();
    const std::int64_t* box = boxes.data();
    const py::gil_scoped_release release;
    const bool table_wanted = table_pays(grid, box, count);
    const Index blocks = (features + kBlock - 1) / kBlock;
    const Index work = images * features * (2 * grid.cells() + 4 * count);
    parallel_for(images * blocks, useful_threads(threads, work), [&](Index begin, Index end) {
        const Scratch<double> block(grid.cells() * kBlock);
        const Scratch<double> table(grid.corners() * kBlock);
        for (Index i = begin; i < end; ++i) {
            const Index n = i / blocks;
            const Index first = i % blocks * kBlock;
            sum_block(grid, from + n * grid.cells() * features + first, features,
                      std::min(kBlock, features - first), box, count, table_wanted, block.get(), table.get(),
                      to + n * count * features + first);
        }
    });
}

template <class T>
void define(py::module_& module) {
    module.def("box_sums", &box_sums<T>, py::arg("cells").noconvert(), py::arg("boxes").noconvert(),
               py::arg("out").noconvert(), py::arg("threads"));
}

}  // namespace
}  // namespace camrt

void register_box_sums(pybind11::module_& module) {
    camrt::define<float>(module);
    camrt::define<double>(module);
}
